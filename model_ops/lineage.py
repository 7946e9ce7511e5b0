"""Where a row came from and what learnt from it: the walk behind `flywheel explain`.

The one idea: nothing is kept for this walk. Every row names its model, prompts and seed, every
manifest its parents, and the round records every artifact, so the whole history of a row is read
from what is there anyway. Id columns are looked through first, one shard is read whole at the end.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from model_ops.rounds import read_rounds, round_prefix
from schemas.artifacts import read_manifest, read_quarantine, read_rows, read_shard
from schemas.champion import read_champion
from schemas.errors import FlywheelError, StoreError
from schemas.manifest import Manifest
from schemas.records import Record, RoundRecord, StageRecord
from schemas.rows import GameRow, ItemRow, QuarantineRow, Row, TrainRow, TranscriptRow
from schemas.store import Store

ROW_TYPES: dict[str, type[Row]] = {
    "transcripts": TranscriptRow,
    "train": TrainRow,
    "games": GameRow,
    "items": ItemRow,
}
"""Artifacts with rows, in the order of the search: a played game comes before its plan."""


class Step(Record):
    """One station of the walk, in words, and where it is in the store."""

    what: str
    text: str
    uri: str


class Lineage(Record):
    """The walk from the images, model and prompts of a row to the models that learnt from it."""

    row_id: str
    kind: str
    """`transcripts`, `train`, `games`, `items`, or `quarantine`."""
    round: int | None
    """`None` for what all rounds share: images and planned benchmarks."""
    stage: str | None
    """`None` for benchmark items."""
    prefix: str
    shard: str
    row: dict[str, Any]
    """The row itself, without its pictures' bytes."""
    model_digest: str | None
    """The model that wrote it (the game of a training row)."""
    prompt_version: str | None
    seed: int | None
    rules: dict[str, Any]
    """Configuration under which the model was asked: sampling, turns, checks."""
    determinism: str
    image_ids: list[str]
    game_id: str | None
    training_rows: list[str]
    """Ids of the training rows that the row's game became."""
    learnt_by: list[str]
    """Digests of the models that were trained on them."""
    steps: list[Step]


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


def explain(store: Store, row_id: str) -> Lineage:
    """The lineage of the row with this id; `FlywheelError` that says what was searched if none."""
    records = read_rounds(store)
    walk = _Walk(store, records, [
        *(place for record in records for place in _places(store, record)),
        *_shared_places(store, records),
    ])
    found = walk.find(row_id, walk.places)
    if found is None:
        searched = ", ".join(place.manifest.prefix for place in walk.places) or "no artifact"
        raise FlywheelError(
            f"no row {row_id!r} in {store.root}: searched the rows and quarantine of {searched} "
            f"({len(records)} finished rounds); give the whole row_id, `flywheel show` lists them"
        )
    return walk.tell(found, row_id)


def _places(store: Store, record: RoundRecord) -> Iterator[Place]:
    for stage in record.stages:
        for kind in ROW_TYPES:
            if manifest := _manifest(store, stage.artifacts.get(kind)):
                yield Place(record, stage, kind, manifest)
    again = (f"{round_prefix(record.round)}/{model}/{slug}"
             for model in ("rival", "base") for slug in record.evaluation.items)
    for prefix in (*record.evaluation.items.values(), *again):
        if manifest := _manifest(store, prefix):
            yield Place(record, None, "items", manifest)


def _shared_places(store: Store, records: list[RoundRecord]) -> Iterator[Place]:
    """What all rounds share: the images, and the benchmarks' images and plans."""
    slugs = dict.fromkeys(slug for record in records for slug in record.evaluation.items)
    benchmarks = (f"benchmarks/{slug}/{kind}" for slug in slugs for kind in ("images", "items"))
    for prefix in ("images", *benchmarks):
        if manifest := _manifest(store, prefix):
            yield Place(None, None, manifest.kind, manifest)


def _manifest(store: Store, prefix: str | None) -> Manifest | None:
    try:
        return read_manifest(store, prefix) if prefix else None
    except StoreError:
        return None


