"""The root lock: at most one run writes to a root, and a dead one does not block it for long.

Its one idea: `lock.json` is a lease that changes only by compare-and-swap. It is taken if absent,
released or expired, or if its holder was a process of this machine that is gone; a thread renews
it. Releasing writes a released lease instead of deleting the object, so nobody can delete another
run's lock. Leases are compared with this machine's clock: keep clocks within a minute.
"""

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from schemas.errors import LockHeld, StoreError
from schemas.records import Record
from schemas.store import Store

PATH = "lock.json"


class Lease(Record):
    """`lock.json`: who holds the root and until when."""

    holder: str
    host: str
    pid: int
    machine: str
    """Boot and pid namespace: on the same one, and only there, `pid` can be looked up."""
    started: str
    """Start time of the process in clock ticks: another process may get the same pid."""
    token: str
    expires_at: str
    released: bool = False

    @property
    def is_free(self) -> bool:
        """Whether anybody may take it: released, expired, or its process is gone."""
        return self.released or self.has_expired or self._holder_is_dead()

    @property
    def has_expired(self) -> bool:
        """Whether its time is over."""
        return datetime.fromisoformat(self.expires_at) <= datetime.now(UTC)

    def _holder_is_dead(self) -> bool:
        return self.machine == _machine() != "" and _start_time(self.pid) != self.started


class RootLock:
    """A held lock. `check()` raises once another run holds the root, or may take it."""

    def __init__(self, store: Store, lease: Lease, duration: timedelta) -> None:
        self._store = store
        self._lease = lease
        self._duration = duration
        self._lost: str | None = None
        self._renewing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="root-lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise `LockHeld` if another run took the root over (this one slept too long).

        A lease that ended is renewed first; `StoreError` if it cannot be.
        """
        if self._lease.has_expired and self._lost is None:
            self._renew()
        if self._lost is not None:
            raise LockHeld(self._lost)
        if self._lease.has_expired:
            raise StoreError(f"{self._store.uri(PATH)}: the lease ended at "
                             f"{self._lease.expires_at} and was not renewed; start the run again")

    def release(self) -> None:
        """Stop renewing and let the next run in."""
        self._stop.set()
        self._thread.join()
        if self._lost is None:
            with suppress(StoreError):  # storage is away: the lease ends by itself
                self._swap(self._lease.model_copy(update={"released": True}))

    def _keep(self) -> None:
        while not self._stop.wait(self._duration.total_seconds() / 3) and self._lost is None:
            try:
                self._renew()
            except StoreError:  # storage is away for a moment: the lease bridges two such failures
                continue

    def _renew(self) -> None:
        with self._renewing:
            self._swap(self._lease.model_copy(update={"expires_at": _later(self._duration)}))

    def _swap(self, lease: Lease) -> None:
        if self._store.replace(PATH, _bytes(lease), _bytes(self._lease)):
            self._lease = lease
            return
        current = _read(self._store)
        if current == lease:  # a retried request that had already succeeded
            self._lease = lease
        elif current != self._lease:
            self._lost = _message(self._store, current)


_held: dict[str, RootLock] = {}
"""The locks that this process holds, by root."""


def check_root(store: Store) -> None:
    """`check()` of the lock that this process holds on the root; nothing if it holds none.

    Called before each step that writes, so that a run that lost its lease does not begin another.
    """
    if (lock := _held.get(store.root)) is not None:
        lock.check()


@contextmanager
def hold_root(store: Store, holder: str, lease_minutes: float) -> Iterator[RootLock]:
    """Hold the root while the block runs; `LockHeld` (names the holder) if another run does.

    `holder` is what the other run's user will read: a flow run's name and host, say.
    """
    duration = timedelta(minutes=lease_minutes)
    lock = _held[store.root] = RootLock(store, _take(store, holder, duration), duration)
    try:
        yield lock
    finally:
        _held.pop(store.root, None)
        lock.release()


def _take(store: Store, holder: str, duration: timedelta) -> Lease:
    pid = os.getpid()
    lease = Lease(holder=holder, host=socket.gethostname(), pid=pid, machine=_machine(),
                  started=_start_time(pid), token=secrets.token_hex(8),
                  expires_at=_later(duration))
    current = _read(store)
    if current is not None and not current.is_free:
        raise LockHeld(_message(store, current))
    if store.replace(PATH, _bytes(lease), None if current is None else _bytes(current)):
        return lease
    winner = _read(store)
    if winner == lease:  # a retried request that had already succeeded
        return lease
    raise LockHeld(_message(store, winner))


def _read(store: Store) -> Lease | None:
    if not store.exists(PATH):
        return None
    try:
        return Lease.model_validate_json(store.read_bytes(PATH))
    except ValidationError as error:
        raise StoreError(f"{store.uri(PATH)} is not a lock of this version: {error}; if no run "
                         f"uses this root, delete it") from error


def _message(store: Store, lease: Lease | None) -> str:
    if lease is None:
        return f"{store.root}: the lock was deleted while this run held it; start the run again"
    return (f"{store.root} is held by {lease.holder} (host {lease.host}, pid {lease.pid}) until "
            f"{lease.expires_at}: wait for it, stop it, or use another root; a dead run's lock "
            f"ends by itself then")


def _bytes(lease: Lease) -> bytes:
    return (lease.model_dump_json(indent=1) + "\n").encode()


def _later(duration: timedelta) -> str:
    return (datetime.now(UTC) + duration).isoformat()


def _machine() -> str:
    """Identity of this boot and pid namespace; empty where /proc has none (not Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """Start time of a living process; empty if it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
