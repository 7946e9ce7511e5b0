"""The driving process whose memory is measured: `python -m tests.bench.scripted_pool ROOT`.

Plays the items of ROOT on the pool (real Ray Data, one actor, scripted engine) and prints a JSON
line with its own and the actor's peak memory. The scripted answer reads and decodes its image as
an engine does, but keeps a small memory of bytes only: a cache that fills up to its bound is no
leak, and would hide one.
"""

import json
import os
import sys
import time
from functools import cache
from pathlib import Path

from model_ops.engines.pool import LocalModel, ProgramJob, run_programs
from model_ops.images import ImageReader, decode
from model_ops.programs.calls import Call, Generate
from schemas.artifacts import read_manifest
from schemas.config import EngineConfig
from schemas.store import Store

ROOT = "BENCH_MEMORY_ROOT"
"""Environment variable by which the actor finds the images."""
ACTOR = "actor.pid"
_CACHE_BYTES = 1 << 20
_MAX_PIXELS = 1 << 20


def answer(call: Call, seed: int) -> str:
    """Look at the image, say yes or no."""
    assert isinstance(call, Generate)
    picture = decode(_reader().read(call.images[0]), _MAX_PIXELS)
    return "yes" if (seed + picture.width) % 2 else "no"


@cache
def _reader() -> ImageReader:
    """The actor's reader, made at its first call; leaves the actor's process id in the root."""
    store = Store(os.environ[ROOT])
    store.write_bytes(ACTOR, str(os.getpid()).encode())
    return ImageReader(store, read_manifest(store, "images"), _CACHE_BYTES)


def peak_mib(pid: int | str) -> float:
    """The largest resident size that a process has had so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main(root: str) -> None:
    """Play, and print what it took."""
    os.environ[ROOT] = root
    store, actor_peak = Store(root), [0.0]
    job = ProgramJob(program="vqa", settings={"metric": "bench/vqa", "scoring": "exact"},
                     prompts="nursery", round=1, stage="bench", seed=0, models={
                         "": LocalModel(path=f"scripted:{__spec__.name}:answer", digest="none")})

    def look(done: int, total: int) -> None:
        actor_peak.append(peak_mib(store.read_bytes(ACTOR).decode()))

    started = time.perf_counter()
    made = run_programs(store, read_manifest(store, "items"), read_manifest(store, "images"), job,
                        EngineConfig(num_cpus=1, live_programs=256), "out", look)
    print(json.dumps({"rows": made.num_rows, "seconds": time.perf_counter() - started,
                      "driver_mib": peak_mib("self"), "actor_mib": max(actor_peak)}))


if __name__ == "__main__":
    main(sys.argv[1])
