"""kill -9 of the flow, of the engine's worker and of the training process, each mid-way.

The same command again ends with the same rows as a run that nobody disturbed; what was finished is
not made again, and no row is there twice. Greedy sampling, so that train rows can be compared.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from schemas.artifacts import read_manifest
from schemas.store import Store
from tests.flows.small_run import GREEDY, artifact_rows, environment, process, small_config

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.engine, pytest.mark.ray,
              pytest.mark.timeout(3000)]
STAGE = "rounds/round=0001/00-dialog"
ARTIFACTS = [f"{STAGE}/games", f"{STAGE}/transcripts", f"{STAGE}/train",
             "rounds/round=0000/evaluation/field-game2", "rounds/round=0000/evaluation/field-vqa",
             "rounds/round=0001/evaluation/field-game2", "rounds/round=0001/evaluation/field-vqa"]
ENGINE, TRAINER = "ray::MapWorker", "ray::RayTrainWorker"


def write_config(folder: Path, root: str) -> Path:
    """120 games, two at a time, of two turns each: no verdict is sure enough to guess early."""
    config = small_config(root)
    config["engine"] |= {"max_num_seqs": 2, "live_programs": 2}
    config["stages"][0] |= {"games": {2: 120}, "play": {**GREEDY, "ready_confidence": 1.0}}
    config["stages"][0]["train"]["max_steps"] = 80
    path = folder / f"{Path(root).name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


class Run:
    """The command, started as often as needed, and what it leaves."""

    def __init__(self, folder: Path, repo: Path, name: str) -> None:
        self.store = Store(str(folder / name))
        self.log = folder / f"{name}.log"
        self._repo, self._env = repo, environment(folder / "home")
        self._command = ["flywheel", "run", str(write_config(folder, self.store.root))]

    def start(self, disturb: Callable[["subprocess.Popen[bytes]"], None] | None = None) -> int:
        """Run the command to its end, or to the end that `disturb` gives it; its exit code."""
        with process(self._command, self._env, self.log, self._repo) as child:
            if disturb is not None:
                disturb(child)
            return child.wait(timeout=900)

    def wait(self, child: "subprocess.Popen[bytes]", ready: Callable[[], bool]) -> None:
        """Wait until something is there, while the command is at work."""
        deadline = time.monotonic() + 900
        while not ready():
            assert child.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def receipts(self) -> dict[str, int]:
        """Finished shards of the transcripts, and when they were finished (ns)."""
        folder = Path(self.store.uri(f"{STAGE}/transcripts/receipts"))
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}

    def rows(self) -> dict[str, list[str]]:
        """What the manifests list."""
        return {prefix: artifact_rows(self.store, prefix) for prefix in ARTIFACTS}


def below(child: "subprocess.Popen[bytes]", title: str) -> list[psutil.Process]:
    """The processes with this title among those that the command started."""
    found = [each for each in psutil.Process(child.pid).children(recursive=True)
             if " ".join(each.cmdline()).startswith(title)]
    assert found, f"no {title} is running"
    return found


def kill_below(child: "subprocess.Popen[bytes]", title: str) -> None:
    """kill -9 them."""
    for victim in below(child, title):
        os.kill(victim.pid, signal.SIGKILL)


def trained_steps(store: Store) -> int:
    path = f"{STAGE}/model/metrics.jsonl"
    lines = store.read_bytes(path).splitlines() if store.exists(path) else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Run:
    run = Run(tmp_path_factory.mktemp("undisturbed"), repo, "whole")
    assert run.start() == 0, run.log.read_text()
    return run


def test_killed_three_times_it_ends_with_the_same_rows(
    undisturbed: Run, tmp_path: Path, repo: Path
) -> None:
    run = Run(tmp_path, repo, "killed")

    def kill_flow(child: "subprocess.Popen[bytes]") -> None:
        run.wait(child, lambda: len(run.receipts()) >= 3)
        workers = below(child, ENGINE)
        os.kill(child.pid, signal.SIGKILL)
        psutil.wait_procs(workers, timeout=60)  # until then they may still finish shards

    def kill_engine_and_trainer(child: "subprocess.Popen[bytes]") -> None:
        run.wait(child, lambda: len(run.receipts()) > len(finished))
        kill_below(child, ENGINE)
        run.wait(child, lambda: trained_steps(run.store) >= 4)
        kill_below(child, TRAINER)

    assert run.start(kill_flow) == -signal.SIGKILL
    finished = run.receipts()
    assert not run.store.exists(f"{STAGE}/transcripts/manifest.json"), "killed too late"
    assert run.start(kill_engine_and_trainer) == 0 or run.start() == 0, run.log.read_text()
    check(run, undisturbed, finished)
    assert run.start() == 0
    assert "skipped: round 1 is already complete" in run.log.read_text()
    assert run.receipts().items() >= finished.items()


def check(run: Run, undisturbed: Run, finished: dict[str, int]) -> None:
    """The same rows, none twice, and what was finished at the kill is as it was."""
    rows = run.rows()
    assert rows == undisturbed.rows()
    for prefix, ids in rows.items():
        assert len(ids) == len(set(ids)), prefix
    assert finished and run.receipts().items() >= finished.items()
    stats = [read_manifest(each.store, f"{STAGE}/model").stats for each in (run, undisturbed)]
    assert stats[0]["steps"] == stats[1]["steps"]
    assert (run.store.exists("champion.json"), run.store.exists("summary.json")) == (True, True)
