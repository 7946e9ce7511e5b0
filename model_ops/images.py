"""The collection: importing pictures into `images/`, and reading them back one by one.

Its one idea: a picture is its sha256. Its original bytes are stored once, each rejected file goes
to quarantine with its reason, and everyone else passes `ImageRef`s around. Decoding is `pixels`,
finding files is `sources`.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow.parquet as pq

from model_ops.pixels import decode
from model_ops.sources import (
    Candidate,
    Content,
    NurserySource,
    Source,
    listing_digest,
    open_source,
)
from schemas.artifacts import (
    find_manifest,
    find_shard,
    publish,
    read_receipt,
    read_shard,
    sum_stats,
    write_shard,
)
from schemas.config import ImagesConfig
from schemas.errors import ConfigError, DropError, StoreError
from schemas.manifest import Manifest, Shard
from schemas.rows import ImageRef, ImageRow, Picture, QuarantineRow, row_id
from schemas.store import Store

__all__ = ["ImageReader", "decode", "find_images", "import_images"]

SHARD_BYTES = 64 << 20
"""A shard takes no further file beyond this: what the importer holds in memory."""
LISTING = "listing.txt"
"""Beside the manifest: the digest of the files' names, sizes and stamps at the last import."""
NUM_READERS = 4
"""Threads that read and decode (both leave the interpreter free)."""
Progress = Callable[[int, int], None]
"""Called with the images done and the images found."""


class _Loaded(NamedTuple):
    candidate: Candidate
    content: Content
    width: int
    height: int


def import_images(store: Store, config: ImagesConfig, prefix: str = "images",
                  shard_size: int = 256, on_progress: Progress | None = None) -> Manifest:
    """Import a folder, a bucket or the nursery; finished shards of the same files are kept.

    The first of several equal files is used, the others are quarantined as `duplicate`. Counts add
    up: funnel `found` = `kept` + the drops by reason. `ConfigError` if no image is left.

    A file that was replaced is read again; one that was only touched is too, but changes nothing:
    the manifest's identity has no times.
    """
    source = open_source(config)
    chunks = list(_chunks(source.candidates(), shard_size))
    digests = _chain(config, chunks, with_stamps=True)
    identity = _chain(config, chunks, with_stamps=False)[-1] if chunks else ""
    done = find_manifest(store, prefix, identity) if chunks else None
    if done is not None and _last_listing(store, prefix) == digests[-1]:
        return done
    importer = _Importer(store, source, config, prefix)
    shards: list[Shard] = []
    total, finished = sum(map(len, chunks)), 0
    for index, chunk in enumerate(chunks):
        shards.append(importer.shard(index, chunk, digests[index]))
        finished += len(chunk)
        if on_progress is not None:
            on_progress(finished, total)
    funnel = _funnel(shards)
    if not funnel["kept"]:
        raise ConfigError(f"no usable image in {config.uri} ({funnel}); reasons per file are in "
                          f"{store.uri(prefix)}/quarantine")
    made = publish(store, Manifest(kind="images", prefix=prefix, inputs_digest=identity,
                                   shards=shards, funnel=funnel,
                                   config=config.model_dump(mode="json")))
    store.write_bytes(f"{prefix}/{LISTING}", digests[-1].encode())
    return made


def find_images(store: Store, config: ImagesConfig, candidates: Iterable[Candidate],
                prefix: str = "images", shard_size: int = 256) -> Manifest | None:
    """What is imported, if it was made from just these candidates of `config` (for plans)."""
    chunks = list(_chunks(candidates, shard_size))
    identity = _chain(config, chunks, with_stamps=False)[-1] if chunks else ""
    return find_manifest(store, prefix, identity)


def _last_listing(store: Store, prefix: str) -> str:
    """The stamped listing that the collection was last found complete for."""
    path = f"{prefix}/{LISTING}"
    return store.read_bytes(path).decode() if store.exists(path) else ""


