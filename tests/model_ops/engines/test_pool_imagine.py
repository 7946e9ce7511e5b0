"""Self-imagination on the pool, on a real Ray, killed mid-way: what was finished stays as it is."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from model_ops.engines.pool import LocalModel, ProgramJob, run_programs
from model_ops.programs.calls import Call, Generate
from schemas.artifacts import publish, read_manifest, read_rows, read_shard, write_shard
from schemas.config import EngineConfig, ImagineConfig
from schemas.manifest import Manifest
from schemas.questions import QUESTION_TYPES
from schemas.rows import AskedRow, ImaginedRow
from schemas.store import Store
from tests.model_ops.engines.plays import answer, collection, refs_of

pytestmark = [pytest.mark.ray, pytest.mark.e2e]

HERE = "tests.model_ops.engines.test_pool_imagine"
ENGINE = EngineConfig(num_actors=1, live_programs=16, max_model_len=512)
NUM_SHARDS, SHARD = 15, 8
CALLS = 4
"""Of a question: two replies and two verdicts."""
_NUMBER = re.compile(r"number (\d+)")


def answer_slowly(call: Call, seed: int) -> str:
    """`plays.answer`, slow enough to be killed meanwhile; notes by whom, and about which question,
    in the file that IMAGINE_LOG names."""
    assert isinstance(call, Generate)
    time.sleep(0.004)
    asked = _NUMBER.search(call.messages[-1].parts[-1])
    assert asked is not None
    with Path(os.environ["IMAGINE_LOG"]).open("a") as log:
        log.write(f"{os.getpid()} {asked[1]}\n")
    return answer(call, seed)


def job(engine: str) -> ProgramJob:
    settings = ImagineConfig(criteria="nursery").model_dump(mode="json")
    return ProgramJob(program="imagine", settings=settings, prompts="nursery", round=1,
                      stage="00-contrastive", seed=5, models={
                          "": LocalModel(path=f"scripted:{HERE}:{engine}", digest="scripted")})


def publish_questions(store: Store, images: Manifest) -> Manifest:
    """Numbered questions of all kinds, in shards."""
    refs, num = refs_of(store, images), NUM_SHARDS * SHARD
    rows = [AskedRow(row_id=f"q{n}", round=1, stage="00-contrastive", model_digest="scripted",
                     prompt_version="1", seed=5, image=refs[n % len(refs)],
                     question_type=QUESTION_TYPES[n % len(QUESTION_TYPES)],
                     question=f"what about number {n} ?", source="grammar") for n in range(num)]
    shards = [write_shard(store, "asked", index, rows[index * SHARD:(index + 1) * SHARD], AskedRow,
                          inputs_digest="a") for index in range(NUM_SHARDS)]
    return publish(store, Manifest(kind="asked", prefix="asked", inputs_digest="a", shards=shards))


def finished(store: Store) -> set[int]:
    """Indices of the shards that have a receipt."""
    return {n for n in range(NUM_SHARDS) if store.exists(f"out/receipts/{n:05d}.json")}


def noted(log: Path) -> list[tuple[int, int]]:
    """Process and question of every call so far."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(pid), int(number)) for pid, number in map(str.split, lines)]


def wait_for_end(pids: Iterable[int]) -> None:
    """Until none of them runs any more (a zombie does not)."""
    deadline, left = time.monotonic() + 60, set(pids)
    while left := {pid for pid in left if _runs(pid)}:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module", autouse=True)
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where slow engines note their calls; named before Ray starts, as its workers see no later
    change of the environment. Ray is stopped at the end."""
    import ray

    path = tmp_path_factory.mktemp("imagine") / "calls.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGINE_LOG", str(path))
        ray.shutdown()
        yield path
        ray.shutdown()


RUN = f"""
import sys
from model_ops.engines.pool import run_programs
from schemas.artifacts import read_manifest
from schemas.store import Store
from {HERE} import ENGINE, job
store = Store(sys.argv[1])
run_programs(store, read_manifest(store, "asked"), read_manifest(store, "images"),
             job("answer_slowly"), ENGINE, "out")
"""


def kill_midway(run: str, store: Store, env: dict[str, str], log: Path) -> None:
    """Start the run, kill -9 it once some shards are finished; its actor is gone afterwards."""
    child = subprocess.Popen([sys.executable, "-c", run, store.root], env=env)
    while len(finished(store)) < 3:
        assert child.poll() is None
        time.sleep(0.02)
    child.kill()
    child.wait()
    wait_for_end(pid for pid, _ in noted(log))


def test_a_killed_run_ends_with_the_same_rows_and_asks_only_what_is_missing(
        local_store: Store, log: Path, child_env: Callable[[], dict[str, str]]) -> None:
    images = collection(local_store)
    asked = publish_questions(local_store, images)
    kill_midway(RUN, local_store, child_env(), log)
    kept, before = finished(local_store), len(noted(log))
    assert 3 <= len(kept) < NUM_SHARDS and not local_store.exists("out/manifest.json")
    made = run_programs(local_store, asked, images, job("answer_slowly"), ENGINE, "out")
    missing = {int(row.row_id[1:]) for index in set(range(NUM_SHARDS)) - kept
               for row in read_shard(local_store, asked, index, AskedRow)}
    again = Counter(number for _, number in noted(log)[before:])
    assert again == dict.fromkeys(missing, CALLS)
    whole = run_programs(local_store, asked, images, job("answer"), ENGINE, "whole")
    assert made.digest == whole.digest
    assert list(read_rows(local_store, made, ImaginedRow)) == list(
        read_rows(local_store, whole, ImaginedRow))
    check_rows(local_store, made)
    assert made == read_manifest(local_store, "out") == run_programs(
        local_store, asked, images, job("answer_slowly"), ENGINE, "out",
        on_progress=lambda done, total: pytest.fail("imagined again"))


def check_rows(store: Store, made: Manifest) -> None:
    """A row a question, in order and none twice; the counts add up."""
    rows = list(read_rows(store, made, ImaginedRow))
    assert [row.question for row in rows] == [f"what about number {n} ?"
                                              for n in range(NUM_SHARDS * SHARD)]
    assert len({row.row_id for row in rows}) == len(rows)
    assert {row.num_calls for row in rows} == {CALLS}
    assert made.funnel == {"planned": len(rows), "played": len(rows)}
    assert (made.kind, made.determinism) == ("imagined", "call")
