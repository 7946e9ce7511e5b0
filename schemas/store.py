"""The root of a run: one folder or bucket prefix, the same few operations for both.

Its one idea: objects are written whole and never renamed, nothing is ever listed, and the two
mutable objects of a root (`champion.json`, `lock.json`) change only by compare-and-swap. What the
objects mean is left to `schemas.artifacts`, `schemas.champion` and `schemas.lock`.

Compare-and-swap on S3 is a conditional PUT (`If-Match`, `If-None-Match`; AWS S3, MinIO, Ceph, R2
and moto honour them). A server that ignores these headers (`rclone serve s3`) would silently let
two writers win, so the first swap on a root probes for it and raises `StoreError`.

The S3 calls are s3fs's synchronous ones: call them from plain threads, not from a coroutine.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import fsspec
import pyarrow.parquet as pq

from schemas.errors import ConfigError, StoreError

_LOST = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404"}


class _Objects(Protocol):
    """What a backend must do; `key` is the path relative to the root."""

    def read(self, key: str) -> bytes: ...
    def write(self, key: str, data: bytes) -> None: ...
    def create(self, key: str, data: bytes) -> bool: ...
    def replace(self, key: str, data: bytes, expected: bytes) -> bool: ...
    def exists(self, key: str) -> bool: ...
    def delete(self, key: str) -> None: ...
    def parquet(self, key: str) -> pq.ParquetFile: ...


@dataclass(frozen=True)
class Store:
    """A root URI and what can be done below it. Picklable; two stores of one root are equal."""

    root: str

    def __post_init__(self) -> None:
        root = self.root.removeprefix("file://")
        if "://" not in root:
            root = os.path.abspath(os.path.expanduser(root))
        elif not root.startswith("s3://"):
            raise ConfigError(f"root {self.root!r}: use a folder or s3://bucket/prefix")
        object.__setattr__(self, "root", root.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return "://" not in self.root

    def uri(self, path: str) -> str:
        """The full URI of `path`, for messages, links and other readers."""
        return f"{self.root}/{path}"

    def read_bytes(self, path: str) -> bytes:
        """The object's content; `StoreError` if there is none."""
        with _errors("read", self.uri(path)):
            return self._objects.read(self._key(path))

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write the object whole: a reader sees the old content or the new, never a part."""
        with _errors("write", self.uri(path)):
            self._objects.write(self._key(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Write the object only if it is absent; False if it was there."""
        with _errors("create", self.uri(path)):
            return self._swapping.create(self._key(path), data)

    def replace(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Compare-and-swap: write `data` if the content is still `expected` (None: absent).

        False if it is not, or if another writer came first.
        """
        if expected is None:
            return self.create(path, data)
        with _errors("replace", self.uri(path)):
            return self._swapping.replace(self._key(path), data, expected)

    def exists(self, path: str) -> bool:
        """Whether the object is there."""
        with _errors("look up", self.uri(path)):
            return self._objects.exists(self._key(path))

    def delete(self, path: str) -> None:
        """Remove the object; nothing happens if there is none."""
        with _errors("delete", self.uri(path)):
            self._objects.delete(self._key(path))

    def open_parquet(self, path: str) -> pq.ParquetFile:
        """Open a Parquet file for reading by row group (only the footer is read here)."""
        with _errors("read", self.uri(path)):
            return self._objects.parquet(self._key(path))

    @property
    def _objects(self) -> _Objects:
        return _backend(self.root, os.getpid())

    @property
    def _swapping(self) -> _Objects:
        if not self.is_local:
            _require_conditional_writes(self.root)
        return self._objects

    @staticmethod
    def _key(path: str) -> str:
        if path.startswith("/") or ".." in path.split("/"):
            raise StoreError(f"{path!r} leaves the root: paths are relative and without '..'")
        return path


@contextmanager
def _errors(action: str, uri: str) -> Iterator[None]:
    """Makes a failure of storage a `StoreError` that says what could not be done."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise StoreError(
            f"cannot {action} {uri}: it does not exist; check the root, or run the "
            f"stage that makes it"
        ) from error
    except _failures() as error:
        raise StoreError(
            f"cannot {action} {uri}: {type(error).__name__}: {error}; check that "
            f"the storage is reachable and that you may use it (`flywheel doctor`)"
        ) from error


