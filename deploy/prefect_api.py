"""The Prefect API that a command line run reports to.

With `PREFECT_API_URL` (or a profile that names one) runs are recorded there. Otherwise Prefect
starts its own temporary server, on a database inside the root: nothing else is touched.
"""

import logging
import os
import tomllib
from pathlib import Path
from typing import Any

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}
"""Settings of the temporary server: no telemetry, patience on a busy machine."""


def prepare(root: str, debug: bool = False) -> None:
    """Set up Prefect for a run of `root`; call it before anything imports Prefect."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if "://" not in root and not api_url():
        folder = Path(root).expanduser().resolve() / ".prefect"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("PREFECT_API_DATABASE_CONNECTION_URL",
                              f"sqlite+aiosqlite:///{folder / 'prefect.db'}")
    if not debug:
        _plain_console()


def api_url() -> str | None:
    """The API that the environment or the active Prefect profile names; read without Prefect."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = home / "profiles.toml"
    if not profiles.exists():
        return None
    content = tomllib.loads(profiles.read_text())
    active = os.environ.get("PREFECT_PROFILE", content.get("active", ""))
    url = content.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    return str(url) if url else None


def _plain_console() -> None:
    """Prefect's console without tracebacks (the command line reports an error) and successes."""
    from prefect.logging.configuration import setup_logging

    setup_logging()
    for handler in logging.getLogger().handlers:
        if handler.formatter is not None and hasattr(handler, "console"):
            handler.formatter.formatException = _no_traceback  # type: ignore[method-assign]
            handler.addFilter(_shorten)


def _shorten(record: logging.LogRecord) -> bool:
    record.exc_text = None  # another handler's rendering of the traceback
    return not record.getMessage().startswith("Finished in state Completed")


def _no_traceback(ei: Any) -> str:
    return ""
