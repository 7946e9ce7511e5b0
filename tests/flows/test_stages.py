"""What each method's stage does in which order, and what it leaves; its steps are stand-ins."""

from typing import Any, NamedTuple, get_args

import pytest

from flows import calibrated, contrastive, dialog, learning
from flows.generate import GENERATE
from flows.improve import STAGES
from model_ops.rounds import RoundClock
from model_ops.stages import StagePlace
from schemas.config import ImagesConfig, MixConfig, RehearsalConfig, RunConfig, Stage
from schemas.manifest import Manifest, Shard
from schemas.store import Store

START = Manifest(kind="model", prefix="start", inputs_digest="s")
LEARNING = {"mix_in": "mix", "plan_rehearsal": "rehearsal-prompts",
            "rehearse": "rehearsal-replies", "write_rehearsal": "rehearsal", "train": "model"}
REHEARSING = {task for task in LEARNING if "rehears" in task}


class Method(NamedTuple):
    room: Any
    steps: dict[str, str]
    """Task -> the artifact it makes, up to the rows that are learnt from."""
    timed: set[str]


METHODS = {
    "dialog": Method(dialog, {
        "plan_games": "games", "play_games": "transcripts", "curate_games": "train",
    }, {"games", "generate", "curate", "train"}),
    "contrastive": Method(contrastive, {
        "plan_questions": "slots", "ask_questions": "asked", "select_questions": "questions",
        "imagine_replies": "imagined", "curate_pairs": "pairs", "write_rows": "train",
    }, {"questions", "generate", "curate", "train"}),
    "calibrated": Method(calibrated, {
        "plan_prompts": "prompts", "search_replies": "searches", "judge_nodes": "nodes",
        "choose_pairs": "train",
    }, {"prompts", "generate", "curate", "train"}),
}
KINDS = {kind.model_fields["method"].default: kind for kind in get_args(get_args(Stage)[0])}


def run_stage(
    store: Store, monkeypatch: pytest.MonkeyPatch, method: str, num_rows: int, has_mix: bool,
    ratio: float | None = 1.0, num_mixed: int = 4, **more: Any,
) -> tuple[list[str], Any]:
    done: list[str] = []

    def stand_in(task: str, artifact: str) -> Any:
        def step(place: StagePlace, *given: Manifest | None) -> Manifest:
            done.append(task)
            num = num_mixed if artifact == "mix" else num_rows
            shard = Shard(index=0, path="p", num_rows=num, num_bytes=1, sha256="0")
            return Manifest(kind=artifact, prefix=place.prefix(artifact), inputs_digest=artifact,
                            shards=[shard], funnel={"planned": 9, "kept": num_rows},
                            stats={"output_tokens_per_second": 12.34})
        return step

    for task, artifact in METHODS[method].steps.items():
        monkeypatch.setattr(METHODS[method].room, task, stand_in(task, artifact))
    for task, artifact in LEARNING.items():
        monkeypatch.setattr(learning, task, stand_in(task, artifact))
    mix = MixConfig(uri="pairs.json", ratio=ratio) if has_mix else None
    stage = KINDS[method](mix=mix, **more)
    config = RunConfig(root=store.root, images=ImagesConfig(limit=8), stages=[stage])
    images = Manifest(kind="images", prefix="images", inputs_digest="i")
    trained = STAGES[method](StagePlace(config, 2, 0), images, START, START, RoundClock(store, 2))
    return done, trained


@pytest.mark.parametrize("has_mix", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_stage_generates_then_trains(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, method: str, has_mix: bool
) -> None:
    steps = METHODS[method].steps | {task: artifact for task, artifact in LEARNING.items()
                                     if task not in REHEARSING and (has_mix or task != "mix_in")}
    done, (record, model) = run_stage(local_store, monkeypatch, method, 4, has_mix)
    assert done == [*steps]
    assert set(record.artifacts) == {*steps.values()}
    assert record.artifacts["train"] == f"rounds/round=0002/00-{method}/train"
    assert record.funnel == {"planned": 9, "kept": 4} and record.tokens_per_second == 12.3
    assert set(record.seconds) == METHODS[method].timed
    assert (record.method, record.model_digest) == (method, model.digest)
    assert model.kind == "model"


@pytest.mark.parametrize("num_rows", [4, 0])
@pytest.mark.parametrize("method", ["contrastive", "dialog"])
def test_a_model_that_is_trained_says_first_what_it_is_to_keep(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, method: str, num_rows: int
) -> None:
    done, (record, _) = run_stage(local_store, monkeypatch, method, num_rows, False,
                                  rehearsal=RehearsalConfig(limit=4))
    steps = {task: LEARNING[task] for task in LEARNING if num_rows and task != "mix_in"}
    assert done == [*METHODS[method].steps, *steps]
    assert set(record.artifacts) == {*METHODS[method].steps.values(), *steps.values(), "model"}


@pytest.mark.parametrize("method", METHODS)
def test_without_a_row_the_model_stays_as_it_is(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    done, (record, model) = run_stage(local_store, monkeypatch, method, 0, True)
    assert done == [*METHODS[method].steps]
    assert model == START and record.model_digest == START.digest


@pytest.mark.parametrize(("num_mixed", "steps"), [(4, ["mix_in", "train"]), (0, ["mix_in"])])
@pytest.mark.parametrize("method", METHODS)
def test_a_mix_that_is_taken_whole_is_learnt_without_a_row_of_the_stages_own(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, method: str, num_mixed: int,
    steps: list[str],
) -> None:
    done, (record, model) = run_stage(local_store, monkeypatch, method, 0, True, None, num_mixed)
    assert done == [*METHODS[method].steps, *steps]
    assert "mix" in record.artifacts and (model == START) == (num_mixed == 0)


def test_every_method_has_its_flows() -> None:
    assert set(STAGES) == set(GENERATE) == set(KINDS) == set(METHODS)
