"""Tasks of a `dialog` stage: plan the games, play them, keep the good ones."""

from prefect.artifacts import create_table_artifact

from model_ops import grouping, stages
from model_ops.curation import dialog as curation
from model_ops.prompts import load_prompts
from model_ops.stages import StagePlace
from schemas.config import DialogStage
from schemas.manifest import Manifest
from schemas.store import Store
from tasks.progress import progress
from tasks.step import noted, step


@step(name="plan games", task_run_name="plan games, round {place.round}")
def plan_games(place: StagePlace, images: Manifest) -> Manifest:
    """Group the images into games."""
    store, config, stage = Store(place.config.root), place.config, place.of(DialogStage)
    prefix = place.prefix("games")
    with progress(f"image embeddings of round {place.round}", "progress-embeddings") as shown:
        return noted(store, prefix, lambda: grouping.plan_games(
            store, images, stage.grouping, stage.games, place.seed, prefix, config.shard_size,
            config.engine, shown))


@step(name="play games", task_run_name="play games, round {place.round}")
def play_games(place: StagePlace, games: Manifest, images: Manifest, model: Manifest) -> Manifest:
    """Let the model play against itself; transcripts of all games."""
    store, prefix = Store(place.config.root), place.prefix("transcripts")
    with progress(f"games of round {place.round}", "progress-games") as shown:
        return noted(store, prefix,
                     lambda: stages.play(store, place, games, images, model, shown))


@step(name="curate games", task_run_name="curate games, round {place.round}")
def curate_games(place: StagePlace, transcripts: Manifest, images: Manifest) -> Manifest:
    """Turn the games worth learning from into training rows; the funnel says why others went."""
    store, config, prefix = Store(place.config.root), place.config, place.prefix("train")
    stage = place.of(DialogStage)
    manifest = noted(store, prefix, lambda: curation.curate(
        store, transcripts, images, stage.curation, load_prompts(config.model.prompts), prefix,
        config.shard_size, place.seed, stage.play.looks))
    create_table_artifact(
        [{"step": name, "count": count} for name, count in manifest.funnel.items()],
        key="funnel", description=f"Round {place.round}, {place.name}: what became of the games")
    return manifest
