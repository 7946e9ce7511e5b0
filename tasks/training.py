"""The tasks that train: what is learnt beside a stage's own rows, and the training."""

from model_ops.calibrated import reference_model
from model_ops.contrastive import reward_word
from model_ops.mixing import mix_in as draw_mix
from model_ops.stages import StagePlace, training_rows
from model_ops.training import launch
from schemas.manifest import Manifest
from schemas.store import Store
from tasks.progress import progress
from tasks.step import noted, step


@step(name="mix in", task_run_name="mix in other rows, round {place.round}")
def mix_in(place: StagePlace, rows: Manifest) -> Manifest:
    """Draw what is learnt beside the stage's own rows."""
    store = Store(place.config.root)
    return noted(store, place.prefix("mix"), lambda: draw_mix(store, place, rows))


@step(name="train", task_run_name="train, round {place.round}")
def train(
    place: StagePlace, rows: Manifest, start: Manifest, mix: Manifest | None = None,
    rehearsal: Manifest | None = None,
) -> Manifest:
    """Fine-tune `start` on the stage's rows (`mix` and `rehearsal` beside); the new model's
    manifest."""
    store, config, prefix = Store(place.config.root), place.config, place.prefix("model")
    with progress(f"training steps of round {place.round}", "progress-training") as shown:
        return noted(store, prefix, lambda: launch.train(
            store, training_rows(store, place, rows), start, place.stage.train, prefix, place.seed,
            config.model, on_progress=shown, reward_word=reward_word(place), mix=mix,
            rehearsal=rehearsal, reference=reference_model(store, place),
            max_image_pixels=config.engine.max_image_pixels))