@dataclass(frozen=True, slots=True)
class _Walk:
    """The root as the walk sees it: finished rounds and their artifacts."""

    store: Store
    records: list[RoundRecord]
    places: list[Place]

    def find(self, row_id: str, places: list[Place]) -> Found | None:
        """The row with this id: among all rows first, then in the quarantines."""
        for look in (self._published, self._quarantined):
            for place in places:
                if found := look(place, row_id):
                    return found
        return None

    def _published(self, place: Place, row_id: str) -> Found | None:
        if place.kind not in ROW_TYPES:
            return None
        for shard in place.manifest.shards:
            path = f"{place.manifest.prefix}/{shard.path}"
            with self.store.open_parquet(path) as file:
                ids = file.read(columns=["row_id"]).column("row_id").to_pylist()
            if row_id in ids:
                rows = read_shard(self.store, place.manifest, shard.index, ROW_TYPES[place.kind])
                return Found(place, place.kind, shard.path, rows[ids.index(row_id)])
        return None

    def _quarantined(self, place: Place, row_id: str) -> Found | None:
        rows = read_quarantine(self.store, place.manifest)
        row = next((row for row in rows if row.row_id == row_id), None)
        return Found(place, "quarantine", "quarantine", row) if row else None

    def tell(self, found: Found, row_id: str) -> Lineage:
        """Walk back to the game and its model, forward to what learnt from it."""
        place = found.place
        game = self._game(found)
        train = self._sibling(place, "train")
        kept = self._training_rows(train, game)
        learners = self._learners(train) if train and kept else []
        source = game or found.row
        return Lineage(
            row_id=row_id,
            kind=found.kind,
            round=place.record.round if place.record else None,
            stage=place.stage.name if place.stage else None,
            prefix=place.manifest.prefix,
            shard=found.shard,
            row=_without_pictures(found.row),
            model_digest=getattr(source, "model_digest", None),
            prompt_version=getattr(source, "prompt_version", None),
            seed=getattr(source, "seed", None),
            rules=(self._sibling(place, "transcripts") or place).manifest.config,
            determinism=(self._sibling(place, "transcripts") or place).manifest.determinism,
            image_ids=_image_ids(found.row) or _image_ids(source),
            game_id=game.row_id if game else None,
            training_rows=[row.row_id for row in kept],
            learnt_by=[model.digest for model in learners],
            steps=[
                *self._backwards(found, game),
                *self._other_answers(found, row_id),
                *self._forwards(train, game, kept, learners),
            ],
        )

    def _sibling(self, place: Place, kind: str) -> Place | None:
        """The artifact of this kind in the same stage of the same round."""
        same = (p for p in self.places if p.record == place.record and p.stage == place.stage)
        return next((p for p in same if p.kind == kind), None) if place.stage else None

    def _game(self, found: Found) -> TranscriptRow | None:
        """The played game that the row is, or that it was made from."""
        if isinstance(found.row, TranscriptRow):
            return found.row
        transcripts = self._sibling(found.place, "transcripts")
        source = _source_id(found.row)
        game = self._published(transcripts, source) if transcripts and source else None
        return game.row if game and isinstance(game.row, TranscriptRow) else None

    def _training_rows(self, train: Place | None, game: TranscriptRow | None) -> list[TrainRow]:
        if train is None or game is None:
            return []
        columns = ["row_id", "role", "source_row_id"]
        rows = read_rows(self.store, train.manifest, TrainRow, columns=columns)
        return [row for row in rows if row.source_row_id == game.row_id]

    def _learners(self, train: Place) -> list[Manifest]:
        """Models whose manifest names these rows as a parent: by replay, later ones too."""
        stages = [stage for record in self.records for stage in record.stages]
        models = [_manifest(self.store, stage.artifacts.get("model")) for stage in stages]
        wanted = train.manifest.digest
        return [model for model in models if model and wanted in model.parents.values()]

    def _backwards(self, found: Found, game: TranscriptRow | None) -> Iterator[Step]:
        source = game or found.row
        if images := _image_ids(source):
            short = ", ".join(image_id[:12] for image_id in images)
            yield Step(what="images", text=f"{len(images)}: {short}", uri=self.store.uri("images"))
        if digest := getattr(source, "model_digest", None):
            version, seed = getattr(source, "prompt_version", ""), getattr(source, "seed", "")
            text = f"{self._named(digest)} with prompts {version[:12]}, seed {seed}"
            yield Step(what="written by", text=text, uri=self._model_uri(digest))
        if game and game is not found.row:
            transcripts = self._sibling(found.place, "transcripts") or found.place
            yield self._row_step("transcripts", transcripts, game)
        yield self._row_step(found.kind, found.place, found.row)

    def _other_answers(self, found: Found, row_id: str) -> Iterator[Step]:
        """A benchmark item has one id for all models: what the later ones made of it."""
        items = [p for p in self.places if p.kind == "items" and p != found.place]
        for place in items if found.kind == "items" else ():
            if other := self._published(place, row_id):
                yield self._row_step("items", place, other.row)

    def _row_step(self, kind: str, place: Place, row: Row) -> Step:
        stage = f"stage {place.stage.name}" if place.stage else "evaluation"
        where = f"round {place.record.round}, {stage}" if place.record else "of all rounds"
        text = f"{where}: {_told(row)}"
        return Step(what=f"{kind} row", text=text, uri=self.store.uri(place.manifest.prefix))

    def _forwards(
        self, train: Place | None, game: TranscriptRow | None, kept: list[TrainRow],
        learners: list[Manifest],
    ) -> Iterator[Step]:
        if train is None or game is None:
            return
        uri = self.store.uri(train.manifest.prefix)
        if kept:
            made = ", ".join(f"{row.role} {row.row_id[:12]}" for row in kept)
            yield Step(what="kept", text=f"became {len(kept)} training rows: {made}", uri=uri)
        elif dropped := self._quarantined(train, game.row_id):
            yield Step(what="dropped", text=_told(dropped.row), uri=uri)
        for model in learners:
            text = self._named(model.digest)
            yield Step(what="learnt by", text=text, uri=self.store.uri(model.prefix))
            yield from self._decision(model.digest)

    def _decision(self, digest: str) -> Iterator[Step]:
        champion = read_champion(self.store)
        for record in self.records:
            if record.model == digest:
                now = "; is the champion" if champion and champion.digest == digest else ""
                uri = self.store.uri(f"{round_prefix(record.round)}/round.json")
                text = f"{record.decision}{now}: {'; '.join(record.reasons)}"
                yield Step(what="decision", text=text, uri=uri)

    def _named(self, digest: str) -> str:
        for record in self.records:
            if record.model == digest:
                return f"model {digest[:12]} of round {record.round} ({record.decision})"
            for stage in record.stages:
                if stage.model_digest == digest:
                    return f"model {digest[:12]}, stage {stage.name} of round {record.round}"
        return f"model {digest[:12]}, of no finished round"

    def _model_uri(self, digest: str) -> str:
        prefixes = {record.model: record.model_prefix for record in self.records}
        for record in self.records:
            for stage in record.stages:
                prefixes.setdefault(stage.model_digest, stage.artifacts.get("model", ""))
        return self.store.uri(prefixes[digest]) if digest in prefixes else self.store.root


