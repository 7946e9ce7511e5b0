"""Where pictures come from: a folder, a bucket, or the nursery.

Its one idea: a source lists its candidates in a fixed order without reading them, and each is read
later, on its own, or says why it cannot be. What a picture must be like is left to `pixels`.
Reason codes: `bad_file_name`, `path_outside_root`, `not_a_file`, `unreadable_file`,
`file_too_big`, `empty_file`.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args
from urllib.parse import urlsplit

import fsspec

from schemas.config import ImagesConfig
from schemas.errors import ConfigError, DropError, StoreError
from schemas.manifest import digest

MAX_BYTES = 256 << 20
"""A larger file is not read."""
_FILES_FAULTS = FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError
_ACCOUNTS_FAULTS = {"AccountProblem", "ExpiredToken", "InvalidAccessKeyId", "InvalidSecurity",
                    "NoSuchBucket", "NotSignedUp", "RequestTimeTooSkewed", "SignatureDoesNotMatch"}
"""S3 error codes that are handed on as the same classes, but are of no single file."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture to be: its name (printable), its size, and why it cannot be used, if known."""

    name: str
    num_bytes: int
    key: str
    """How the source finds it again."""
    problem: str | None = None
    """Reason code of a candidate that must not be read."""
    stamp: str = ""
    """What changes when the file is replaced by another of its size: time or ETag, if there is."""


@dataclass(frozen=True, slots=True)
class Content:
    """What was read: the encoded picture and, in the nursery, its facts (JSON)."""

    data: bytes
    facts: str | None = None


class Source(Protocol):
    """A place with pictures."""

    split: str

    def candidates(self) -> Iterator[Candidate]:
        """All candidates, in the source's fixed order."""
        ...

    def read(self, candidate: Candidate) -> Content:
        """The content of one; `DropError` if the file, `StoreError` if its place is unreadable."""
        ...


def open_source(config: ImagesConfig) -> Source:
    """The source of `config.uri`; `ConfigError` if there is none."""
    scheme = urlsplit(config.uri).scheme if "://" in config.uri else ""
    if scheme == "nursery":
        return NurserySource(config)
    if scheme in ("", "file"):
        return FolderSource(config)
    return BucketSource(config)


def pick(candidates: list[Candidate], limit: int | None, seed: int) -> list[Candidate]:
    """At most `limit` of them, drawn by hash of seed and name; sorted by name."""
    ordered = sorted(candidates, key=lambda c: os.fsencode(c.key))
    if limit is None or len(ordered) <= limit:
        return ordered

    def draw(candidate: Candidate) -> bytes:
        return hashlib.sha256(f"{seed}:{candidate.name}".encode()).digest()

    return sorted(sorted(ordered, key=draw)[:limit], key=lambda c: os.fsencode(c.key))


class FolderSource:
    """All files below a folder of this machine."""

    split = "all"

    def __init__(self, config: ImagesConfig) -> None:
        self._config = config
        self._root = Path(config.uri.removeprefix("file://")).expanduser().resolve()
        if not self._root.is_dir():
            raise ConfigError(f"images.uri {config.uri!r} is not a folder: {self._root}")

    def candidates(self) -> Iterator[Candidate]:
        found = [self._candidate(folder, name)
                 for folder, folders, names in os.walk(self._root)
                 for name in [*names, *(f for f in folders if (Path(folder) / f).is_symlink())]]
        yield from pick(found, self._config.limit, self._config.seed)

    def read(self, candidate: Candidate) -> Content:
        try:
            return Content((self._root / candidate.key).read_bytes())
        except OSError as error:
            raise DropError("unreadable_file", f"{candidate.name}: {error}") from error

    def _candidate(self, folder: str, name: str) -> Candidate:
        path = Path(folder) / name
        key = str(path.relative_to(self._root))
        printable = os.fsencode(key).decode("utf-8", "backslashreplace")
        problem, size, stamp = self._inspect(path)
        if printable != key:
            problem = "bad_file_name"
        return Candidate(printable, size, key, problem, stamp)

    def _inspect(self, path: Path) -> tuple[str | None, int, str]:
        """Why the file must not be read, if so, its size and its stamp. Opens nothing: it may be a
        pipe."""
        try:
            target = path.resolve(strict=True)
            status = target.stat()
        except (OSError, RuntimeError):
            return "unreadable_file", 0, ""
        if not target.is_relative_to(self._root):
            return "path_outside_root", 0, ""
        if not stat.S_ISREG(status.st_mode):
            return "not_a_file", 0, ""
        return _size_problem(status.st_size), status.st_size, str(status.st_mtime_ns)


