"""What a `contrastive` stage does in which order, and what it leaves; its steps are stand-ins."""

from typing import Any, get_args

import pytest

from flows import contrastive as flow_module
from flows.contrastive import contrastive_stage
from flows.generate import GENERATE
from flows.improve import STAGES
from model_ops.rounds import RoundClock
from model_ops.stages import StagePlace
from schemas.config import ContrastiveStage, ImagesConfig, MixConfig, RunConfig, Stage
from schemas.manifest import Manifest, Shard
from schemas.store import Store

STEPS = {"plan_questions": "slots", "ask_questions": "asked", "select_questions": "questions",
         "imagine_replies": "imagined", "curate_pairs": "pairs", "write_rows": "train",
         "mix_in": "mix", "train": "model"}
START = Manifest(kind="model", prefix="start", inputs_digest="s")


def run_stage(
    store: Store, monkeypatch: pytest.MonkeyPatch, num_rows: int, has_mix: bool
) -> tuple[list[str], Any]:
    done: list[str] = []

    def stand_in(task: str, artifact: str) -> Any:
        def step(place: StagePlace, *given: Manifest | None) -> Manifest:
            done.append(task)
            shard = Shard(index=0, path="p", num_rows=num_rows, num_bytes=1, sha256="0")
            return Manifest(kind=artifact, prefix=place.prefix(artifact), inputs_digest=artifact,
                            shards=[shard], funnel={"planned": 9, "kept": num_rows},
                            stats={"output_tokens_per_second": 12.34})
        return step

    for task, artifact in STEPS.items():
        monkeypatch.setattr(flow_module, task, stand_in(task, artifact))
    stage = ContrastiveStage(mix=MixConfig(uri="pairs.json") if has_mix else None)
    config = RunConfig(root=store.root, images=ImagesConfig(limit=8), stages=[stage])
    images = Manifest(kind="images", prefix="images", inputs_digest="i")
    trained = contrastive_stage(StagePlace(config, 2, 0), images, START, START,
                                RoundClock(store, 2))
    return done, trained


@pytest.mark.parametrize("has_mix", [True, False])
def test_a_stage_generates_then_trains(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, has_mix: bool
) -> None:
    done, (record, model) = run_stage(local_store, monkeypatch, 4, has_mix)
    assert done == [task for task in STEPS if has_mix or task != "mix_in"]
    assert set(record.artifacts) == {*STEPS.values()} - (set() if has_mix else {"mix"})
    assert record.funnel == {"planned": 9, "kept": 4} and record.tokens_per_second == 12.3
    assert set(record.seconds) == {"questions", "generate", "curate", "train"}
    assert (record.method, record.model_digest) == ("contrastive", model.digest)
    assert model.kind == "model"


def test_without_a_pair_the_model_stays_as_it_is(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, (record, model) = run_stage(local_store, monkeypatch, 0, True)
    assert "train" not in done and "mix_in" not in done
    assert model == START and record.model_digest == START.digest


def test_every_method_has_its_flows() -> None:
    methods = {kind.model_fields["method"].default for kind in get_args(get_args(Stage)[0])}
    assert set(STAGES) == set(GENERATE) == methods
