"""From one row of a stage to its whole line: what it was made from, and what became of it.

A game is its transcript and the training rows made from it. A question goes slot -> asked ->
imagined -> pair -> training rows; a description goes prompt -> search -> pair, with the search's
nodes beside it; a rehearsal goes prompt -> reply -> training row. Its one idea: rows name what they
were made from, but for what models made, where the position says it: a pool writes the rows of a
shard in the order of its items, and what is missing stands in that shard's quarantine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from model_ops.lineage.places import (
    Found,
    Place,
    find_quarantined,
    find_row,
    ids_of,
    row_at,
)
from schemas.artifacts import read_quarantine, read_rows
from schemas.rows import PairRow, QuarantineRow, Row, TrainRow, TranscriptRow
from schemas.searches import DescribedRow, NodeRow
from schemas.store import Store

SEARCHED = ("prompts", "searches", "nodes")
"""The artifacts of a calibrated stage that have rows and are not learnt from."""
REHEARSED = ("rehearsal-prompts", "rehearsal-replies", "rehearsal")
"""The artifacts of a rehearsal (`model_ops.rehearsal`), in their order."""
QUESTION_LINE = ("slots", "asked", "imagined", "pairs")
Sibling = Callable[[str], Place | None]
"""The artifact of a kind in the same stage of the same round."""


@dataclass(slots=True)
class Chain:
    """The line of a row: its stations in order, and how it ends."""

    members: dict[str, Found] = field(default_factory=dict)
    """Artifact -> row, from the plan on; training rows are in `kept`."""
    dropped: Found | None = None
    kept: Sequence[TrainRow | PairRow] = ()
    """Training rows (id, role and source only)."""
    train: Place | None = None
    """The artifact that `kept` is from."""


def follow(store: Store, found: Found, sibling: Sibling) -> Chain:
    """The line of *found*; an empty one for rows that belong to none."""
    if found.place.kind == "mix" and isinstance(found.row, TrainRow | PairRow):
        return Chain(kept=[found.row], train=found.place)
    if found.place.kind in REHEARSED:
        return _follow_rehearsal(store, found, sibling)
    if any(found.kind == kind or sibling(kind) is not None for kind in SEARCHED):
        return _follow_search(store, found, sibling)
    if sibling("transcripts") is not None or found.place.kind == "transcripts":
        return _follow_game(store, found, sibling)
    if sibling("imagined") is not None or sibling("asked") is not None:
        return _QuestionLine(store, sibling).follow(found)
    return Chain()


def _follow_game(store: Store, found: Found, sibling: Sibling) -> Chain:
    transcripts, train = sibling("transcripts"), sibling("train")
    game = found if isinstance(found.row, TranscriptRow) else find_row(
        store, transcripts, _game_id(found.row))
    if game is None:
        return Chain()
    kept = made_from(store, train, game.row_id)
    dropped = None if kept else find_quarantined(store, train, game.row_id)
    return Chain({"transcripts": game}, dropped, kept, train)


def _game_id(row: Row) -> str | None:
    """Id of the game that a row was made from; a dropped game's own id."""
    if isinstance(row, TrainRow):
        return row.source_row_id
    if not isinstance(row, QuarantineRow):
        return None
    return row.source if row.kind == "train" else row.row_id


def _follow_rehearsal(store: Store, found: Found, sibling: Sibling) -> Chain:
    prompts, replies, train = (sibling(kind) for kind in REHEARSED)
    if found.kind == REHEARSED[0]:
        reply = outcome_of(store, found, replies)
        if reply is not None and reply.kind == "quarantine":
            return Chain({REHEARSED[0]: found}, reply, train=train)
    elif isinstance(found.row, DescribedRow):
        reply = found
    else:
        reply = find_row(store, replies, _reply_id(found.row))
    if reply is None:
        return Chain()
    prompt = item_of(store, prompts, reply)
    kept = made_from(store, train, reply.row_id)
    dropped = None if kept else find_quarantined(store, train, reply.row_id, True)
    members = {REHEARSED[0]: prompt, REHEARSED[1]: reply}
    return Chain({kind: each for kind, each in members.items() if each}, dropped, kept, train)


def _reply_id(row: Row) -> str | None:
    """Id of the rehearsed reply that a row, kept or dropped, was made from."""
    if isinstance(row, TrainRow):
        return row.source_row_id
    return row.source if isinstance(row, QuarantineRow) else None


def _follow_search(store: Store, found: Found, sibling: Sibling) -> Chain:
    train, search = sibling("train"), _search_of(store, found, sibling("searches"))
    prompt = found if found.kind == "prompts" else (
        item_of(store, sibling("prompts"), search) if search else None)
    if search is None and prompt is not None:
        search = outcome_of(store, prompt, sibling("searches"))
    members = {"prompts": prompt, "searches": search,
               "nodes": found if found.kind == "nodes" else None}
    lost = search if search is not None and search.kind == "quarantine" else None
    chain = Chain({kind: member for kind, member in members.items() if member and member != lost},
                  lost, train=train)
    if search is not None and lost is None:
        chain.kept = made_from(store, train, search.row_id)
        if not chain.kept:
            chain.dropped = find_quarantined(store, train, search.row_id, True)
    return chain


