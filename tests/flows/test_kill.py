"""kill -9 of the flow, of the engine's worker and of the training process, each mid-way.

The same command again ends with the same rows as a run that nobody disturbed; what was finished is
not made again, and no row is there twice. Greedy sampling, so that train rows can be compared.
"""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from schemas.artifacts import read_manifest
from schemas.store import Store
from tests.flows.killed_run import ENGINE, TWO_AT_A_TIME, Child, Run, kill_below, kill_flow
from tests.flows.small_run import GREEDY, small_config

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.engine, pytest.mark.ray,
              pytest.mark.timeout(3000)]
STAGE = "rounds/round=0001/00-dialog"
ARTIFACTS = [f"{STAGE}/games", f"{STAGE}/transcripts", f"{STAGE}/train",
             "rounds/round=0000/evaluation/field-game2", "rounds/round=0000/evaluation/field-vqa",
             "rounds/round=0001/evaluation/field-game2", "rounds/round=0001/evaluation/field-vqa"]
TRANSCRIPTS = f"{STAGE}/transcripts"
TRAINER = "ray::RayTrainWorker"


def killable(root: str) -> dict[str, Any]:
    """120 games, two at a time, of two turns each: no verdict is sure enough to guess early."""
    config = small_config(root)
    config["engine"] |= TWO_AT_A_TIME
    config["stages"][0] |= {"games": {2: 120}, "play": {**GREEDY, "ready_confidence": 1.0}}
    config["stages"][0]["train"]["max_steps"] = 80
    return config


def trained_steps(store: Store) -> int:
    path = f"{STAGE}/model/metrics.jsonl"
    lines = store.read_bytes(path).splitlines() if store.exists(path) else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Run:
    run = Run(tmp_path_factory.mktemp("undisturbed"), repo, "whole", killable)
    assert run.start() == 0, run.log.read_text()
    return run


def test_killed_three_times_it_ends_with_the_same_rows(
    undisturbed: Run, tmp_path: Path, repo: Path
) -> None:
    run = Run(tmp_path, repo, "killed", killable)

    def kill_engine_and_trainer(child: Child) -> None:
        run.wait(child, lambda: len(run.receipts(TRANSCRIPTS)) > len(finished))
        kill_below(child, ENGINE)
        run.wait(child, lambda: trained_steps(run.store) >= 4)
        kill_below(child, TRAINER)

    assert run.start(lambda child: kill_flow(run, child, TRANSCRIPTS)) == -signal.SIGKILL
    finished = run.receipts(TRANSCRIPTS)
    assert not run.store.exists(f"{TRANSCRIPTS}/manifest.json"), "killed too late"
    assert run.start(kill_engine_and_trainer) == 0 or run.start() == 0, run.log.read_text()
    check(run, undisturbed, finished)
    assert run.start() == 0
    assert "skipped: round 1 is already complete" in run.log.read_text()
    assert run.receipts(TRANSCRIPTS).items() >= finished.items()


def check(run: Run, undisturbed: Run, finished: dict[str, int]) -> None:
    """The same rows, none twice, and what was finished at the kill is as it was."""
    rows = run.rows(ARTIFACTS)
    assert rows == undisturbed.rows(ARTIFACTS)
    for prefix, ids in rows.items():
        assert len(ids) == len(set(ids)), prefix
    assert finished and run.receipts(TRANSCRIPTS).items() >= finished.items()
    stats = [read_manifest(each.store, f"{STAGE}/model").stats for each in (run, undisturbed)]
    assert stats[0]["steps"] == stats[1]["steps"]
    assert (run.store.exists("champion.json"), run.store.exists("summary.json")) == (True, True)