class BucketSource:
    """All objects below a prefix of anything that fsspec reaches (s3, gs, az, http, memory)."""

    split = "all"

    def __init__(self, config: ImagesConfig) -> None:
        self._config = config
        self._files: Any
        try:
            self._files, self._prefix = fsspec.core.url_to_fs(config.uri)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"images.uri {config.uri!r} cannot be read: {error}") from error

    def candidates(self) -> Iterator[Candidate]:
        try:
            found = self._files.find(self._prefix, detail=True, refresh=True)
        except Exception as error:  # backends have errors of their own
            raise self._away(error) from error
        if not found:
            raise ConfigError(f"images.uri {self._config.uri!r} holds no objects: check the prefix "
                              f"and the rights to list it")
        listed = [self._candidate(key, entry) for key, entry in found.items()]
        yield from pick(listed, self._config.limit, self._config.seed)

    def read(self, candidate: Candidate) -> Content:
        try:
            return Content(bytes(self._files.cat_file(candidate.key)))
        except Exception as error:
            if not isinstance(error, _FILES_FAULTS) or _s3_code(error) in _ACCOUNTS_FAULTS:
                raise self._away(error) from error
            raise DropError("unreadable_file", f"{candidate.name}: {error}") from error

    def _away(self, error: Exception) -> StoreError:
        return StoreError(f"images.uri {self._config.uri!r} cannot be read: "
                          f"{type(error).__name__}: {error}; check that it is reachable and that "
                          f"you may use it")

    def _candidate(self, key: str, entry: dict[str, Any]) -> Candidate:
        name = key.removeprefix(self._prefix).lstrip("/") or key
        printable = name.encode("utf-8", "backslashreplace").decode()
        size = int(entry.get("size") or 0)
        problem = "path_outside_root" if ".." in name.split("/") else _size_problem(size)
        if printable != name or "\ufffd" in name:
            problem = "bad_file_name"
        stamp = str(entry.get("ETag") or entry.get("etag") or "")
        return Candidate(printable, size, key, problem, stamp)


def _s3_code(error: Exception) -> str | None:
    """S3's own name of the error, which s3fs keeps in the cause."""
    response = getattr(error.__cause__, "response", None) or {}
    code: str | None = response.get("Error", {}).get("Code")
    return code


class NurserySource:
    """Scenes drawn on the spot. They come in order only, and cheaply, so they are not skipped."""

    def __init__(self, config: ImagesConfig) -> None:
        from model_ops.nursery.domains import Domain

        self.split = urlsplit(config.uri).netloc
        self._config = config
        if self.split not in get_args(Domain):
            raise ConfigError(f"images.uri {config.uri!r}: the nursery has {get_args(Domain)}")
        if config.limit is None:
            raise ConfigError(f"images.limit is needed for {config.uri}: how many to draw")
        self._rows = self._draw(config.limit)
        self._next = 0

    def candidates(self) -> Iterator[Candidate]:
        # The first picture stands for the code that draws them: another one is another input.
        data, _ = next(self._draw(1))
        version = hashlib.sha256(data).hexdigest()[:12]
        for index in range(self._config.limit or 0):
            yield Candidate(f"{self._config.uri}/{self._config.seed}/{index:06d}.png", 1,
                            f"{index} {version}")

    def read(self, candidate: Candidate) -> Content:
        index = int(candidate.key.split()[0])
        assert index >= self._next, "nursery pictures are read in order"
        while True:
            data, facts = next(self._rows)
            self._next += 1
            if self._next > index:
                return Content(data, json.dumps(facts, sort_keys=True))

    def _draw(self, num: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
        from model_ops.nursery.world import image_rows

        return image_rows(num, self._config.seed, self.split)  # type: ignore[arg-type]  # checked


def listing_digest(previous: str, config: ImagesConfig, chunk: list[Candidate],
                   with_stamps: bool) -> str:
    """Identity of a shard's inputs: its candidates by name, size and problem, and all before it.

    The chain keeps the finished shards when files are added behind them, and makes a duplicate's
    place (the first one counts) part of the inputs. With stamps it says whether to read again.
    """
    listed = [[c.name, c.num_bytes, c.key, c.problem,
               *([c.stamp] if with_stamps and c.stamp else [])] for c in chunk]
    return digest([previous, config.max_pixels, config.uri, listed])


def _size_problem(num_bytes: int) -> str | None:
    return "file_too_big" if num_bytes > MAX_BYTES else None