def _search_of(store: Store, found: Found, searches: Place | None) -> Found | None:
    """The search that a row is, or was made from."""
    row = found.row
    if found.kind == "searches":
        return found
    if isinstance(row, NodeRow):
        return find_row(store, searches, row.search_id)
    if isinstance(row, PairRow):
        return find_row(store, searches, row.source_row_id)
    if isinstance(row, QuarantineRow):
        return find_row(store, searches, row.row_id) or find_row(store, searches, row.source)
    return None


def made_from(store: Store, place: Place | None, row_id: str) -> list[TrainRow | PairRow]:
    """The rows of an artifact that were made from the row with this id; pairs that are trained on
    as they are (objective `dpo`) keep their id."""
    if place is None:
        return []
    columns = ["row_id", "role", "source_row_id"]
    rows = read_rows(store, place.manifest, TrainRow, columns=columns)
    return [row for row in rows if row_id in (row.source_row_id, row.row_id)]


@dataclass(frozen=True, slots=True)
class _QuestionLine:
    """The artifacts of one contrastive stage."""

    store: Store
    sibling: Sibling

    def follow(self, found: Found) -> Chain:
        chain = Chain(train=self.sibling("train"))
        self._backwards(found, chain.members)
        if chain.members:
            chain.dropped = self._forwards(chain.members)
        if pair := chain.members.get("pairs"):
            chain.kept = made_from(self.store, chain.train, pair.row_id)
            if not chain.kept:
                chain.dropped = find_quarantined(self.store, chain.train, pair.row_id, True)
        chain.members = {kind: chain.members[kind] for kind in QUESTION_LINE
                         if kind in chain.members}
        return chain

    def _backwards(self, found: Found, members: dict[str, Found]) -> None:
        """From a row to its slot, as far as the artifacts go."""
        at: Found | None = found
        while at is not None:
            if at.kind in QUESTION_LINE:
                members[at.kind] = at
            at = self._before(at)

    def _before(self, found: Found) -> Found | None:
        store = self.store
        if isinstance(found.row, TrainRow):
            return find_row(store, self.sibling("pairs"), found.row.source_row_id)
        if found.kind == "train" and isinstance(found.row, PairRow):
            return find_row(store, self.sibling("pairs"), found.row.row_id)
        if isinstance(found.row, PairRow):
            return find_row(store, self.sibling("imagined"), found.row.source_row_id)
        if found.kind == "imagined":
            question = item_of(store, self.sibling("questions"), found)
            return find_row(store, self.sibling("asked"), question.row_id) if question else None
        return item_of(store, self.sibling("slots"), found) if found.kind == "asked" else None

    def _forwards(self, members: dict[str, Found]) -> Found | None:
        """Add what became of the last member; where the line ends early, the row that says why."""
        for kind, following in pairwise(QUESTION_LINE):
            if following in members or kind not in members:
                continue
            after = self._after(members[kind])
            if after is None or after.kind == "quarantine":
                return after
            members[following] = after
        return None

    def _after(self, found: Found) -> Found | None:
        store = self.store
        if found.kind == "slots":
            return outcome_of(store, found, self.sibling("asked"))
        if found.kind == "asked":
            question = find_row(store, self.sibling("questions"), found.row_id)
            if question is None:
                return find_quarantined(store, self.sibling("questions"), found.row_id)
            return outcome_of(store, question, self.sibling("imagined"))
        pairs = self.sibling("pairs")
        made = made_from(store, pairs, found.row_id)
        return (find_row(store, pairs, made[0].row_id) if made
                else find_quarantined(store, pairs, found.row_id))


def item_of(store: Store, items: Place | None, found: Found) -> Found | None:
    """The item that a pool made *found* from."""
    if items is None or not _belong(items, found.place):
        return None
    left = _survivors(store, items, found.place, found.index)
    return row_at(store, items, found.index, left[found.number])


def outcome_of(store: Store, item: Found, outputs: Place | None) -> Found | None:
    """What a pool made of *item*: a row, or its entry in the quarantine."""
    if outputs is None or not _belong(item.place, outputs):
        return None
    left = _survivors(store, item.place, outputs, item.index)
    if item.number in left:
        return row_at(store, outputs, item.index, left.index(item.number))
    return find_quarantined(store, outputs, item.row_id)


def _belong(items: Place, outputs: Place) -> bool:
    """Whether *outputs* were made of these very items (which may have been planned again)."""
    return outputs.manifest.parents.get("items") == items.manifest.digest


def _survivors(store: Store, items: Place, outputs: Place, index: int) -> list[int]:
    """Places of the items of a shard that became rows, in the order of the rows."""
    [planned] = [shard for shard in items.manifest.shards if shard.index == index]
    done = [shard for shard in outputs.manifest.shards if shard.index == index]
    lost = {row.row_id for row in read_quarantine(
        store, outputs.manifest.model_copy(update={"shards": done}))}
    ids = ids_of(store, items, planned.path)
    return [number for number, row_id in enumerate(ids) if row_id not in lost]
