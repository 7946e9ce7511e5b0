"""The walk from a row back to its images and its model, and forward to what learnt from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from model_ops.lineage.chains import Chain, follow, outcome_of
from model_ops.lineage.places import (
    Found,
    Place,
    find_manifest,
    find_picture,
    find_quarantined,
    find_row,
    ids_that_begin,
    places_of,
    shared_places,
)
from model_ops.lineage.trees import nodes_of, tree_in_words
from model_ops.lineage.words import image_ids, told, without_pictures
from model_ops.rounds import read_rounds, round_prefix
from schemas.champion import read_champion
from schemas.errors import FlywheelError
from schemas.manifest import Manifest
from schemas.records import Record, RoundRecord
from schemas.rows import Row
from schemas.searches import SearchRow
from schemas.store import Store

WRITTEN_BY_MODEL = ("rehearsal-replies", "searches", "imagined", "asked", "transcripts")
"""The members of a line that a model wrote, the latest first."""
LEAST_OF_ID = 8
"""Characters of an id that may stand for the whole of it."""


class Step(Record):
    """One station of the walk, in words, and where it is in the store."""

    what: str
    text: str
    uri: str


class Lineage(Record):
    """The walk from the images, model and prompts of a row to the models that learnt from it."""

    row_id: str
    kind: str
    """The artifact (`transcripts`, `pairs`, `train`, `items`, ...), or `quarantine`."""
    round: int | None
    """`None` for what all rounds share: images and planned benchmarks."""
    stage: str | None
    """`None` for benchmark items."""
    prefix: str
    shard: str
    row: dict[str, Any]
    """The row itself, without its pictures' bytes."""
    model_digest: str | None
    """The model that wrote it (the game or the replies of a training row)."""
    prompt_version: str | None
    seed: int | None
    rules: dict[str, Any]
    """Configuration under which the model was asked: sampling, turns, checks."""
    determinism: str
    image_ids: list[str]
    game_id: str | None
    line: dict[str, str]
    """Artifact -> id, of the rows on its line: the game; slot, question, replies, pair; prompt,
    search and, where it was asked for, the node; or a rehearsal's prompt and reply."""
    training_rows: list[str]
    """Ids of the training rows that the row's game or pair became."""
    learnt_by: list[str]
    """Digests of the models that were trained on them."""
    steps: list[Step]


def explain(store: Store, row_id: str) -> Lineage:
    """The lineage of the row with this id, or the only one that begins so (`LEAST_OF_ID`
    characters or more); `FlywheelError` that says what was searched if none."""
    records = read_rounds(store)
    walk = _Walk(store, records, [
        *(place for record in records for place in places_of(store, record)),
        *shared_places(store, records),
    ])
    found = walk.find(row_id) or walk.find_beginning(row_id)
    if found is None:
        searched = ", ".join(place.manifest.prefix for place in walk.places) or "no artifact"
        raise FlywheelError(
            f"no row {row_id!r} in {store.root}: searched the rows and quarantine of {searched} "
            f"({len(records)} finished rounds); give a row_id or its first {LEAST_OF_ID} "
            f"characters at least, `flywheel show` lists them"
        )
    return walk.tell(found, found.row_id)


