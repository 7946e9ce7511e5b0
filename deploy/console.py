"""How commands talk: results on stdout (text, or JSON with `--json`), everything else on stderr."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.config import RunConfig
from schemas.errors import ConfigError

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def show(result: Any, as_json: bool, render: Callable[[], object]) -> None:
    """Print `result` as JSON, or what `render` makes of it for people."""
    if as_json:
        value = result.model_dump(mode="json") if isinstance(result, BaseModel) else result
        typer.echo(json.dumps(value, indent=2, default=str))
    else:
        out.print(render())


@contextmanager
def counted(title: str) -> Iterator[Callable[[int, int], None]]:
    """A function that takes (done, total) and shows a bar, on a terminal, until the block ends."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def is_debug() -> bool:
    """Whether errors come with their traceback (`flywheel --debug ...`)."""
    return os.environ.get("FLYWHEEL_DEBUG", "") not in ("", "0")


def load_config(path: Path, root: str | None = None, seed: int | None = None) -> RunConfig:
    """Read a run configuration; `root` and `seed` replace what stands in it."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a configuration: it must map names to values")
    overrides = {"root": root, "seed": seed}
    content |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}"
                          for e in error.errors())
        raise ConfigError(f"{path}: {wrong}") from error
