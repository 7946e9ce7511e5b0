"""A finished root whose rounds have a contrastive stage, made by the stage's own steps.

`rooted` gives the rounds; questions and replies come from a scripted world that is wrong now and
then, and one of whose questions is hostile on purpose; the figures of PIE are made up.
"""

import random

import pytest

from model_ops import contrastive
from model_ops.benchmarks.pie_summary import Judged, pie_metrics
from model_ops.engines.job import LocalModel
from model_ops.programs.calls import Call, Generate, Reply
from model_ops.rounds import read_rounds, successor
from model_ops.stages import StagePlace, round_funnel, stage_record
from schemas.artifacts import publish, read_manifest
from schemas.champion import read_champion, swap_champion
from schemas.config import ContrastiveStage, DialogStage, ImagesConfig, RunConfig
from schemas.manifest import Manifest
from schemas.questions import CLEAR, ODD_TYPES, QUESTION_TYPES
from schemas.records import Evaluation, Metric, RoundRecord, StageRecord
from schemas.store import Store
from tests.model_ops.contrastive_world import Imaginer, run_here
from tests.model_ops.rooted import HOSTILE, build_root

ARTIFACTS = ("slots", "asked", "questions", "imagined", "pairs", "train")
PER_TYPE = dict.fromkeys(QUESTION_TYPES, 6)
AARS = {"": (0.2, 0.7, 0.86, 0.8), "none": (0.2, 0.4, 0.5, 0.5), "bad": (0.2, 0.1, 0.05, 0.05),
        "none-prompted": (0.5, 0.5, 0.6, 0.6)}
"""Share of odd questions that the base and the models of rounds 1 to 3 reply to as desired."""
OVER_ASKED = (0.0, 0.04, 0.03, 0.2)


class Wavering(Imaginer):
    """Writes a hostile question now and then, one of another kind, and replies that are alike."""

    def __init__(self) -> None:
        super().__init__(question=lambda kind, seed: f"What about {kind} number {seed}?"
                         + (f" {HOSTILE}" if seed % 3 == 0 else ""))

    def __call__(self, call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        asks_kind = call.sampling.choices == ("yes", "no")
        self.is_of_kind = 0.2 if asks_kind and seed % 5 == 0 else 0.9
        self.finish = "length" if seed % 7 == 0 else "stop"
        return super().__call__(call, seed)


def build_contrastive_root(
    store: Store, rounds: int = 3, objective: str = "crl", beside_dialog: bool = False
) -> list[RoundRecord]:
    """Rounds with a contrastive stage, instead of the dialog stage or after it."""
    build_root(store, rounds)
    _plan_pie(store)
    records: list[RoundRecord] = []
    for record in read_rounds(store):
        before = records[-1].model if records else None
        record = record.model_copy(update={"trained_from": before})
        stages = [*record.stages] if beside_dialog else []
        if record.round:
            stages.append(_stage(store, record, objective, len(stages)))
            record = record.model_copy(update={
                "model": stages[-1].model_digest, "model_prefix": stages[-1].artifacts["model"],
                "reasons": [f"{'field/game4_success' if beside_dialog else 'field/pie_aar'} rose",
                            "guard kept: field/pie_clear changed"]})
        records.append(record.model_copy(update={
            "stages": stages, "funnel": round_funnel(stages),
            "evaluation": _measured(store, record, beside_dialog)}))
        store.write_bytes(f"rounds/round={record.round:04d}/round.json",
                          records[-1].model_dump_json().encode())
    lead = [record for record in records if record.decision != "hold"][-1]
    swap_champion(store, read_champion(store), successor(lead))
    return records


def _plan_pie(store: Store) -> None:
    prefix = "benchmarks/field-pie/items"
    publish(store, Manifest(kind="pie", prefix=prefix, inputs_digest="pie",
                            config={"questions_uri": None}))


def _measured(store: Store, record: RoundRecord, beside_dialog: bool) -> Evaluation:
    prefix = f"rounds/round={record.round:04d}/evaluation/field-pie"
    settings = {"metric": "field/pie_aar", "judge": {"kind": "rules"}}
    publish(store, Manifest(kind="items", prefix=prefix, inputs_digest="answered",
                            config={"program": "pie", "settings": settings}))
    measured = record.evaluation
    return measured.model_copy(update={
        "items": {**measured.items, "field-pie": prefix},
        "metrics": {**(measured.metrics if beside_dialog else {}), **_metrics(record.round)}})


def _stage(store: Store, record: RoundRecord, objective: str, index: int) -> StageRecord:
    """The stage's artifacts, made by its own steps, and its model."""
    place = _place(store, record.round, index, objective)
    images = read_manifest(store, "images")
    asker = Manifest(kind="model", prefix=f"of-{record.round}", inputs_digest="m")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive, "run_programs", run_here(Wavering()))
        patch.setattr(contrastive, "local_model", lambda store, model, config: LocalModel(
            path="scripted:nowhere:nothing", digest=record.trained_from or ""))
        slots = contrastive.plan_questions(store, place, images)
        asked = contrastive.ask(store, place, slots, images, asker)
        questions = contrastive.select(store, place, asked)
        imagined = contrastive.imagine(store, place, questions, images, asker)
        pairs = contrastive.curate(store, place, questions, imagined, images)
        train = contrastive.training_rows_of(store, place, pairs)
    made = (slots, asked, questions, imagined, pairs, train)
    model = publish(store, Manifest(
        kind="model", prefix=place.prefix("model"), inputs_digest=f"model {record.round}",
        parents={"train": train.digest}, config={"objective": objective, "reward_word": "good"},
        files={"model.safetensors": f"{record.round}" * 64}, stats={"steps": 12.0}))
    return stage_record(place, {**dict(zip(ARTIFACTS, made, strict=True)), "model": model},
                        {"questions": 3.0, "generate": 20.0, "curate": 1.0, "train": 30.0})


def _place(store: Store, number: int, index: int, objective: str) -> StagePlace:
    stage = ContrastiveStage.model_validate({
        "questions": {"per_type": PER_TYPE, "max_share_per_opening": 0.9},
        "train": {"objective": objective}})
    config = RunConfig(root=store.root, images=ImagesConfig(limit=48), shard_size=8, seed=3,
                       stages=[*[DialogStage()] * index, stage])
    return StagePlace(config, number, index)


def _metrics(number: int) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for variant, shares in AARS.items():
        name = f"field/pie-{variant}" if variant else "field/pie"
        metrics |= pie_metrics(name, _judged(shares[number], OVER_ASKED[number]))
    return metrics


def _judged(share: float, over_asked: float) -> list[Judged]:
    rng = random.Random(f"{share}/{over_asked}")
    wanted = {**dict.fromkeys(ODD_TYPES, share), CLEAR: 1 - over_asked}
    return [Judged(f"{kind}/{number}", kind, "True" if rng.random() < wanted[kind] else "False")
            for kind in QUESTION_TYPES for number in range(40)]
