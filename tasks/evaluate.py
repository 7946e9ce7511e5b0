"""Tasks that measure a model."""

from collections.abc import Mapping

from model_ops import stages
from model_ops.benchmarks import Items
from schemas.config import RunConfig
from schemas.manifest import Manifest
from schemas.records import Evaluation
from schemas.store import Store
from tasks.progress import progress
from tasks.step import noted_all, step


@step(name="answer benchmarks", task_run_name="answer {prefix}")
def answer_benchmarks(
    config: RunConfig, planned: Mapping[str, Items], seats: Mapping[str, Mapping[str, Manifest]],
    prefix: str, number: int,
) -> dict[str, Manifest]:
    """Let the models in the `seats` of each benchmark answer it; one row per item, with the
    reply."""
    store = Store(config.root)
    with progress(f"shards of {prefix}", "progress-evaluation") as shown:
        return noted_all(store, [f"{prefix}/{slug}" for slug in seats], lambda: stages.measure(
            store, config, planned, seats, prefix, number, shown))


@step(name="summarise")
def summarise(
    config: RunConfig, planned: Mapping[str, Items], answered: Mapping[str, Manifest],
    model: Manifest,
) -> Evaluation:
    """Metrics with their intervals, from the item rows."""
    return stages.evaluation(Store(config.root), config, planned, answered, model)
