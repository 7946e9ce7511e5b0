"""kill -9 of a run while it searches for replies.

The same command again ends with the same searches as a run that nobody disturbed; what was finished
is not made again, and no row is there twice. A search samples, and vLLM on a CPU cannot seed that:
so the rows are compared by their ids, and of the pairs that every search became one or was dropped.
"""

import signal
from pathlib import Path
from typing import Any

import pytest

from schemas.artifacts import read_manifest, read_quarantine, read_rows
from schemas.rows import PairRow
from tests.flows.killed_run import TWO_AT_A_TIME, Run, kill_flow
from tests.flows.small_run import small_calibrated

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.engine, pytest.mark.ray,
              pytest.mark.timeout(1500)]
STAGE = "rounds/round=0001/00-calibrated"
SEARCHES = f"{STAGE}/searches"
SAME = [f"{STAGE}/prompts", SEARCHES,
        *(f"rounds/round=000{number}/evaluation/{slug}"
          for number in (0, 1) for slug in ("field-chair", "field-pope"))]


def killable(root: str) -> dict[str, Any]:
    """Searches about 48 images, two at a time, in twelve shards."""
    config = small_calibrated(root)
    config["images"]["limit"] = 48
    config["engine"] |= TWO_AT_A_TIME
    return config


def test_killed_while_searching_it_ends_with_the_same_rows(tmp_path: Path, repo: Path) -> None:
    undisturbed, run = (Run(tmp_path, repo, name, killable) for name in ("whole", "killed"))
    assert undisturbed.start() == 0, undisturbed.log.read_text()
    code = run.start(lambda child: kill_flow(run, child, SEARCHES))
    assert code == -signal.SIGKILL, run.log.read_text()
    assert not run.store.exists(f"{SEARCHES}/manifest.json"), "killed too late"
    finished = run.receipts(SEARCHES)
    assert run.start() == 0, run.log.read_text()
    assert 0 < len(finished) < len(read_manifest(run.store, SEARCHES).shards), "not mid-way"
    assert run.receipts(SEARCHES).items() >= finished.items(), "searched again"
    rows = run.rows(SAME)
    assert rows == undisturbed.rows(SAME)
    assert all(ids and len(ids) == len(set(ids)) for ids in rows.values())
    check_pairs(run, rows[SEARCHES])
    assert run.store.exists("champion.json") and run.store.exists("summary.json")


def check_pairs(run: Run, searches: list[str]) -> None:
    """Every search is a pair's source or was dropped with a reason; none is both."""
    pairs = read_manifest(run.store, f"{STAGE}/train")
    kept = [row.source_row_id for row in read_rows(run.store, pairs, PairRow)]
    dropped = [row.row_id for row in read_quarantine(run.store, pairs)]
    assert kept and sorted([*kept, *dropped]) == sorted(searches)
