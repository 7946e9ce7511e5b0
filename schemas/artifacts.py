"""Artifacts: sharded sets of rows that exist when, and only when, their manifest does.

    <prefix>/part-00003-<sha12>.parquet             rows, under a name that is their content
    <prefix>/quarantine/part-00003-<sha12>.parquet  what could not be used, each with its reason
    <prefix>/receipts/00003.json                    the shard is complete, made from these inputs
    <prefix>/README.md                              dataset card (train rows and pairs)
    <prefix>/manifest.json                          written last: the artifact is complete

Its one idea: everything is written in this order under its final name, so a writer killed anywhere
leaves nothing that a reader would read, and the next one continues at the first missing receipt
without listing anything. What rows mean is left to `schemas.rows` and `schemas.checks`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.arrow import rows_to_table, table_to_parquet, table_to_rows
from schemas.card import dataset_card
from schemas.checks import check_pair_row, check_train_row, conditioned_by
from schemas.errors import DropError, StoreError
from schemas.manifest import Manifest, Shard
from schemas.rows import PairRow, QuarantineRow, Row, TrainRow
from schemas.store import Store

RowT = TypeVar("RowT", bound=Row)


class Receipt(BaseModel):
    """`receipts/<index>.json`: a finished shard and the inputs that it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs_digest: str
    shard: Shard


class Checked(NamedTuple):
    """Rows that passed a check, and the others as they go to quarantine."""

    rows: list[Row]
    quarantined: list[QuarantineRow]


def quarantine_row(row: Row, kind: str, error: DropError, source: str = "") -> QuarantineRow:
    """A row that could not be used: the row as JSON (pictures left out), with its reason."""
    payload = row.model_dump_json(exclude={"images": True, "image": True})
    return QuarantineRow(row_id=str(getattr(row, "row_id", "")), kind=kind, reason=error.reason,
                         detail=error.detail, source=source, payload=payload)


def check_rows(rows: Sequence[Row], row_type: type[Row]) -> Checked:
    """Split `rows` by the write-time check of their type (types without one pass)."""
    if not issubclass(row_type, TrainRow | PairRow):
        return Checked(list(rows), [])
    passed: list[Row] = []
    quarantined: list[QuarantineRow] = []
    for row in rows:
        assert isinstance(row, TrainRow | PairRow)
        try:
            _check_row(row)
            passed.append(row)
        except DropError as error:
            kind = "train" if isinstance(row, TrainRow) else "pairs"
            quarantined.append(quarantine_row(row, kind, error, source=row.source_row_id))
    return Checked(passed, quarantined)


def _check_row(row: TrainRow | PairRow) -> None:
    if isinstance(row, PairRow):
        check_pair_row(row)
    else:
        check_train_row(row, reward_words=conditioned_by(row))


def write_shard(store: Store, prefix: str, index: int, rows: Sequence[Row], row_type: type[Row],
                quarantined: Sequence[QuarantineRow] = (),
                stats: Mapping[str, float] | None = None, inputs_digest: str = "") -> Shard:
    """Write one shard: quarantine and rows first, the receipt last.

    Train rows and pairs are checked here (`schemas.checks`): one that fails moves to the
    quarantine, and the shard's counts say so. The same rows give the same file name and bytes.
    """
    checked = check_rows(rows, row_type)
    unusable = [*quarantined, *checked.quarantined]
    quarantine_path = None
    if unusable:
        quarantine_path = _write_part(store, prefix, "quarantine/", index, unusable,
                                      QuarantineRow).path
    part = _write_part(store, prefix, "", index, checked.rows, row_type)
    shard = Shard(index=index, path=part.path, num_rows=len(checked.rows),
                  num_bytes=part.num_bytes, sha256=part.sha256, quarantine_path=quarantine_path,
                  num_quarantined=len(unusable), stats=dict(stats or {}))
    receipt = Receipt(inputs_digest=inputs_digest, shard=shard)
    store.write_bytes(_receipt_path(prefix, index), _json(receipt))
    return shard


class _Part(NamedTuple):
    path: str
    sha256: str
    num_bytes: int


def _write_part(store: Store, prefix: str, folder: str, index: int, rows: Sequence[Row],
                row_type: type[Row]) -> _Part:
    data = table_to_parquet(rows_to_table(rows, row_type))
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"{folder}part-{index:05d}-{sha256[:12]}.parquet"
    store.write_bytes(f"{prefix}/{path}", data)
    return _Part(path, sha256, len(data))


def read_receipt(store: Store, prefix: str, index: int, inputs_digest: str) -> Shard | None:
    """The finished shard `index`; None if it is absent, of other inputs, or its part is damaged."""
    path = _receipt_path(prefix, index)
    if not store.exists(path):
        return None
    try:
        receipt = Receipt.model_validate_json(store.read_bytes(path))
    except ValidationError:  # of another version of this code: make the shard again
        return None
    usable = receipt.inputs_digest == inputs_digest and _is_whole(store, prefix, receipt.shard)
    return receipt.shard if usable else None


