"""Tasks that a run begins with: images, the base model, the benchmarks' items."""

from model_ops import benchmarks, models
from model_ops import images as images_ops
from model_ops.benchmarks import Items
from model_ops.rounds import round_prefix
from model_ops.stages import plan
from schemas.config import BenchmarkConfig, RunConfig
from schemas.manifest import Manifest
from schemas.store import Store
from tasks.progress import progress
from tasks.step import noted, step

IMAGES = "images"


@step(name="import images")
def import_images(config: RunConfig) -> Manifest:
    """Bring the unlabelled images into the root; what cannot be used goes to quarantine."""
    store = Store(config.root)
    with progress("images", "progress-images") as shown:
        return noted(store, IMAGES, lambda: images_ops.import_images(
            store, config.images, IMAGES, on_progress=shown))


@step(name="publish base")
def publish_base(config: RunConfig) -> Manifest:
    """Publish the base model as round 0's model."""
    store = Store(config.root)
    prefix = f"{round_prefix(0)}/model"
    return noted(store, prefix, lambda: models.publish_base(store, config.model, prefix))


@step(name="publish model")
def publish_model(config: RunConfig, model_uri: str, prefix: str) -> Manifest:
    """Publish any model, to measure it."""
    store, model = Store(config.root), config.model.model_copy(update={"uri": model_uri})
    return noted(store, prefix, lambda: models.publish_base(store, model, prefix))


@step(name="plan benchmark")
def plan_benchmark(config: RunConfig, benchmark: BenchmarkConfig) -> Items:
    """Fix the items of one benchmark."""
    return plan(Store(config.root), config, benchmark)


@step(name="check held-out images")
def refuse_training_images(config: RunConfig, images: Manifest, planned: dict[str, Items]) -> None:
    """Stop if a benchmark has an image that the games may use."""
    for items in planned.values():
        benchmarks.refuse_training_images(Store(config.root), images, items.images)


def plan_benchmarks(config: RunConfig) -> dict[str, Items]:
    """Fix the items of all benchmarks, by slug."""
    return {benchmark.slug: plan_benchmark(config, benchmark)
            for benchmark in config.evaluation.benchmarks}
