"""Tasks of a `calibrated` stage: search for replies, weigh them, keep the preference pairs."""

from prefect.artifacts import create_table_artifact

from model_ops import calibrated
from model_ops.stages import StagePlace
from schemas.manifest import Manifest
from schemas.store import Store
from tasks.progress import progress
from tasks.step import noted, step


@step(name="plan prompts", task_run_name="plan prompts, round {place.round}")
def plan_prompts(place: StagePlace, images: Manifest) -> Manifest:
    """Decide what is asked about each image."""
    store = Store(place.config.root)
    return noted(store, place.prefix("prompts"),
                 lambda: calibrated.plan_prompts(store, place, images))


@step(name="search replies", task_run_name="search replies, round {place.round}")
def search_replies(place: StagePlace, prompts: Manifest, images: Manifest, model: Manifest
                   ) -> Manifest:
    """Search for replies sentence by sentence; every node with its scores."""
    store = Store(place.config.root)
    with progress(f"searches of round {place.round}", "progress-searches") as shown:
        return noted(store, place.prefix("searches"),
                     lambda: calibrated.search(store, place, prompts, images, model, shown))


@step(name="judge nodes", task_run_name="judge nodes, round {place.round}")
def judge_nodes(place: StagePlace, searches: Manifest) -> Manifest:
    """Rank the nodes of every search among their siblings."""
    store = Store(place.config.root)
    return noted(store, place.prefix("nodes"),
                 lambda: calibrated.judge_nodes(store, place, searches))


@step(name="choose pairs", task_run_name="choose pairs, round {place.round}")
def choose_pairs(place: StagePlace, searches: Manifest, images: Manifest) -> Manifest:
    """Take the best and the worst finished reply of every search; the funnel says what went."""
    store = Store(place.config.root)
    manifest = noted(store, place.prefix("train"),
                     lambda: calibrated.choose_pairs(store, place, searches, images))
    create_table_artifact(
        [{"step": name, "count": count} for name, count in manifest.funnel.items()],
        key="funnel",
        description=f"Round {place.round}, {place.name}: what became of the searches")
    return manifest