def _failures() -> tuple[type[Exception], ...]:
    """What backends raise: s3fs hands on its clients' errors, of which many are no OSError."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError
    from s3fs.core import S3_RETRYABLE_ERRORS

    return OSError, ValueError, BotoCoreError, ClientError, *S3_RETRYABLE_ERRORS


@lru_cache(maxsize=16)
def _backend(root: str, _pid: int) -> _Objects:
    """The backend of `root`; one per process, as s3fs does not survive a fork."""
    return LocalObjects(Path(root)) if "://" not in root else BucketObjects(root)


class LocalObjects:
    """Objects as files: written beside their place, flushed to disk, then put there by name."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, key: str) -> bytes:
        return (self._root / key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        with self._draft(key, data) as draft:
            os.replace(draft, self._root / key)

    def create(self, key: str, data: bytes) -> bool:
        with self._draft(key, data) as draft:
            try:
                os.link(draft, self._root / key)
            except FileExistsError:
                return False
        return True

    def replace(self, key: str, data: bytes, expected: bytes) -> bool:
        with self._swap_lock():
            if not self.exists(key) or self.read(key) != expected:
                return False
            self.write(key, data)
        return True

    def exists(self, key: str) -> bool:
        return (self._root / key).is_file()

    def delete(self, key: str) -> None:
        (self._root / key).unlink(missing_ok=True)

    def parquet(self, key: str) -> pq.ParquetFile:
        return pq.ParquetFile(str(self._root / key))

    @contextmanager
    def _draft(self, key: str, data: bytes) -> Iterator[Path]:
        place = self._root / key
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f".{place.name}.{secrets.token_hex(6)}.tmp")
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield draft
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(place.parent)

    @contextmanager
    def _swap_lock(self) -> Iterator[None]:
        """Held by the kernel for this process, so that a killed swapper cannot leave it behind."""
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / ".swap").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut, so that no manifest outlives its shards."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class BucketObjects:
    """Objects of a bucket, through s3fs. A PUT is atomic by itself."""

    def __init__(self, root: str) -> None:
        self._files: Any = fsspec.filesystem("s3", use_listings_cache=False)
        self._root = root.removeprefix("s3://")

    def read(self, key: str) -> bytes:
        return bytes(self._files.cat_file(self._path(key)))

    def write(self, key: str, data: bytes) -> None:
        self._files.pipe_file(self._path(key), data)

    def create(self, key: str, data: bytes) -> bool:
        return self._put(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, expected: bytes) -> bool:
        try:
            # The tag is read before the content: a change in between makes the PUT fail.
            tag = self._head(key)["ETag"]
            if self.read(key) != expected:
                return False
        except FileNotFoundError:
            return False
        return self._put(key, data, IfMatch=tag)

    def exists(self, key: str) -> bool:
        try:
            self._head(key)
        except FileNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        bucket, name, _ = self._files.split_path(self._path(key))
        self._files.call_s3("delete_object", Bucket=bucket, Key=name)

    def parquet(self, key: str) -> pq.ParquetFile:
        # Arrow merges the ranges it needs; s3fs would read 50 MB ahead of each.
        file = self._files.open(self._path(key), "rb", cache_type="none")
        return pq.ParquetFile(_Reads(file, f"s3://{self._path(key)}"), pre_buffer=True)

    def _head(self, key: str) -> dict[str, Any]:
        """The object's headers; s3fs's own `info` would list the bucket for an absent one."""
        bucket, name, _ = self._files.split_path(self._path(key))
        headers: dict[str, Any] = self._files.call_s3("head_object", Bucket=bucket, Key=name)
        return headers

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _put(self, key: str, data: bytes, **condition: str) -> bool:
        """A conditional PUT; s3fs hides the S3 error code in the cause of its OSError."""
        bucket, name, _ = self._files.split_path(self._path(key))
        try:
            self._files.call_s3("put_object", Bucket=bucket, Key=name, Body=data, **condition)
        except OSError as error:
            response = getattr(error.__cause__, "response", None) or {}
            if response.get("Error", {}).get("Code") in _LOST:
                return False
            raise
        return True


class _Reads:
    """A bucket's open file. Arrow reads it long after it was opened, and also then may S3 fail."""

    def __init__(self, file: Any, uri: str) -> None:
        self._file, self._uri = file, uri

    def read(self, size: int = -1) -> bytes:
        """`size` bytes from where the file stands; `StoreError` if they do not come."""
        with _errors("read", self._uri):
            return bytes(self._file.read(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@lru_cache(maxsize=64)
def _require_conditional_writes(root: str) -> None:
    """Write a probe twice: a server that lets the second one pass ignores `If-None-Match`."""
    objects = _backend(root, os.getpid())
    probe = f".probe-{secrets.token_hex(8)}"
    objects.create(probe, b"first")
    try:
        if objects.create(probe, b"second") or objects.replace(probe, b"third", b"other"):
            raise StoreError(
                f"{root}: this S3 server ignores conditional writes (If-None-Match), so two runs "
                f"could both promote; use AWS S3, MinIO, Ceph, R2, or a local folder"
            )
    finally:
        objects.delete(probe)
