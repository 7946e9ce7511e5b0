"""The artifacts of a root that may hold a row, and the search through them.

Id columns are looked through first; one shard is read whole at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from model_ops.rounds import round_prefix
from schemas.artifacts import read_manifest, read_quarantine, read_shard
from schemas.errors import StoreError
from schemas.manifest import Manifest
from schemas.records import RoundRecord, StageRecord
from schemas.rows import (
    AskedRow,
    GameRow,
    ImaginedRow,
    ItemRow,
    PairRow,
    Row,
    SlotRow,
    TrainRow,
    TranscriptRow,
)
from schemas.searches import DescribedRow, DescriptionRow, NodeRow, SearchRow
from schemas.store import Store

ROW_TYPES: dict[str, type[Row]] = {
    "transcripts": TranscriptRow,
    "pairs": PairRow,
    "train": TrainRow,
    "mix": TrainRow,
    "rehearsal": TrainRow,
    "rehearsal-replies": DescribedRow,
    "imagined": ImaginedRow,
    "asked": AskedRow,
    "searches": SearchRow,
    "nodes": NodeRow,
    "games": GameRow,
    "slots": SlotRow,
    "prompts": DescriptionRow,
    "rehearsal-prompts": DescriptionRow,
    "items": ItemRow,
}
"""Artifacts with rows, in the order of the search: what was made comes before its plan. Training
rows may be pairs (objective `dpo`)."""
STAGE_ARTIFACTS = (*(kind for kind in ROW_TYPES if kind != "items"), "questions")
"""Artifacts of a stage that are looked at; the rows of `questions` are those of `asked`."""


@dataclass(frozen=True, slots=True)
class Place:
    """An artifact of a finished round, or of all (no record), that may hold rows."""

    record: RoundRecord | None
    stage: StageRecord | None
    kind: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Found:
    """A row, and the artifact and shard that hold it. `kind` may be `quarantine`."""

    place: Place
    kind: str
    shard: str
    row: Row
    index: int = -1
    """The shard's index; -1 in quarantine."""
    number: int = -1
    """The row's place in the shard; -1 in quarantine."""

    @property
    def row_id(self) -> str:
        """The row's id."""
        return str(getattr(self.row, "row_id", ""))


def find_manifest(store: Store, prefix: str | None) -> Manifest | None:
    """The manifest at *prefix*, or None if nothing was published there."""
    try:
        return read_manifest(store, prefix) if prefix else None
    except StoreError:
        return None


def places_of(store: Store, record: RoundRecord) -> Iterator[Place]:
    """The artifacts of a round: of its stages, then the answered benchmarks."""
    for stage in record.stages:
        for kind in STAGE_ARTIFACTS:
            if manifest := find_manifest(store, stage.artifacts.get(kind)):
                yield Place(record, stage, kind, manifest)
    again = (f"{round_prefix(record.round)}/{model}/{slug}"
             for model in ("rival", "base") for slug in record.evaluation.items)
    for prefix in (*record.evaluation.items.values(), *again):
        if manifest := find_manifest(store, prefix):
            yield Place(record, None, "items", manifest)


def shared_places(store: Store, records: list[RoundRecord]) -> Iterator[Place]:
    """What all rounds share: the images, and the benchmarks' images and plans."""
    slugs = dict.fromkeys(slug for record in records for slug in record.evaluation.items)
    benchmarks = (f"benchmarks/{slug}/{kind}" for slug in slugs for kind in ("images", "items"))
    for prefix in ("images", *benchmarks):
        if manifest := find_manifest(store, prefix):
            yield Place(None, None, manifest.kind, manifest)


def find_row(store: Store, place: Place | None, row_id: str | None) -> Found | None:
    """The row with this id among the rows of an artifact (not its quarantine)."""
    if place is None or row_id is None or not _has_rows(place):
        return None
    for shard in place.manifest.shards:
        ids = ids_of(store, place, shard.path)
        if row_id in ids:
            return row_at(store, place, shard.index, ids.index(row_id))
    return None


def _has_rows(place: Place) -> bool:
    """`questions` of a stage are asked rows; those of a benchmark are searched as answered."""
    return place.kind in ROW_TYPES or (place.kind == "questions" and place.stage is not None)


def ids_of(store: Store, place: Place, path: str, column: str = "row_id") -> list[str]:
    """The row ids of one shard, in order."""
    with store.open_parquet(f"{place.manifest.prefix}/{path}") as file:
        ids: list[str] = file.read(columns=[column]).column(column).to_pylist()
    return ids


def ids_that_begin(store: Store, place: Place, start: str) -> set[str]:
    """Ids of an artifact's rows, quarantined ones too, that begin with *start*."""
    ids = {row.row_id for row in read_quarantine(store, place.manifest)}
    if _has_rows(place):
        ids.update(*(ids_of(store, place, shard.path) for shard in place.manifest.shards))
    return {row_id for row_id in ids if row_id.startswith(start)}


def find_picture(store: Store, place: Place, start: str) -> int | None:
    """Where the picture is whose id begins with *start*, counted as `flywheel show --row` does."""
    if place.kind != "images":
        return None
    shards = sorted(place.manifest.shards, key=lambda shard: shard.index)
    ids = (image_id for shard in shards
           for image_id in ids_of(store, place, shard.path, "image_id"))
    return next((row for row, image_id in enumerate(ids) if image_id.startswith(start)), None)


def row_at(store: Store, place: Place, index: int, number: int) -> Found:
    """Row *number* of shard *index*."""
    shard = next(shard for shard in place.manifest.shards if shard.index == index)
    rows = read_shard(store, place.manifest, index, _row_type(store, place, shard.path))
    return Found(place, place.kind, shard.path, rows[number], index, number)


def _row_type(store: Store, place: Place, path: str) -> type[Row]:
    if place.kind == "questions":
        return AskedRow
    if place.kind not in ("train", "mix"):
        return ROW_TYPES[place.kind]
    with store.open_parquet(f"{place.manifest.prefix}/{path}") as file:
        return PairRow if "chosen" in file.schema_arrow.names else TrainRow


def find_quarantined(
    store: Store, place: Place | None, row_id: str, or_source: bool = False
) -> Found | None:
    """The row with this id (or one that was made from the row with this id) in the quarantine of an
    artifact."""
    if place is None:
        return None
    for row in read_quarantine(store, place.manifest):
        if row.row_id == row_id or (or_source and row.source == row_id):
            return Found(place, "quarantine", "quarantine", row)
    return None
