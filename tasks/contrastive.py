"""Tasks of a `contrastive` stage: ask odd questions, imagine replies, keep the good pairs."""

from prefect.artifacts import create_table_artifact

from model_ops import contrastive
from model_ops.stages import StagePlace
from schemas.manifest import Manifest
from schemas.store import Store
from tasks.progress import progress
from tasks.step import noted, step


@step(name="plan questions", task_run_name="plan questions, round {place.round}")
def plan_questions(place: StagePlace, images: Manifest) -> Manifest:
    """Decide which kinds of questions are asked about which images."""
    store = Store(place.config.root)
    return noted(store, place.prefix("slots"),
                 lambda: contrastive.plan_questions(store, place, images))


@step(name="ask questions", task_run_name="ask questions, round {place.round}")
def ask_questions(place: StagePlace, slots: Manifest, images: Manifest, model: Manifest
                  ) -> Manifest:
    """Let the model write the questions and check their kinds."""
    store = Store(place.config.root)
    with progress(f"questions of round {place.round}", "progress-questions") as shown:
        return noted(store, place.prefix("asked"),
                     lambda: contrastive.ask(store, place, slots, images, model, shown))


@step(name="select questions", task_run_name="select questions, round {place.round}")
def select_questions(place: StagePlace, asked: Manifest) -> Manifest:
    """Leave repeats out."""
    store = Store(place.config.root)
    return noted(store, place.prefix("questions"),
                 lambda: contrastive.select(store, place, asked))


@step(name="imagine replies", task_run_name="imagine replies, round {place.round}")
def imagine_replies(place: StagePlace, questions: Manifest, images: Manifest, model: Manifest
                    ) -> Manifest:
    """Let the model reply as it should and as it should not."""
    store = Store(place.config.root)
    with progress(f"replies of round {place.round}", "progress-replies") as shown:
        return noted(store, place.prefix("imagined"),
                     lambda: contrastive.imagine(store, place, questions, images, model, shown))


@step(name="curate pairs", task_run_name="curate pairs, round {place.round}")
def curate_pairs(place: StagePlace, questions: Manifest, imagined: Manifest, images: Manifest
                 ) -> Manifest:
    """Keep the pairs worth learning from; the funnel says why others went."""
    store = Store(place.config.root)
    manifest = noted(store, place.prefix("pairs"),
                     lambda: contrastive.curate(store, place, questions, imagined, images))
    create_table_artifact(
        [{"step": name, "count": count} for name, count in manifest.funnel.items()],
        key="funnel",
        description=f"Round {place.round}, {place.name}: what became of the questions")
    return manifest


@step(name="write training rows", task_run_name="write training rows, round {place.round}")
def write_rows(place: StagePlace, pairs: Manifest) -> Manifest:
    """Turn pairs into what the objective learns from."""
    store = Store(place.config.root)
    return noted(store, place.prefix("train"),
                 lambda: contrastive.training_rows_of(store, place, pairs))