def _source_id(row: Row) -> str | None:
    """Id of the game that a row was made from; a dropped game's own id."""
    if isinstance(row, TrainRow):
        return row.source_row_id
    if not isinstance(row, QuarantineRow):
        return None
    return row.source if row.kind == "train" else row.row_id


def _image_ids(row: Row) -> list[str]:
    if isinstance(row, TrainRow | ItemRow):
        return list(row.image_ids)
    return [ref.image_id for ref in getattr(row, "images", [])]


def _without_pictures(row: Row) -> dict[str, Any]:
    exclude = {"images"} if isinstance(row, TrainRow) else None
    shown: dict[str, Any] = json.loads(row.model_dump_json(exclude=exclude))
    return shown


def _told(row: Row) -> str:
    """A row in words."""
    match row:
        case TranscriptRow():
            turns = " ; ".join(f"{turn.question} {turn.answer}" for turn in row.turns)
            outcome = f"{'won' if row.won else 'lost'} game of {len(row.images)} images"
            guess = "none" if row.guess is None else row.guess + 1
            return f"{outcome} (guess {guess}, target {row.target + 1}): {turns}"
        case TrainRow():
            said = " ".join(part.text or "<image>" for m in row.completion for part in m.content)
            return f"role {row.role}, weight {row.weight:g}: {said}"
        case QuarantineRow():
            return f"dropped, {row.reason}: {row.detail} (from {row.source})"
        case GameRow():
            return f"planned game of {len(row.images)} images, target {row.target + 1}"
        case ItemRow():
            return f"{row.benchmark}: expected {row.expected!r}, got {row.reply!r}"
    return type(row).__name__
