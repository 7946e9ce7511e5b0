"""The pool on a real Ray: same rows however it is disturbed, finished shards left alone."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model_ops.engines.pool import LocalModel, PoolWork, ProgramJob, run_all, run_programs
from model_ops.prompts import load_prompts
from schemas.artifacts import read_quarantine, read_rows
from schemas.config import EngineConfig
from schemas.errors import ConfigError, EngineError
from schemas.manifest import Manifest
from schemas.rows import ItemRow
from schemas.store import Store
from tests.model_ops.engines.plays import HERE, collection, questions
from tests.model_ops.engines.test_endpoint import Server, completion

pytestmark = pytest.mark.ray

ENGINE = EngineConfig(num_actors=1, live_programs=16, max_model_len=512)


@pytest.fixture(scope="module", autouse=True)
def calls_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where slow engines count their calls; named before Ray starts, as its workers see no later
    change of the environment. Ray is stopped at the end."""
    import ray

    log = tmp_path_factory.mktemp("calls") / "calls.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYS_LOG", str(log))
        ray.shutdown()
        yield log
        ray.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root"))


def job(answer: str = "answer", **settings: Any) -> ProgramJob:
    model = LocalModel(path=f"scripted:{HERE}:{answer}", digest="scripted")
    return ProgramJob(program=f"{HERE}:KIND", settings=settings, prompts="nursery", round=1,
                      stage="test", seed=5, models={"": model})


def rows_of(store: Store, manifest: Manifest) -> list[ItemRow]:
    return list(read_rows(store, manifest, ItemRow))


def test_every_item_becomes_a_row_or_a_quarantined_row_in_order(store: Store) -> None:
    images = collection(store)
    items = questions(store, images, 100, 16)
    seen: list[tuple[int, int]] = []
    made = run_programs(store, items, images, job(trouble=True), ENGINE, "out",
                        on_progress=lambda done, total: seen.append((done, total)))
    rows, dropped = rows_of(store, made), list(read_quarantine(store, made))
    assert [row.row_id for row in rows] == [f"q{n}" for n in range(100) if n % 10 not in (3, 7)]
    assert Counter(row.reason for row in dropped) == {"unlucky": 10, "program_error": 10}
    assert made.funnel == {"planned": 100, "played": 80, "program_error": 10, "unlucky": 10}
    assert "ZeroDivisionError: a bug in the program" in {row.detail for row in dropped}
    assert (made.kind, made.determinism, made.stats["calls"]) == ("items", "call", 240)
    assert seen == [(n, 7) for n in range(1, 8)]
    assert made.parents["prompts"] == load_prompts("nursery").digest


def test_two_actors_make_the_same_bytes_as_one_and_nothing_is_done_twice(store: Store) -> None:
    images = collection(store)
    items = questions(store, images, 60, 8)
    one = run_programs(store, items, images, job(), ENGINE, "one")
    two = run_programs(store, items, images, job(), ENGINE.model_copy(update={"num_actors": 2}),
                       "two")
    assert [s.sha256 for s in one.shards] == [s.sha256 for s in two.shards]
    again = run_programs(store, items, images, job(), ENGINE, "one",
                         on_progress=lambda done, total: pytest.fail("played again"))
    assert again == one


def test_few_shards_are_shared_out(store: Store) -> None:
    images = collection(store)
    items = questions(store, images, 2, 1)
    engine = ENGINE.model_copy(update={"num_actors": 2, "live_programs": 256})
    made = run_programs(store, items, images, job("answer_together", calls=1), engine, "out")
    assert [row.reply for row in rows_of(store, made)] == ["yes", "yes"]


def test_several_artifacts_share_one_pool(store: Store) -> None:
    images = collection(store)
    works = [PoolWork(questions(store, images, 20, 8, f"items{n}"), images, job(), f"out{n}")
             for n in range(2)]
    first, second = run_all(store, works, ENGINE)
    assert (first.prefix, second.prefix) == ("out0", "out1")
    assert len(rows_of(store, first)) == len(rows_of(store, second)) == 20


def test_works_with_different_models_share_one_pool(store: Store) -> None:
    images = collection(store)
    items = questions(store, images, 12, 4)
    works = [PoolWork(items, images, job(answer), f"out-{answer}")
             for answer in ("answer", "answer_maybe")]
    sure, unsure = run_all(store, works, ENGINE)
    assert {row.reply for row in rows_of(store, unsure)} == {"maybe maybe maybe"}
    assert not any("maybe" in row.reply for row in rows_of(store, sure))


def test_a_wrong_configuration_ends_the_run_as_what_it_is(store: Store) -> None:
    images = collection(store)
    items = questions(store, images, 12, 4)
    with pytest.raises(ConfigError, match="no such prompt: add it"):
        run_programs(store, items, images, job(misconfigured=True), ENGINE, "out")
    assert not store.exists("out/engine_error.txt")  # the actor did not die of it


