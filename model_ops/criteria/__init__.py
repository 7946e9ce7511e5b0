"""Criteria sets: what a kind of question is, and how it should and should not be replied to.

Its one idea: the few texts that people write for the contrastive method are files to be edited, one
YAML a kind (`<set>/<slug>.yaml`), and everything made with them carries the digest of the whole
set. Nothing else here knows the kinds: the prompts put these texts into words (`programs`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from schemas.errors import ConfigError
from schemas.questions import HAS_MIDDLE, QUESTION_TYPES, QuestionType, slug

_FOLDER = Path(__file__).parent
_NAMES = {f"{slug(kind)}.yaml": kind for kind in QUESTION_TYPES}


def _or_none(value: Any) -> Any:
    """What YAML writes for "nothing" (every scalar is read as text, see `_parse`)."""
    return None if value in ("", "~", "null", "Null", "NULL") else value


def _some_text(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise ValueError("must not be empty")
    return value


Text = Annotated[str, BeforeValidator(_some_text)]


class Rubric(BaseModel):
    """When a judge calls a reply True, Ambiguous or False."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    true: Text
    ambiguous: Annotated[Text | None, BeforeValidator(_or_none)] = None
    """Only for kinds that have a middle (`schemas.questions.HAS_MIDDLE`)."""
    false: Text


class Criterion(BaseModel):
    """One kind of question (methods/contrastive_macaroon.md, section 1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Text
    """Raise it when the wording changes; the digest tells versions apart in any case."""
    question_type: QuestionType
    """The kind: the string of `schemas.questions`."""
    definition: Text
    """What makes a question one of this kind."""
    examples: list[Text]
    """A few questions of the kind."""
    desired: Text
    """Instruction for the reply that is wanted."""
    undesired: Text
    """Instruction for the reply that is not."""
    rubric: Rubric
    """For the judge."""
    asks: Annotated[bool | None, BeforeValidator(_or_none)] = None
    """Must the desired reply hold a question mark? None: not checked."""
    refusal_words: Annotated[list[Text] | None, BeforeValidator(_or_none)] = None
    """The desired reply must hold one of these words or phrases (any case); None: not checked. For
    `Clear`: it must hold none."""

    @model_validator(mode="after")
    def _a_middle_only_where_there_is_one(self) -> "Criterion":
        if self.rubric.ambiguous is not None and self.question_type not in HAS_MIDDLE:
            raise ValueError("rubric.ambiguous: replies to this kind have no middle; leave it out")
        return self

    @model_validator(mode="after")
    def _lists_hold_something(self) -> "Criterion":
        if not self.examples or self.refusal_words == []:
            raise ValueError("examples and refusal_words must not be empty lists; refusal_words "
                             "may be left out")
        return self


@dataclass(frozen=True, slots=True)
class CriteriaSet:
    """A loaded set, one criterion a kind. `digest` is the sha256 over names and contents."""

    name: str
    digest: str
    criteria: Mapping[str, Criterion]

    def of(self, question_type: str) -> Criterion:
        """The criterion of a kind; raises `ConfigError` if there is no such kind."""
        if question_type not in self.criteria:
            raise ConfigError(f"no kind of question {question_type!r}: known are "
                              f"{', '.join(QUESTION_TYPES)}")
        return self.criteria[question_type]


def load_criteria(set_or_folder: str) -> CriteriaSet:
    """Load the set of this name (`default`, `nursery`), or the YAML files of a folder.

    A file that was changed is read again: an edited set is never taken for the old one. Raises
    `ConfigError`, with the file and what to do, for a kind that is missing or not known, for a key
    that is missing or not known, and for what is no YAML.
    """
    folder = Path(locate_criteria(set_or_folder))
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))
    for path in paths:
        if path.name not in _NAMES:
            raise ConfigError(f"{path} is named after no kind of question: the files of a criteria "
                              f"set are {', '.join(_NAMES)}")
    if missing := [name for name in _NAMES if not (folder / name).exists()]:
        raise ConfigError(f"the criteria set {folder} has no {' and no '.join(missing)}: copy what "
                          f"is missing from {_FOLDER / 'default'} and edit it")
    return _parse_all(set_or_folder, tuple((path, _read(path)) for path in paths))


def locate_criteria(set_or_folder: str) -> str:
    """The folder of a set's name, or the folder itself, as an absolute path: what may travel to
    another process. Raises `ConfigError` if there is none."""
    sets = sorted(path.name for path in _FOLDER.iterdir() if path.is_dir() and path.name[0] != "_")
    if set_or_folder in sets:
        return str(_FOLDER / set_or_folder)
    folder = Path(set_or_folder).expanduser()
    if set_or_folder and folder.is_dir():
        return str(folder.resolve())
    raise ConfigError(f"no criteria set {set_or_folder!r}: give one of {', '.join(sets)}, or a "
                      f"folder with one YAML file a kind (copy {_FOLDER / 'default'} to begin)")


def portable_criteria(set_or_folder: str) -> str:
    """What names the same set in another process: a shipped set's name, else an absolute path.

    Raises as `load_criteria` does, so that a bad set is noticed before anything is asked.
    """
    load_criteria(set_or_folder)
    folder = Path(locate_criteria(set_or_folder))
    return set_or_folder if folder.parent == _FOLDER else str(folder)


def _read(path: Path) -> bytes:
    """The file's content; read again only once the file was changed."""
    try:
        state = path.stat()
        return _content(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise ConfigError(f"the criteria file {path} cannot be read: {error}") from error


@lru_cache(maxsize=64)
def _content(path: Path, changed_at: int, size: int) -> bytes:
    return path.read_bytes()


@lru_cache(maxsize=16)  # a program loads the set for every row
def _parse_all(name: str, files: tuple[tuple[Path, bytes], ...]) -> CriteriaSet:
    digest = hashlib.sha256()
    for path, content in files:
        digest.update(path.name.encode() + b"\0" + content + b"\0")
    criteria = {_NAMES[path.name]: _parse(path, content) for path, content in files}
    return CriteriaSet(name, digest.hexdigest(), criteria)


def _parse(path: Path, content: bytes) -> Criterion:
    """One file. All scalars are read as text: YAML takes the key `true` and the word `no` for
    truth values."""
    try:
        found = yaml.load(content, Loader=yaml.BaseLoader)  # texts only, constructs nothing
        criterion = Criterion.model_validate(found)
    except yaml.YAMLError as error:
        raise ConfigError(f"the criteria file {path} is no YAML: {error}; mend it, or copy "
                          f"{_FOLDER / 'default' / path.name}") from error
    except ValidationError as error:
        raise ConfigError(f"the criteria file {path} cannot be used: {_told(error)}; "
                          f"{_FOLDER / 'default' / path.name} shows what belongs in it") from error
    if criterion.question_type != _NAMES[path.name]:
        raise ConfigError(f"the criteria file {path} says question_type "
                          f"{criterion.question_type!r}, its name says {_NAMES[path.name]!r}: "
                          f"change one of them")
    return criterion


def _told(error: ValidationError) -> str:
    """Every problem as `key: what is wrong`."""
    problems = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, p['loc'])) or 'the file'}: {p['msg']}" for p in problems)