def _is_whole(store: Store, prefix: str, shard: Shard) -> bool:
    """Whether the part is there, ends in a footer, and has the receipt's number of rows."""
    path = f"{prefix}/{shard.path}"
    if not store.exists(path):
        return False
    try:
        with store.open_parquet(path) as file:
            return bool(file.metadata.num_rows == shard.num_rows)
    except StoreError:
        return False


def publish(store: Store, manifest: Manifest) -> Manifest:
    """Make the artifact exist: write its card, then its manifest. Returns it with the time set.

    Publishing the same content of the same inputs again changes nothing.
    """
    indices = [shard.index for shard in manifest.shards]
    if indices != sorted(set(indices)):
        raise StoreError(f"{store.uri(manifest.prefix)}: shards {indices} are not in order, or "
                         f"twice: publish each finished shard once, by index")
    present = find_manifest(store, manifest.prefix, manifest.inputs_digest)
    if present is not None and present.digest == manifest.digest:
        return present
    made = manifest.model_copy(update={"created_at": datetime.now(UTC).isoformat()})
    if made.kind in ("train", "pairs"):
        store.write_bytes(f"{made.prefix}/README.md", dataset_card(made).encode())
    store.write_bytes(_manifest_path(made.prefix), _json(made))
    return made


def read_manifest(store: Store, prefix: str) -> Manifest:
    """The manifest at `prefix`; `StoreError` if the artifact was never finished."""
    path = _manifest_path(prefix)
    try:
        return Manifest.model_validate_json(store.read_bytes(path))
    except ValidationError as error:
        raise StoreError(f"{store.uri(path)} is not a manifest of this version: {error}; delete "
                         f"it and run the stage again") from error


def find_manifest(store: Store, prefix: str, inputs_digest: str) -> Manifest | None:
    """The manifest at `prefix` if it was made from the same inputs (the stage is done)."""
    if not store.exists(_manifest_path(prefix)):
        return None
    manifest = read_manifest(store, prefix)
    return manifest if manifest.inputs_digest == inputs_digest else None


def read_rows(store: Store, manifest: Manifest, row_type: type[RowT],
              columns: Sequence[str] | None = None) -> Iterator[RowT]:
    """All rows, shard by shard, one row group in memory at a time.

    With `columns` only these are read, and the rows have only these.
    """
    for shard in manifest.shards:
        yield from _iter_shard(store, manifest.prefix, shard, row_type, columns)


def read_shard(store: Store, manifest: Manifest, index: int, row_type: type[RowT]) -> list[RowT]:
    """The rows of the shard with this index; `StoreError` if the manifest has none."""
    shard = find_shard(store, manifest, index)
    return list(_iter_shard(store, manifest.prefix, shard, row_type, None))


def find_shard(store: Store, manifest: Manifest, index: int) -> Shard:
    """The shard with this index; `StoreError` if the manifest has none."""
    for shard in manifest.shards:
        if shard.index == index:
            return shard
    raise StoreError(f"{store.uri(manifest.prefix)} has no shard {index}: the reference is to "
                     f"another version of it; plan again from the current manifest")


def read_quarantine(store: Store, manifest: Manifest) -> Iterator[QuarantineRow]:
    """All quarantined rows of the artifact, shard by shard."""
    for shard in manifest.shards:
        if shard.quarantine_path is not None:
            part = shard.model_copy(update={"path": shard.quarantine_path,
                                            "num_rows": shard.num_quarantined})
            yield from _iter_shard(store, manifest.prefix, part, QuarantineRow, None)


def _iter_shard(store: Store, prefix: str, shard: Shard, row_type: type[RowT],
                columns: Sequence[str] | None) -> Iterator[RowT]:
    path = f"{prefix}/{shard.path}"
    with store.open_parquet(path) as file:
        if file.metadata.num_rows != shard.num_rows:
            raise StoreError(f"{store.uri(path)} has {file.metadata.num_rows} rows, its manifest "
                             f"says {shard.num_rows}: the file was changed; delete "
                             f"{prefix}/manifest.json and start the run again")
        for group in range(file.num_row_groups):
            wanted = list(columns) if columns is not None else None
            yield from table_to_rows(file.read_row_group(group, columns=wanted), row_type)


def sum_stats(shards: Sequence[Shard], keep: Callable[[str], bool] = lambda name: True
              ) -> dict[str, float]:
    """The shards' stats, added up by name (names in order of first appearance)."""
    total: dict[str, float] = {}
    for shard in shards:
        for name, value in shard.stats.items():
            if keep(name):
                total[name] = total.get(name, 0.0) + value
    return total


def _manifest_path(prefix: str) -> str:
    return f"{prefix}/manifest.json"


def _receipt_path(prefix: str, index: int) -> str:
    return f"{prefix}/receipts/{index:05d}.json"


def _json(record: BaseModel) -> bytes:
    return (record.model_dump_json(indent=1) + "\n").encode()
