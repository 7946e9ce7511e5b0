"""A run of the command line that tests kill somewhere and start again, and what it leaves."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import yaml

from schemas.store import Store
from tests.flows.small_run import artifact_rows, environment, process

ENGINE = "ray::MapWorker"
TWO_AT_A_TIME = {"max_num_seqs": 2, "live_programs": 2}
"""Of an engine: slow enough to be killed between two shards."""
FEW = 3
"""Shards that a kill waits for."""

Child = subprocess.Popen[bytes]


class Run:
    """The command, started as often as needed, and what it leaves."""

    def __init__(self, folder: Path, repo: Path, name: str,
                 config: Callable[[str], dict[str, Any]]) -> None:
        self.store = Store(str(folder / name))
        self.log = folder / f"{name}.log"
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config(self.store.root)))
        self._repo = repo
        self._env = environment(folder / "home", PYTHONPATH=str(repo))
        self._command = ["flywheel", "run", str(path)]

    def start(self, disturb: Callable[[Child], None] | None = None) -> int:
        """Run the command to its end, or to the end that `disturb` gives it; its exit code."""
        with process(self._command, self._env, self.log, self._repo) as child:
            if disturb is not None:
                disturb(child)
            return child.wait(timeout=900)

    def wait(self, child: Child, ready: Callable[[], bool]) -> None:
        """Wait until something is there, while the command is at work."""
        deadline = time.monotonic() + 900
        while not ready():
            assert child.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def receipts(self, prefix: str) -> dict[str, int]:
        """Finished shards of an artifact, and when they were finished (ns)."""
        folder = Path(self.store.uri(f"{prefix}/receipts"))
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}

    def rows(self, prefixes: Iterable[str]) -> dict[str, list[str]]:
        """What the artifacts' manifests list."""
        return {prefix: artifact_rows(self.store, prefix) for prefix in prefixes}


def below(child: Child, title: str) -> list[psutil.Process]:
    """The processes with this title among those that the command started."""
    found = [each for each in psutil.Process(child.pid).children(recursive=True)
             if " ".join(each.cmdline()).startswith(title)]
    assert found, f"no {title} is running"
    return found


def kill_below(child: Child, title: str) -> None:
    """kill -9 them."""
    for victim in below(child, title):
        os.kill(victim.pid, signal.SIGKILL)


def kill_flow(run: Run, child: Child, prefix: str) -> None:
    """kill -9 of the command once a few shards of the artifact at *prefix* are finished."""
    run.wait(child, lambda: len(run.receipts(prefix)) >= FEW)
    workers = below(child, ENGINE)
    os.kill(child.pid, signal.SIGKILL)
    psutil.wait_procs(workers, timeout=60)  # until then they may still finish shards
