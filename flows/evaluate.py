"""Measure a model: the fixed items of every benchmark, answered by it.

`measure` is a part of every round; the flow `evaluate` measures any model by itself.
"""

from prefect import flow

from model_ops.stages import refuse_endpoint, seat_models
from schemas.config import RunConfig
from schemas.lock import hold_root
from schemas.manifest import Manifest, digest
from schemas.records import Evaluation
from schemas.store import Store
from tasks.evaluate import answer_benchmarks, summarise
from tasks.prepare import plan_benchmarks, publish_model


@flow(name="evaluate", flow_run_name="evaluate {model_uri}", persist_result=False)
def evaluate(config: RunConfig, model_uri: str) -> Evaluation:
    """Measure the model at `model_uri` (a folder, bucket, hub id or `nursery://vlm`).

    The items are those that the root's rounds are measured with; no round is changed.
    """
    refuse_endpoint(config)
    prefix = f"evaluations/{digest(model_uri)[:12]}"
    with hold_root(Store(config.root), f"evaluate {model_uri}", config.lease_minutes):
        model = publish_model(config, model_uri, f"{prefix}/model")
        return measure(config, model, None, prefix, 0)


def measure(
    config: RunConfig, model: Manifest, rival: Manifest | None, prefix: str, number: int
) -> Evaluation:
    """Answer every benchmark below `prefix`; `rival` takes the Guesser's seat in cross-play, which
    is left out without one."""
    planned = plan_benchmarks(config)
    seats = seat_models(config, model, rival)
    answered = answer_benchmarks(config, planned, seats, prefix, number)
    return summarise(config, planned, answered, model)
