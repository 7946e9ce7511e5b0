"""How commands talk: results on stdout (text, or JSON with `--json`), everything else on stderr."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
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
        raise ConfigError(f"{path}: {'; '.join(map(_told, error.errors()))}") from error


def _told(error: ErrorDetails) -> str:
    """One thing that is wrong with a configuration: where, what, and perhaps what was meant."""
    place, kind = error["loc"], error["type"]
    if kind == "missing" and place == ("root",):
        return "`root` is missing: set it in the file, or give --root"
    what = error["msg"]
    if kind == "extra_forbidden":
        meant = get_close_matches(str(place[-1]), _fields(place[:-1]), n=1)
        what = f"no such field{''.join(f'; did you mean `{name}`?' for name in meant)}"
    return f"{'.'.join(map(str, place)) or 'config'}: {what}"


def _fields(place: tuple[int | str, ...]) -> list[str]:
    """Names of the fields at a place that pydantic names: fields, list indices and union tags."""
    models: list[type[BaseModel]] = [RunConfig]
    for part in place:
        kinds = [each.model_fields[part].annotation for each in models if part in each.model_fields]
        tagged = [each for each in models if any(
            part in get_args(field.annotation) for field in each.model_fields.values())]
        models = [inner for kind in kinds for inner in _models(kind)] or tagged or models
    return [name for each in models for name in each.model_fields]


def _models(kind: Any) -> list[type[BaseModel]]:
    """The models in an annotation, such as those of a list or a union."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for inner in get_args(kind) for model in _models(inner)]
