"""A small round of all three methods on the real engines: each stage goes on from the one before
it, and one gate and one report look at what all of them did."""

import re
from pathlib import Path

import pytest

from model_ops.rounds import read_rounds
from schemas.artifacts import read_manifest
from schemas.manifest import Manifest
from schemas.store import Store
from tests.flows.small_run import finish, small_full

pytestmark = [pytest.mark.e2e, pytest.mark.prefect, pytest.mark.slow, pytest.mark.engine,
              pytest.mark.ray, pytest.mark.timeout(600)]
STAGES = ("00-contrastive", "01-dialog", "02-calibrated")
ASKED = ("imagined", "transcripts", "searches")
"""What each stage asks its start model for."""
MEASURED = ("field/pie_aar", "field/game2_success", "field/chair_clean")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Store:
    """The root of the finished run."""
    return finish(tmp_path_factory.mktemp("full"), repo, small_full, "flywheel", "run").store


def made(store: Store, stage: str, artifact: str) -> Manifest:
    return read_manifest(store, f"rounds/round=0001/{stage}/{artifact}")


def test_each_stage_starts_from_the_model_of_the_one_before_and_asks_it(store: Store) -> None:
    start, record = read_rounds(store)
    models = [made(store, stage, "model") for stage in STAGES]
    asked = [made(store, stage, artifact) for stage, artifact in zip(STAGES, ASKED, strict=True)]
    before = [start.model, *(model.digest for model in models)]
    assert len(set(before)) == 4 and record.model == before[-1]
    assert [model.parents["start"] for model in models] == before[:-1]
    assert [rows.parents["model:"] for rows in asked] == before[:-1]
    assert [model.config["reward_word"] for model in models] == ["good"] * 3


def test_the_later_stages_are_shown_what_the_first_one_made(store: Store) -> None:
    shown = made(store, STAGES[0], "pairs")
    for stage in STAGES[1:]:
        mix = made(store, stage, "mix")
        assert mix.parents == {"rows": shown.digest} and mix.num_rows > 0
        assert made(store, stage, "model").parents["mix"] == mix.digest


def test_the_first_two_stages_rehearse_what_their_start_model_says(store: Store) -> None:
    before = read_rounds(store)[0].model
    for stage in STAGES[:2]:
        replies, rows = made(store, stage, "rehearsal-replies"), made(store, stage, "rehearsal")
        model = made(store, stage, "model")
        assert replies.parents["model:"] == before and replies.num_rows == 12
        assert model.parents["rehearsal"] == rows.digest and rows.funnel["kept"] > 0
        before = model.digest


def test_the_gate_decides_on_the_figures_of_all_three(store: Store) -> None:
    *_, record = read_rounds(store)
    assert [stage.method for stage in record.stages] == ["contrastive", "dialog", "calibrated"]
    assert all(stage.funnel and stage.tokens_per_second > 0 for stage in record.stages)
    assert record.decision in ("promote", "hold")
    for metric in MEASURED:
        assert metric in record.evaluation.metrics
        assert any(metric in reason for reason in record.reasons)


def test_one_report_shows_all_three(store: Store) -> None:
    page = store.read_bytes("report/index.html").decode()
    assert {"games", "pairs", "searches"} <= set(re.findall(r'id="(\w+)"', page))
    assert all(metric in page for metric in MEASURED)