def _chunks(candidates: Iterable[Candidate], shard_size: int) -> Iterator[list[Candidate]]:
    """Shards of candidates, limited by number and by bytes."""
    chunk: list[Candidate] = []
    size = 0
    for candidate in candidates:
        if chunk and (len(chunk) == shard_size or size + candidate.num_bytes > SHARD_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(candidate)
        size += 0 if candidate.problem else candidate.num_bytes
    if chunk:
        yield chunk


def _chain(config: ImagesConfig, chunks: list[list[Candidate]], with_stamps: bool) -> list[str]:
    digests: list[str] = []
    for chunk in chunks:
        before = digests[-1] if digests else ""
        digests.append(listing_digest(before, config, chunk, with_stamps))
    return digests


def _funnel(shards: list[Shard]) -> dict[str, int]:
    """`found`, then the drops by reason, then `kept`."""
    kept = sum(shard.num_rows for shard in shards)
    found = kept + sum(shard.num_quarantined for shard in shards)
    dropped = {name: int(num) for name, num in sorted(sum_stats(shards).items())}
    return {"found": found, **dropped, "kept": kept}


class _Importer:
    """Makes the shards in order; knows the images seen so far."""

    def __init__(self, store: Store, source: Source, config: ImagesConfig, prefix: str) -> None:
        self._store = store
        self._source = source
        self._config = config
        self._prefix = prefix
        self._seen: set[bytes] = set()

    def shard(self, index: int, chunk: list[Candidate], inputs_digest: str) -> Shard:
        """The shard of `chunk`: the finished one if there is, else made now."""
        finished = read_receipt(self._store, self._prefix, index, inputs_digest)
        if finished is not None:
            self._recall(finished)
            return finished
        rows: list[ImageRow] = []
        dropped: list[QuarantineRow] = []
        for candidate, loaded in zip(chunk, self._load_all(chunk), strict=True):
            try:
                rows.append(self._row(loaded))
            except DropError as error:
                dropped.append(self._quarantine(candidate, error))
        stats: dict[str, float] = {}
        for row in dropped:
            stats[row.reason] = stats.get(row.reason, 0) + 1
        return write_shard(self._store, self._prefix, index, rows, ImageRow, dropped, stats,
                           inputs_digest)

    def _recall(self, shard: Shard) -> None:
        with self._store.open_parquet(f"{self._prefix}/{shard.path}") as file:
            ids = file.read(columns=["image_id"]).column("image_id").to_pylist()
        self._seen.update(bytes.fromhex(image_id) for image_id in ids)

    def _load_all(self, chunk: list[Candidate]) -> list[_Loaded | DropError]:
        # The nursery draws in order and cheaply; files are read side by side.
        num_threads = 1 if isinstance(self._source, NurserySource) else NUM_READERS
        with ThreadPoolExecutor(num_threads) as pool:
            return list(pool.map(self._load, chunk))

    def _load(self, candidate: Candidate) -> _Loaded | DropError:
        try:
            if candidate.problem is not None:
                raise DropError(candidate.problem, candidate.name)
            content = self._source.read(candidate)
            image = decode(content.data, self._config.max_pixels)
            return _Loaded(candidate, content, image.width, image.height)
        except DropError as error:
            return error

    def _row(self, loaded: _Loaded | DropError) -> ImageRow:
        if isinstance(loaded, DropError):
            raise loaded
        sha256 = hashlib.sha256(loaded.content.data)
        if sha256.digest() in self._seen:
            raise DropError("duplicate", sha256.hexdigest())
        self._seen.add(sha256.digest())
        name = loaded.candidate.name
        return ImageRow(image_id=sha256.hexdigest(), width=loaded.width, height=loaded.height,
                        image=Picture(bytes=loaded.content.data, path=name.rpartition("/")[2]),
                        source=name, split=self._source.split, facts=loaded.content.facts)

    def _quarantine(self, candidate: Candidate, error: DropError) -> QuarantineRow:
        payload = f'{{"num_bytes":{candidate.num_bytes}}}'
        return QuarantineRow(row_id=row_id("image", uri=self._config.uri, name=candidate.name),
                             kind="image", reason=error.reason, detail=error.detail,
                             source=candidate.name, payload=payload)


class ImageReader:
    """Reads single pictures by reference; keeps the last row groups. Safe to use from threads."""

    def __init__(self, store: Store, manifest: Manifest, cache_bytes: int = 256 << 20) -> None:
        self._store = store
        self._manifest = manifest
        self._cache_bytes = cache_bytes
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["ImageReader"], tuple[Store, Manifest, int]]:
        return ImageReader, (self._store, self._manifest, self._cache_bytes)

    def read(self, ref: ImageRef) -> bytes:
        """The encoded bytes of one picture; `StoreError` if it is not where `ref` says."""
        with self._lock:
            file = self._file(ref.shard)
            group, offset = _locate(file, ref.row)
            pictures = self._group(ref.shard, group, file) if group >= 0 else []
        if offset < len(pictures):
            data = pictures[offset]
            if hashlib.sha256(data).hexdigest() == ref.image_id:
                return data
        raise StoreError(f"{self._store.uri(self._manifest.prefix)} shard {ref.shard} row {ref.row}"
                         f" is not image {ref.image_id}: the reference is to another import; plan "
                         f"again from the current manifest")

    def read_row(self, shard: int, row: int) -> ImageRow:
        """The whole row (with facts: for benchmarks, reports and tests)."""
        return read_shard(self._store, self._manifest, shard, ImageRow)[row]

    def _file(self, index: int) -> pq.ParquetFile:
        if index not in self._files:
            path = find_shard(self._store, self._manifest, index).path
            self._files[index] = self._store.open_parquet(f"{self._manifest.prefix}/{path}")
            if len(self._files) > 64:
                self._files.popitem(last=False)[1].close(force=True)
        self._files.move_to_end(index)
        return self._files[index]

    def _group(self, shard: int, group: int, file: pq.ParquetFile) -> list[bytes]:
        key = (shard, group)
        if key not in self._groups:
            table = file.read_row_group(group, columns=["image.bytes"])
            pictures = table.column("image").combine_chunks().field("bytes").to_pylist()
            self._groups[key] = pictures
            self._held += sum(map(len, pictures))
            while self._held > self._cache_bytes and len(self._groups) > 1:
                self._held -= sum(map(len, self._groups.popitem(last=False)[1]))
        self._groups.move_to_end(key)
        return self._groups[key]


def _locate(file: pq.ParquetFile, row: int) -> tuple[int, int]:
    """Row group of a shard's row, and the place in it; (-1, 0) if there is no such row."""
    for group in range(file.num_row_groups):
        num_rows = file.metadata.row_group(group).num_rows
        if 0 <= row < num_rows:
            return group, row
        row -= num_rows
    return -1, 0
