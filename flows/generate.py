"""Data sets only: what every stage learns from is planned, generated and curated by the base.

The artifacts are those of round 1, under the same names: `improve` on the same root finds those of
the first stage complete and goes on with training; its later stages ask the model just trained.
"""

from collections.abc import Callable
from typing import Any

from prefect import flow

from flows.calibrated import generate_calibrated
from flows.contrastive import generate_contrastive
from flows.dialog import generate_dialog
from model_ops.rounds import RoundClock
from model_ops.stages import StagePlace
from schemas.config import RunConfig
from schemas.lock import hold_root
from schemas.store import Store
from tasks.naming import run_name
from tasks.prepare import import_images, publish_base

GENERATE: dict[str, Callable[..., Any]] = {
    "dialog": generate_dialog,
    "contrastive": generate_contrastive,
    "calibrated": generate_calibrated,
}
"""What makes the training rows of each method; all leave an artifact `train`."""


@flow(name="generate", flow_run_name=run_name, persist_result=False)
def generate(config: RunConfig) -> list[str]:
    """Make the training rows of every stage; the prefixes of the train artifacts."""
    store = Store(config.root)
    with hold_root(store, f"generate {config.root}", config.lease_minutes):
        images = import_images(config)
        base = publish_base(config)
        clock = RoundClock(store, 1)
        places = [StagePlace(config, 1, index) for index in range(len(config.stages))]
        return [GENERATE[place.stage.method](place, images, base, clock).train.prefix
                for place in places]