def test_a_killed_actor_is_replaced_without_lost_or_double_rows(
        store: Store, calls_log: Path) -> None:
    images = collection(store)
    items = questions(store, images, 160, 16)
    whole = run_programs(store, items, images, job("answer"), ENGINE, "whole")
    killer = threading.Thread(target=_kill_after, args=(store, calls_log, "out"), daemon=True)
    killer.start()
    made = run_programs(store, items, images, job("answer_slowly"), ENGINE, "out")
    killer.join()
    calls = calls_log.read_text().split()
    assert len(set(calls)) == 2, "one actor was killed, one took its place"
    assert [s.sha256 for s in made.shards] == [s.sha256 for s in whole.shards]
    assert 480 <= len(calls) < 960, "finished shards were not played again"


def _kill_after(store: Store, log: Path, prefix: str) -> None:
    """Once some shards are finished and others are not, kill the actor that plays."""
    while not store.exists(f"{prefix}/receipts/00002.json"):
        time.sleep(0.02)
    os.kill(int(log.read_text().split()[-1]), signal.SIGKILL)


RUN = """
import sys
from model_ops.engines.pool import run_programs
from schemas.artifacts import read_manifest
from schemas.store import Store
from tests.model_ops.engines.test_pool import ENGINE, job
store = Store(sys.argv[1])
run_programs(store, read_manifest(store, "items"), read_manifest(store, "images"),
             job("answer_slowly"), ENGINE, "out")
"""


@pytest.mark.e2e
def test_a_killed_driver_leaves_its_finished_shards_to_the_next(
        store: Store, child_env: Callable[[], dict[str, str]]) -> None:
    images = collection(store)
    items = questions(store, images, 160, 16)
    child = subprocess.Popen([sys.executable, "-c", RUN, store.root], env=child_env())
    while not store.exists("out/receipts/00002.json"):
        assert child.poll() is None
        time.sleep(0.02)
    child.kill()
    child.wait()
    time.sleep(1)
    finished = sum(store.exists(f"out/receipts/{n:05d}.json") for n in range(10))
    played: list[int] = []
    made = run_programs(store, items, images, job("answer_slowly"), ENGINE, "out",
                        on_progress=lambda done, total: played.append(done))
    whole = run_programs(store, items, images, job("answer"), ENGINE, "whole")
    assert finished < 10
    assert len(played) <= 10 - finished
    assert [s.sha256 for s in made.shards] == [s.sha256 for s in whole.shards]


def test_an_endpoint_needs_no_model_on_this_machine(store: Store) -> None:
    server = Server()
    server.behave = lambda body, number: (200, completion("yes"))
    images = collection(store)
    engine = ENGINE.model_copy(update={"kind": "endpoint", "base_url": server.url,
                                       "model_name": "remote", "max_concurrency": 4})
    made = run_programs(store, questions(store, images, 6, 3), images,
                        _with_model(server.url), engine, "out")
    server.http.shutdown()
    assert {row.reply for row in rows_of(store, made)} == {"yes yes yes"}
    assert len(server.requests) == 18


def test_an_engine_that_keeps_dying_is_one_clear_error(store: Store) -> None:
    images = collection(store)
    items = questions(store, images, 4, 4)
    with pytest.raises(EngineError, match="last words: EngineError: out of memory"):
        run_programs(store, items, images, job("die"), ENGINE, "out")
    assert not store.exists("out/receipts/00000.json")  # it answered nobody, so nobody is to blame


def test_a_program_that_kills_engines_is_quarantined_and_the_others_end(store: Store) -> None:
    images = collection(store)
    items = questions(store, images, 16, 4)
    made = run_programs(store, items, images, job("die_of_the_first"), ENGINE, "out")
    assert [row.row_id for row in rows_of(store, made)] == [f"q{n}" for n in range(1, 16)]
    (dropped,) = read_quarantine(store, made)
    assert (dropped.row_id, dropped.reason) == ("q0", "engine_crash")
    assert "illegal memory access" in dropped.detail
    assert made.funnel == {"planned": 16, "played": 15, "engine_crash": 1}


def test_an_engine_that_cannot_start_is_one_clear_error(store: Store) -> None:
    images = collection(store)
    items = questions(store, images, 4, 4)
    with pytest.raises(EngineError, match=r"no scripted engine at .*nobody"):
        run_programs(store, items, images, job("nobody"), ENGINE, "out")
    with pytest.raises(EngineError, match="there is no model at /nowhere"):
        run_programs(store, items, images, _with_model("/nowhere"), ENGINE, "out")


def test_more_cpus_than_ray_has_is_an_error_and_not_a_wait(store: Store) -> None:
    images = collection(store)
    items = questions(store, images, 4, 4)
    with pytest.raises(ConfigError, match="1000 CPUs are asked"):
        run_programs(store, items, images, job(), ENGINE.model_copy(update={"num_cpus": 1000}),
                     "out")


def _with_model(path: str) -> ProgramJob:
    return job().model_copy(update={"models": {"": LocalModel(path=path, digest="d")}})
