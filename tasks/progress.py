"""Progress of a long step: an artifact in the Prefect UI, and a bar or plain lines on the console.

A terminal gets a bar with counts and time left, drawn on the console that Prefect logs to, so that
the two do not tear each other; everything else gets a log line now and then.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model_ops.stages import OnProgress

LINE_EVERY_S = 10.0
ARTIFACT_EVERY_S = 2.0


@contextmanager
def progress(title: str, key: str) -> Iterator[OnProgress]:
    """A function that takes (done, total); nothing is shown before it is called."""
    report = _Report(title, key)
    try:
        yield report.update
    finally:
        report.close()


class _Report:
    """What has been shown of one step's progress, and when.

    Updates may come from another thread: they are run in the context of the task that began.
    """

    def __init__(self, title: str, key: str) -> None:
        self._context = copy_context()
        self._title = title
        self._key = key
        self._started = time.monotonic()
        self._line_at = self._started
        self._first = -1
        self._artifact_at = 0.0
        self._artifact: UUID | None = None
        self._bar: Progress | None = None

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        self._context.run(self._show, done, total)

    def _show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first < 0:
            self._first, self._started = done, now
        if now - self._artifact_at >= ARTIFACT_EVERY_S or done >= total:
            self._artifact_at = now
            self._update_artifact(100.0 * done / max(total, 1))
        console = _console()
        if console.is_terminal:
            self._update_bar(console, done, total)
        elif now - self._line_at >= LINE_EVERY_S:
            self._line_at = now
            self._log(now, done, total)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def _update_artifact(self, percent: float) -> None:
        if self._artifact is None:
            self._artifact = create_progress_artifact(  # type: ignore[assignment]  # sync here
                percent, key=self._key, description=self._title)
        else:
            update_progress_artifact(self._artifact, percent)

    def _update_bar(self, console: Console, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = Progress(TextColumn("{task.description}"), BarColumn(),
                                 MofNCompleteColumn(), TimeRemainingColumn(),
                                 console=console, transient=True)
            self._bar.add_task(self._title, total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def _log(self, now: float, done: int, total: int) -> None:
        left = ""
        if done > self._first:  # the time before the first update was the engine's start
            each = (now - self._started) / (done - self._first)
            left = f", {each * (total - done):.0f} s left"
        get_run_logger().info("%s: %d of %d%s", self._title, done, total, left)


def _console() -> Console:
    """The console that Prefect's log handler prints to."""
    for handler in logging.getLogger().handlers:
        console = getattr(handler, "console", None)
        if isinstance(console, Console):
            return console
    return Console(stderr=True)
