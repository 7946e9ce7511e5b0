"""How each stage's training went, step by step: the loss and, for preferences, implicit rewards."""

from typing import NamedTuple

from markupsafe import Markup

from model_ops.report.charts import Steps, step_chart
from model_ops.report.history import History
from model_ops.rounds import round_prefix
from model_ops.training.job import Step
from model_ops.training.launch import read_metrics
from schemas.store import Store

QUANTITIES = {"loss": "loss", "reward_accuracy": "reward accuracy (dpo)",
              "reward_margin": "reward margin (dpo)"}
"""Fields of a `Step` that are drawn, and what they are called."""


class TrainingCurve(NamedTuple):
    """One small multiple: a quantity over the optimizer steps, a line a round."""

    stage: str
    name: str
    drawing: Markup
    latest: float


def training_curves(store: Store, history: History) -> list[TrainingCurve]:
    """Of every stage that has trained, whatever its objective logs."""
    stages: dict[str, dict[int, list[Step]]] = {}
    for view in history.rounds:
        number = view.record.round
        for stage in view.stages:
            prefix = stage.record.artifacts.get("model", "")
            # A stage that kept no row has the model of the one before it.
            if prefix.startswith(f"{round_prefix(number)}/{stage.record.name}/"):
                stages.setdefault(stage.record.name, {})[number] = read_metrics(store, prefix)
    return [curve for stage, rounds in stages.items() for field in QUANTITIES
            for curve in _curve(stage, field, rounds)]


def _curve(stage: str, field: str, rounds: dict[int, list[Step]]) -> list[TrainingCurve]:
    lines = [Steps(number, [(step.step, value) for step in steps
                            if (value := getattr(step, field)) is not None])
             for number, steps in rounds.items()]
    lines = [line for line in lines if line.points]
    if not lines:
        return []
    return [TrainingCurve(stage, QUANTITIES[field], step_chart(lines), lines[-1].points[-1][1])]
