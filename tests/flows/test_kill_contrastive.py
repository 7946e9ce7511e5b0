"""kill -9 of a run while it asks questions, and again while it imagines the replies to them.

The same command again ends with the same rows as a run that nobody disturbed; what was finished is
not made again, and no row is there twice. Greedy sampling, and no check that compares texts with
each other, so that even the pairs can be compared.
"""

import signal
from pathlib import Path
from typing import Any

import pytest

from model_ops.models import reward_word_of
from schemas.artifacts import read_manifest
from schemas.questions import QUESTION_TYPES
from tests.flows.killed_run import TWO_AT_A_TIME, Run, kill_flow
from tests.flows.small_run import small_contrastive

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.engine, pytest.mark.ray,
              pytest.mark.timeout(3000)]
STAGE = "rounds/round=0001/00-contrastive"
ASKED, IMAGINED = f"{STAGE}/asked", f"{STAGE}/imagined"
PIES = ("field-pie", "field-pie-none", "field-pie-bad")
ARTIFACTS = [
    *(f"{STAGE}/{name}" for name in ("slots", "asked", "questions", "imagined", "pairs", "train")),
    *(f"rounds/round=000{number}/evaluation/{slug}" for number in (0, 1) for slug in PIES)]


def killable(root: str) -> dict[str, Any]:
    """24 questions of each kind about 40 images, two at a time; all are asked, checked, replied to
    and judged, and none is dropped for what it says but for two equal replies."""
    config = small_contrastive(root)
    config["engine"] |= TWO_AT_A_TIME
    config["stages"][0] |= {
        "questions": {"per_type": dict.fromkeys(QUESTION_TYPES, 24), "temperature": 0,
                      "min_type_probability": 0, "max_similarity": None,
                      "max_share_per_opening": None},
        "imagine": {"criteria": "nursery", "temperature": 0, "max_tokens": 16},
        "curation": {"select": "unfiltered"}}
    return config


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Run:
    run = Run(tmp_path_factory.mktemp("undisturbed"), repo, "whole", killable)
    assert run.start() == 0, run.log.read_text()
    return run


def kill_while_making(run: Run, prefix: str) -> dict[str, int]:
    """Start the command and kill it while it makes the artifact; the shards that are finished."""
    code = run.start(lambda child: kill_flow(run, child, prefix))
    assert code == -signal.SIGKILL, run.log.read_text()
    assert not run.store.exists(f"{prefix}/manifest.json"), "killed too late"
    return run.receipts(prefix)


def test_killed_while_asking_and_while_imagining_it_ends_with_the_same_rows(
    undisturbed: Run, tmp_path: Path, repo: Path
) -> None:
    run = Run(tmp_path, repo, "killed", killable)
    asked = kill_while_making(run, ASKED)
    imagined = kill_while_making(run, IMAGINED)
    assert run.start() == 0, run.log.read_text()
    for prefix, finished in ((ASKED, asked), (IMAGINED, imagined)):
        shards = read_manifest(run.store, prefix).shards
        assert 0 < len(finished) < len(shards), f"{prefix} was not killed mid-way"
        assert run.receipts(prefix).items() >= finished.items(), f"{prefix} was made again"
    check(run, undisturbed)


def check(run: Run, undisturbed: Run) -> None:
    """The same rows, none twice, and a model that was trained on them."""
    rows = run.rows(ARTIFACTS)
    assert rows == undisturbed.rows(ARTIFACTS)
    for prefix, ids in rows.items():
        assert ids and len(ids) == len(set(ids)), prefix
    models = [read_manifest(each.store, f"{STAGE}/model") for each in (run, undisturbed)]
    assert models[0].stats["steps"] == models[1].stats["steps"]
    assert {reward_word_of(model) for model in models} == {"good"}
    assert run.store.exists("champion.json") and run.store.exists("summary.json")
