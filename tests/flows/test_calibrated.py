"""What a `calibrated` stage does in which order, and what it leaves; its steps are stand-ins."""

from typing import Any

import pytest

from flows import calibrated as flow_module
from flows.calibrated import calibrated_stage
from model_ops.rounds import RoundClock
from model_ops.stages import StagePlace
from schemas.config import CalibratedStage, ImagesConfig, RunConfig
from schemas.manifest import Manifest, Shard
from schemas.store import Store

STEPS = {"plan_prompts": "prompts", "search_replies": "searches", "judge_nodes": "nodes",
         "choose_pairs": "train", "train": "model"}
START = Manifest(kind="model", prefix="start", inputs_digest="s")


def run_stage(
    store: Store, monkeypatch: pytest.MonkeyPatch, num_rows: int
) -> tuple[list[str], Any]:
    done: list[str] = []

    def stand_in(task: str, artifact: str) -> Any:
        def step(place: StagePlace, *given: Manifest) -> Manifest:
            done.append(task)
            shard = Shard(index=0, path="p", num_rows=num_rows, num_bytes=1, sha256="0")
            return Manifest(kind=artifact, prefix=place.prefix(artifact), inputs_digest=artifact,
                            shards=[shard], funnel={"planned": 9, "kept": num_rows},
                            stats={"output_tokens_per_second": 12.34})
        return step

    for task, artifact in STEPS.items():
        monkeypatch.setattr(flow_module, task, stand_in(task, artifact))
    config = RunConfig(root=store.root, images=ImagesConfig(limit=8), stages=[CalibratedStage()])
    images = Manifest(kind="images", prefix="images", inputs_digest="i")
    trained = calibrated_stage(StagePlace(config, 2, 0), images, START, START,
                               RoundClock(store, 2))
    return done, trained


def test_a_stage_generates_then_trains(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, (record, model) = run_stage(local_store, monkeypatch, 4)
    assert done == [*STEPS]
    assert set(record.artifacts) == {*STEPS.values()}
    assert record.artifacts["train"] == "rounds/round=0002/00-calibrated/train"
    assert record.funnel == {"planned": 9, "kept": 4} and record.tokens_per_second == 12.3
    assert set(record.seconds) == {"prompts", "generate", "curate", "train"}
    assert (record.method, record.model_digest) == ("calibrated", model.digest)
    assert model.kind == "model"


def test_without_a_pair_the_model_stays_as_it_is(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, (record, model) = run_stage(local_store, monkeypatch, 0)
    assert "train" not in done
    assert model == START and record.model_digest == START.digest
