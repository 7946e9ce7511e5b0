"""The connection to Ray: a cluster if `RAY_ADDRESS` names one, else a small local one.

Started on first use and kept for the life of the process, so that all stages share it.
"""

import logging
import math
import os
import warnings
from typing import Any

from schemas.errors import ConfigError, EngineError

_TRIES = 3
_OBJECT_STORE_BYTES = 256 * 1024**2


def connect(num_cpus: float = 1) -> None:
    """Make sure that Ray is up; a local Ray gets at least *num_cpus* (cores may be shared).

    Raises `ConfigError` if a running local Ray is too small, rather than wait forever, and
    `EngineError` if Ray cannot start.
    """
    import ray

    if not ray.is_initialized():
        _start(num_cpus)
    available = ray.cluster_resources().get("CPU", 0)
    if available < num_cpus and not os.environ.get("RAY_ADDRESS"):
        raise ConfigError(f"{num_cpus:g} CPUs are asked of a Ray with {available:g}: lower "
                          f"num_actors or num_cpus, or start Ray with more")


def _start(num_cpus: float) -> None:
    """Start or join Ray; a busy machine may need more than the 30 s that Ray gives a node."""
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        options |= {"address": "local", "include_dashboard": False,
                    "num_cpus": max(os.cpu_count() or 1, math.ceil(num_cpus)),
                    "object_store_memory": _OBJECT_STORE_BYTES}
    for attempt in range(1, _TRIES + 1):
        earlier = {child.pid for child in _children()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            for child in _children():
                if child.pid not in earlier:  # a half-started node is left behind otherwise
                    child.kill()
            if attempt == _TRIES:
                raise EngineError(f"Ray cannot start after {_TRIES} tries: {error}; see "
                                  f"/tmp/ray/session_latest/logs, or RAY_ADDRESS") from error


def _children() -> list[Any]:
    import psutil

    return list(psutil.Process().children())


def quiet_data_context() -> None:
    """Ray Data without progress bars and start messages: the flow shows its own progress."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
