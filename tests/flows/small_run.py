"""A run that is as small as a whole run can be, and processes that a test starts and ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from schemas.artifacts import read_manifest
from schemas.questions import QUESTION_TYPES
from schemas.store import Store

BIN = Path(sys.executable).parent
BOTH_FLOWS_TWICE = ("python", "-m", "tests.flows.generate_then_improve")
GREEDY = {"guesser": "per_image", "max_turns": {2: 2, 4: 2}, "ask_temperature": 0,
          "answer_temperature": 0, "reasks": 0, "rotations": False, "blind": False}


def small_config(root: str, **changes: Any) -> dict[str, Any]:
    """One round of 24 greedy games, two small benchmarks, a few training steps."""
    engine = {"num_cpus": 1, "max_model_len": 512, "max_num_seqs": 32, "live_programs": 8,
              "enforce_eager": True}
    stage = {"method": "dialog", "games": {2: 24}, "play": GREEDY,
             "curation": {"select": "unfiltered"},
             "train": {"adapter": "full", "batch_size": 4, "max_steps": 12, "save_steps": 2}}
    games = {"kind": "game", "domain": "field", "num_images": 2, "num_items": 16, "play": GREEDY,
             "images": {"uri": "nursery://field", "limit": 32, "seed": 1001}}
    questions = {"kind": "vqa", "domain": "field", "num_items": 16,
                 "images": {"uri": "nursery://field", "limit": 32, "seed": 1002}}
    return {
        "root": root, "model": {"uri": "nursery://vlm", "prompts": "nursery", "dtype": "float32"},
        "images": {"uri": "nursery://field", "limit": 64, "seed": 1}, "engine": engine,
        "stages": [stage], "evaluation": {"benchmarks": [games, questions]},
        "gate": {"primary": "field/game2_success"}, "stop": {"rounds": 1, "plateau": None},
        "shard_size": 4, **changes}


def small_contrastive(root: str, **changes: Any) -> dict[str, Any]:
    """One round of ten questions of each kind about 40 images; PIE with the model's own reward
    word, with none and with `bad`; a few training steps."""
    stage = {"method": "contrastive",
             "questions": {"per_type": dict.fromkeys(QUESTION_TYPES, 10),
                           "max_share_per_opening": None},
             "imagine": {"criteria": "nursery", "max_tokens": 16},
             "train": {"objective": "crl", "adapter": "full", "batch_size": 8, "max_steps": 6,
                       "save_steps": 2}}
    pie = {"criteria": "nursery", "judge": {"kind": "rules"}, "num_clear": 8, "max_tokens": 16}
    benchmarks = [
        {"kind": "pie", "domain": "field", "num_items": 24, "pie": {**pie, "reward": reward},
         "images": {"uri": "nursery://field", "limit": 32, "seed": 1005}}
        for reward in ("model", "none", "bad")]
    contrastive = {"images": {"uri": "nursery://field", "limit": 40, "seed": 1},
                   "stages": [stage], "evaluation": {"benchmarks": benchmarks},
                   "gate": {"primary": "field/pie_aar"}}
    return small_config(root, **{**contrastive, **changes})


def small_calibrated(root: str, **changes: Any) -> dict[str, Any]:
    """One round of searches about 24 images; CHAIR and POPE; a few training steps."""
    stage = {"method": "calibrated",
             "search": {"preset": "reference", "sentence_ends": ["."], "max_sentence_tokens": 12,
                        "max_sentences": 9, "max_tokens": 120},
             "train": {"objective": "dpo", "adapter": "full", "freeze_vision": False,
                       "learning_rate": 1e-5, "batch_size": 4, "max_steps": 6, "save_steps": 2}}
    benchmarks = [{"kind": kind, "domain": "field", "num_items": 24,
                   "images": {"uri": "nursery://field", "limit": 24, "seed": seed}}
                  for kind, seed in (("chair", 1006), ("pope", 1007))]
    calibrated = {"images": {"uri": "nursery://field", "limit": 24, "seed": 1},
                  "stages": [stage], "evaluation": {"benchmarks": benchmarks},
                  "gate": {"primary": "field/chair_clean"}}
    return small_config(root, **{**calibrated, **changes})


def small_full(root: str, **changes: Any) -> dict[str, Any]:
    """One round of all three methods in the order of `full.yaml`; the later stages are shown what
    the first one made, the first two keep their descriptions, and the gate looks at one figure of
    each."""
    parts = small_contrastive(root), small_config(root), small_calibrated(root)
    first, *later = (part["stages"][0] for part in parts)
    later[-1]["prompts"] = {"limit": 12}
    first["rehearsal"] = later[0]["rehearsal"] = {"limit": 12}
    shown = {"mix": {"uri": "stage://contrastive", "ratio": 0.5}}
    full = {"stages": [first, *(stage | shown for stage in later)],
            "evaluation": {"benchmarks": [part["evaluation"]["benchmarks"][0] for part in parts]},
            "gate": {"primary": "field/pie_aar",
                     "guards": {"field/game2_success": 0.0, "field/chair_clean": 0.0}}}
    return small_config(root, **{**full, **changes})


class Done(NamedTuple):
    """A finished run's root, and all that it said."""

    store: Store
    log: str


def finish(folder: Path, repo: Path, small: Callable[..., dict[str, Any]], *command: str) -> Done:
    """Run *command* with the file of a *small* configuration behind it, to its end."""
    store, log, config = Store(str(folder / "root")), folder / "log.txt", folder / "small.yaml"
    config.write_text(yaml.safe_dump(small(store.root, shard_size=8)))
    env = environment(folder / "home", PYTHONPATH=str(repo))
    with process([*command, str(config)], env, log, repo) as child:
        assert child.wait(timeout=540) == 0, log.read_text()
    return Done(store, log.read_text())


def environment(home: Path, **more: str) -> dict[str, str]:
    """A Prefect of its own, and nothing of the user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180", "DO_NOT_TRACK": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_CLI_PROMPT": "false",
            "RAY_worker_niceness": "0", **more}


def free_port() -> int:
    """A loopback port that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(
    command: list[str], env: dict[str, str], log: Path, cwd: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in its own group; the group is ended with the block."""
    with log.open("ab") as output:
        child = subprocess.Popen([str(BIN / command[0]), *command[1:]], env=env, cwd=cwd,
                                 stdout=output, stderr=output, start_new_session=True)
    try:
        yield child
    finally:
        end_group(child, signal.SIGTERM)


def end_group(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Signal a child's process group and wait; what stays after 20 s is killed."""
    for each in (number, signal.SIGKILL):
        try:
            os.killpg(child.pid, each)
            child.wait(timeout=20)
        except ProcessLookupError:
            child.wait(timeout=20)
            return
        except subprocess.TimeoutExpired:
            continue


def artifact_rows(store: Store, prefix: str) -> list[str]:
    """The row ids that a manifest lists, in order."""
    manifest = read_manifest(store, prefix)
    return [row_id for shard in manifest.shards for row_id in store.open_parquet(
        f"{prefix}/{shard.path}").read(columns=["row_id"])["row_id"].to_pylist()]
