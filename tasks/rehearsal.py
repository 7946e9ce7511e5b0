"""Tasks of a rehearsal: what the model says already, before it is trained, as rows to keep it."""

from model_ops import rehearsal
from model_ops.stages import StagePlace
from schemas.manifest import Manifest
from schemas.store import Store
from tasks.progress import progress
from tasks.step import noted, step


@step(name="plan rehearsal", task_run_name="plan rehearsal, round {place.round}")
def plan_rehearsal(place: StagePlace, images: Manifest) -> Manifest:
    """Decide what is asked about which images."""
    store = Store(place.config.root)
    return noted(store, place.prefix(rehearsal.PROMPTS),
                 lambda: rehearsal.plan(store, place, images))


@step(name="rehearse", task_run_name="rehearse, round {place.round}")
def rehearse(place: StagePlace, prompts: Manifest, images: Manifest, model: Manifest) -> Manifest:
    """Let the model that is about to be trained reply by itself."""
    store = Store(place.config.root)
    with progress(f"rehearsal of round {place.round}", "progress-rehearsal") as shown:
        return noted(store, place.prefix(rehearsal.REPLIES),
                     lambda: rehearsal.reply(store, place, prompts, images, model, shown))


@step(name="write rehearsal", task_run_name="write rehearsal, round {place.round}")
def write_rehearsal(place: StagePlace, replies: Manifest, images: Manifest) -> Manifest:
    """The replies as training rows."""
    store = Store(place.config.root)
    return noted(store, place.prefix(rehearsal.ROWS),
                 lambda: rehearsal.rows(store, place, replies, images))
