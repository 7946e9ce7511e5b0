"""What all tasks have in common: retries for passing failures, and a line when nothing was to do.

Prefect's own cache and result storage stay off: a manifest says what is done, and survives the
scheduler. What a retry cannot mend (a wrong configuration, a held lock) fails at once.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from schemas.artifacts import read_manifest
from schemas.errors import EngineError, StoreError
from schemas.lock import check_root
from schemas.manifest import Manifest
from schemas.store import Store

P = ParamSpec("P")
R = TypeVar("R")
TRANSIENT = (StoreError, EngineError, ConnectionError, TimeoutError)
"""Training is not here: Ray Train restarts it by itself."""


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether another try may help."""
    return isinstance(state.result(raise_on_failure=False), TRANSIENT)


def step(
    name: str, task_run_name: str | None = None, retry_delays: tuple[float, ...] = (2, 15)
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """The decorator of every task."""
    return task(
        name=name, task_run_name=task_run_name, retries=len(retry_delays),
        retry_delay_seconds=list(retry_delays), retry_condition_fn=is_transient,
        cache_policy=NO_CACHE, persist_result=False)


def noted(store: Store, prefix: str, work: Callable[[], Manifest]) -> Manifest:
    """Do `work`, whose artifact is at `prefix`, and log whether it was made or found complete."""
    return noted_all(store, [prefix], lambda: {prefix: work()})[prefix]


def noted_all(
    store: Store, prefixes: list[str], work: Callable[[], dict[str, Manifest]]
) -> dict[str, Manifest]:
    """The same for work that makes several artifacts. `LockHeld` if the root's lock was lost."""
    check_root(store)
    before = {prefix: _created_at(store, prefix) for prefix in prefixes}
    made = work()
    for manifest in made.values():
        size = f"{manifest.num_rows} rows" if manifest.shards else f"{len(manifest.files)} files"
        if manifest.created_at == before[manifest.prefix]:
            get_run_logger().info("skipped: %s is already complete (%s)", manifest.prefix, size)
        else:
            get_run_logger().info("made: %s (%s)", manifest.prefix, size)
    return made


def _created_at(store: Store, prefix: str) -> str:
    if not store.exists(f"{prefix}/manifest.json"):
        return ""
    return read_manifest(store, prefix).created_at