@dataclass(frozen=True, slots=True)
class _Walk:
    """The root as the walk sees it: finished rounds and their artifacts."""

    store: Store
    records: list[RoundRecord]
    places: list[Place]

    def find(self, row_id: str) -> Found | None:
        """The row with this id: among all rows first, then in the quarantines."""
        for look in (find_row, find_quarantined):
            for place in self.places:
                if found := look(self.store, place, row_id):
                    return found
        return None

    def find_beginning(self, start: str) -> Found | None:
        """The row whose id begins so; `FlywheelError` if there are several, or if it is a
        picture's."""
        if len(start) < LEAST_OF_ID:
            return None
        ids = set().union(*(ids_that_begin(self.store, place, start) for place in self.places))
        if len(ids) > 1:
            raise FlywheelError(f"{len(ids)} rows of {self.store.root} have an id that begins with "
                                f"{start!r}: give more of it")
        if ids:
            return self.find(ids.pop())
        for place in self.places:
            if (row := find_picture(self.store, place, start)) is not None:
                uri = self.store.uri(place.manifest.prefix)
                raise FlywheelError(f"{start!r} is a picture, not a row that was made: look at it "
                                    f"with `flywheel show {uri} --row {row}`")
        return None

    def tell(self, found: Found, row_id: str) -> Lineage:
        """Walk back to what the row is made from, forward to what learnt from it."""
        place = found.place
        chain = follow(self.store, found, lambda kind: self._sibling(place, kind))
        source = _source(found, chain)
        asked_in = source.place if source else self._sibling(place, "transcripts") or place
        writer = source.row if source else found.row
        learners = self._learners(chain.train) if chain.train and chain.kept else []
        return Lineage(
            row_id=row_id,
            kind=found.kind,
            round=place.record.round if place.record else None,
            stage=place.stage.name if place.stage else None,
            prefix=place.manifest.prefix,
            shard=found.shard,
            row=without_pictures(found.row),
            model_digest=getattr(writer, "model_digest", None),
            prompt_version=getattr(writer, "prompt_version", None),
            seed=getattr(writer, "seed", None),
            rules=asked_in.manifest.config,
            determinism=asked_in.manifest.determinism,
            image_ids=image_ids(found.row) or image_ids(writer),
            game_id=chain.members["transcripts"].row_id if "transcripts" in chain.members else None,
            line={kind: member.row_id for kind, member in chain.members.items()},
            training_rows=[row.row_id for row in chain.kept],
            learnt_by=[model.digest for model in learners],
            steps=[
                *self._backwards(found, chain, writer),
                *self._other_answers(found, row_id),
                *self._forwards(chain, learners),
            ],
        )

    def _sibling(self, place: Place, kind: str) -> Place | None:
        """The artifact of this kind in the same stage of the same round."""
        same = (p for p in self.places if p.record == place.record and p.stage == place.stage)
        return next((p for p in same if p.kind == kind), None) if place.stage else None

    def _learners(self, train: Place) -> list[Manifest]:
        """Models whose manifest names these rows as a parent: by replay, later ones too."""
        stages = [stage for record in self.records for stage in record.stages]
        models = [find_manifest(self.store, stage.artifacts.get("model")) for stage in stages]
        wanted = train.manifest.digest
        return [model for model in models if model and wanted in model.parents.values()]

    def _backwards(self, found: Found, chain: Chain, writer: Row) -> Iterator[Step]:
        if images := image_ids(writer):
            short = ", ".join(image_id[:12] for image_id in images)
            yield Step(what="images", text=f"{len(images)}: {short}",
                       uri=self.store.uri(_images_of(found.place)))
        if digest := getattr(writer, "model_digest", None):
            version, seed = getattr(writer, "prompt_version", ""), getattr(writer, "seed", "")
            text = f"{self._named(digest)} with prompts {version[:12]}, seed {seed}"
            yield Step(what="written by", text=text, uri=self._model_uri(digest))
        for kind, member in chain.members.items():
            yield self._row_step(kind, member.place, member.row)
            if isinstance(member.row, SearchRow):
                yield self._tree_step(member.place, member.row)
        if found.row_id not in {member.row_id for member in chain.members.values()}:
            yield self._row_step(found.kind, found.place, found.row)

    def _other_answers(self, found: Found, row_id: str) -> Iterator[Step]:
        """A benchmark item has one id for all models, a calibrated prompt one for all rounds: what
        the later ones made of it."""
        if found.kind not in ("items", "prompts"):
            return
        for place in self.places:
            if place.kind != found.kind or place == found.place:
                continue
            other = find_row(self.store, place, row_id)
            if other is not None and found.kind == "prompts":
                other = outcome_of(self.store, other, self._sibling(place, "searches"))
            if other is not None:
                yield self._row_step(other.place.kind, other.place, other.row)

    def _row_step(self, kind: str, place: Place, row: Row) -> Step:
        stage = f"stage {place.stage.name}" if place.stage else "evaluation"
        where = f"round {place.record.round}, {stage}" if place.record else "of all rounds"
        return Step(what=f"{kind} row", text=f"{where}: {told(row)}",
                    uri=self.store.uri(place.manifest.prefix))

    def _tree_step(self, place: Place, search: SearchRow) -> Step:
        nodes = self._sibling(place, "nodes")
        judged = nodes_of(self.store, nodes.manifest if nodes else None, search.row_id)
        return Step(what="search tree", text=f"\n{tree_in_words(search.nodes, judged)}",
                    uri=self.store.uri((nodes or place).manifest.prefix))

    def _forwards(self, chain: Chain, learners: list[Manifest]) -> Iterator[Step]:
        if chain.train and chain.kept:
            made = ", ".join(f"{row.role} {row.row_id[:12]}" for row in chain.kept)
            rows = f"{len(chain.kept)} training row{'s' * (len(chain.kept) > 1)}"
            yield Step(what="kept", text=f"became {rows}: {made}",
                       uri=self.store.uri(chain.train.manifest.prefix))
        elif chain.dropped:
            yield Step(what="dropped", text=told(chain.dropped.row),
                       uri=self.store.uri(chain.dropped.place.manifest.prefix))
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


def _images_of(place: Place) -> str:
    """The artifact of the pictures that a row is about: a benchmark's own, or the run's."""
    parts = place.manifest.prefix.split("/")
    if place.stage is not None or parts == ["images"]:
        return "images"
    return f"benchmarks/{parts[1] if parts[0] == 'benchmarks' else parts[-1]}/images"


def _source(found: Found, chain: Chain) -> Found | None:
    """The member of the line that a model wrote: the row itself, or the latest before it."""
    if found.kind in ("slots", "games", "prompts", "items"):
        return None
    if found.kind == "asked":
        return found
    return next((chain.members[kind] for kind in WRITTEN_BY_MODEL if kind in chain.members), None)
