"""What a pool is asked to play: the program, its settings, and the models in its seats.

A job's `inputs_digest` decides whether finished shards may be used again; what the rows mean is
left to the program.
"""

import hashlib
import importlib
import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from schemas.config import EngineConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest, digest

_ASKING = ("chat", "choosing", "clip_scorer", "conditioned", "endpoint", "vllm_engine")
"""The sources of `engines` that say how a call is asked and its reply read."""


class LocalModel(BaseModel):
    """Weights that an engine can load. `digest` identifies them, `path` is where they are now;
    `scripted:<module>:<function>` stands for a scripted engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    digest: str
    dtype: str = "auto"
    engine: EngineConfig | None = None
    """An engine of its own instead of the pool's: a judge behind an endpoint."""
    reward_word: str = ""
    """What the model is asked with before every question (`engines.conditioned`); "": nothing."""


class ProgramJob(BaseModel):
    """A program to play over items. `models` maps seats to models; `""` is the default seat."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    program: str
    """Key in the registry, or `<module>:<name>` of a `ProgramKind` elsewhere."""
    settings: dict[str, Any] = {}
    prompts: str
    round: int
    stage: str
    seed: int
    models: dict[str, LocalModel]
    scorer: LocalModel | None = None
    """The CLIP or SigLIP model that answers `Score` calls, if the program makes any."""


class PoolWork(NamedTuple):
    """One artifact to make: *job* over *items* (with *images*), written under *prefix*."""

    items: Manifest
    images: Manifest
    job: ProgramJob
    prefix: str


def find_program(name: str) -> Any:
    """The `ProgramKind` called *name*. Raises `ConfigError` if there is none."""
    from model_ops.programs.registry import PROGRAMS

    if name in PROGRAMS:
        return PROGRAMS[name]
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"no program {name!r}: known are {', '.join(PROGRAMS)}, or give "
                          f"<module>:<name>") from error


def inputs_digest(work: PoolWork, engine: EngineConfig) -> str:
    """sha256 over all that shapes the rows: job, parents, prompts, models, engine, code.

    Pool size, batch sizes and where the weights lie do not count.
    """
    from model_ops.prompts import load_prompts

    job = work.job
    models = {seat: [m.digest, m.dtype, *filter(None, [m.reward_word])]
              for seat, m in job.models.items()}
    return digest({
        "job": job.model_dump(mode="json", exclude={"models", "scorer", "settings"}),
        "settings": by_content(find_program(job.program).settings_type.model_validate(
            job.settings).model_dump(mode="json")),
        "models": models, "scorer": job.scorer.digest if job.scorer else None,
        "items": work.items.digest, "images": work.images.digest,
        "prompts": load_prompts(job.prompts).digest, "engine": shaping(engine),
        "code": code_version(job.program),
    })


def by_content(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the criteria set that they name, if they do, replaced by its digest."""
    from model_ops.criteria import load_criteria

    name = settings.get("criteria")
    if not isinstance(name, str):
        return dict(settings)
    return {**settings, "criteria": load_criteria(name).digest}


def shaping(engine: EngineConfig) -> dict[str, Any]:
    """What of an engine's configuration shapes its answers."""
    return engine.model_dump(include={"kind", "max_model_len", "max_image_pixels", "base_url",
                                      "model_name"})


@cache
def code_version(program: str) -> str:
    """sha256 over the sources that shape rows (programs, looks, scores, ranks, forms, what a call
    becomes on its way to a model) and the program's own module: changed rules, new rows."""
    import model_ops.programs

    content = hashlib.sha256()
    own = inspect.getsourcefile(find_program(program).factory)
    room = Path(next(iter(model_ops.programs.__path__)))
    engines = [room.parent / "engines" / f"{name}.py" for name in _ASKING]
    sources = [*sorted(room.glob("*.py")), *engines, room.parent / "looks.py",
               room.parent / "benchmarks" / "vqa_score.py",
               room.parent / "curation" / "ranking.py", room.parent / "criteria" / "forms.py"]
    for path in [*sources, *([Path(own)] if own else [])]:
        content.update(path.name.encode() + path.read_bytes())
    return content.hexdigest()
