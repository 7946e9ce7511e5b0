"""The root lock: one run at a time; the dead and the silent do not block for long."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from schemas.errors import LockHeld, StoreError
from schemas.lock import PATH, Lease, _machine, _start_time, check_root, hold_root
from schemas.store import LocalObjects, Store

HOLD = """
import sys, time
from schemas.lock import hold_root
from schemas.store import Store
with hold_root(Store(sys.argv[1]), "first run", 10):
    print("held", flush=True)
    time.sleep(60)
"""
SECOND = 1 / 60


def lease(**changes: object) -> Lease:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    values = {"holder": "nightly", "host": "elsewhere", "pid": 1, "machine": "another",
              "started": "1", "token": "t", "expires_at": soon.isoformat()}
    return Lease.model_validate({**values, **changes})


def put(store: Store, held: Lease) -> None:
    store.write_bytes(PATH, (held.model_dump_json(indent=1) + "\n").encode())


def stored(store: Store) -> Lease:
    return Lease.model_validate_json(store.read_bytes(PATH))


def test_the_second_run_is_told_who_holds_the_root_and_until_when(store: Store) -> None:
    with hold_root(store, "improve/demo", 10) as lock:
        lock.check()
        with pytest.raises(LockHeld, match="improve/demo") as caught, hold_root(store, "me", 10):
            pass
        said = str(caught.value)
        assert stored(store).expires_at in said and f"pid {os.getpid()}" in said


def test_a_released_root_is_free_also_after_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), hold_root(store, "one", 10):
        raise ZeroDivisionError
    with hold_root(store, "two", 10):
        assert stored(store).holder == "two"
    assert stored(store).released


def test_a_lease_of_another_machine_is_respected_until_it_expires(local_store: Store) -> None:
    put(local_store, lease())
    with pytest.raises(LockHeld, match="nightly"), hold_root(local_store, "me", 10):
        pass
    put(local_store, lease(expires_at=datetime.now(UTC).isoformat()))
    with hold_root(local_store, "me", 10):
        assert stored(local_store).holder == "me"


@pytest.mark.slow
def test_a_killed_holder_on_this_machine_does_not_block(
        store: Store, child_env: Callable[[], dict[str, str]]) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLD, store.root], env=child_env(),
                             stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    with pytest.raises(LockHeld, match="first run"), hold_root(store, "second", 10):
        pass
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with hold_root(store, "second", 10):
        assert stored(store).holder == "second"


def test_a_reused_pid_is_not_the_holder(local_store: Store) -> None:
    put(local_store, lease(machine=_machine(), pid=os.getpid(), started="12345"))
    with hold_root(local_store, "me", 10):
        pass
    assert _start_time(os.getpid()) != "" and _start_time(2**22 + 1) == ""


@pytest.mark.slow
def test_the_lease_is_renewed_while_the_run_lasts(local_store: Store) -> None:
    with hold_root(local_store, "long", SECOND * 0.6) as lock:
        first = stored(local_store).expires_at
        time.sleep(1.0)
        lock.check()
        assert stored(local_store).expires_at > first
        assert not stored(local_store).is_free


@pytest.mark.slow
def test_a_run_that_lost_its_lease_is_told_and_releases_nothing(local_store: Store) -> None:
    with hold_root(local_store, "slept", SECOND * 0.3) as lock:
        put(local_store, lease(holder="taker"))
        time.sleep(0.4)
        with pytest.raises(LockHeld, match="taker"):
            lock.check()
        with pytest.raises(LockHeld, match="taker"):
            check_root(local_store)
    check_root(local_store)
    assert stored(local_store).holder == "taker" and not stored(local_store).released


@pytest.mark.slow
def test_a_deleted_lock_counts_as_lost(local_store: Store) -> None:
    with hold_root(local_store, "run", SECOND * 0.3) as lock:
        local_store.delete(PATH)
        time.sleep(0.4)
        with pytest.raises(LockHeld, match="deleted"):
            lock.check()


@pytest.mark.slow
def test_storage_that_is_away_for_a_moment_does_not_lose_the_lock(
        local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> bool:
        raise OSError("gone")

    with hold_root(local_store, "run", SECOND * 0.6) as lock:
        with monkeypatch.context() as patch:
            patch.setattr(LocalObjects, "replace", away)
            time.sleep(0.3)
        time.sleep(0.3)
        lock.check()
        assert not stored(local_store).is_free


@pytest.mark.slow
def test_a_lease_that_ended_is_renewed_or_an_error(
        local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> bool:
        raise OSError("gone")

    with hold_root(local_store, "run", SECOND * 0.3) as lock:
        lock._stop.set()  # as if the machine slept: nothing renews
        lock._thread.join()
        time.sleep(0.4)
        with monkeypatch.context() as patch:
            patch.setattr(LocalObjects, "replace", away)
            for check in (lock.check, lambda: check_root(local_store)):
                with pytest.raises(StoreError, match="gone"):
                    check()
        lock.check()
        assert not stored(local_store).is_free


def test_a_lease_that_ended_and_was_taken_is_lost(local_store: Store) -> None:
    with hold_root(local_store, "slept", SECOND * 0.1) as lock:
        lock._stop.set()
        lock._thread.join()
        put(local_store, lease(holder="taker"))
        time.sleep(0.2)
        with pytest.raises(LockHeld, match="taker"):
            lock.check()


def test_a_damaged_lock_says_what_to_do(local_store: Store) -> None:
    local_store.write_bytes(PATH, b"?")
    with pytest.raises(StoreError, match="delete it"), hold_root(local_store, "me", 10):
        pass


@pytest.mark.slow
def test_of_many_runs_that_start_together_one_gets_the_root(store: Store) -> None:
    gate, done, outcomes = threading.Barrier(5), threading.Barrier(5), []

    def start(name: str) -> None:
        gate.wait()
        try:
            with hold_root(store, name, 10):
                outcomes.append(f"held by {name}")
                done.wait(timeout=30)
        except LockHeld as error:
            outcomes.append(str(error))
            done.wait(timeout=30)

    threads = [threading.Thread(target=start, args=(f"run-{n}",)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [said.removeprefix("held by ") for said in outcomes if said.startswith("held by")]
    assert sum(f"is held by {winner} " in said for said in outcomes) == 4
