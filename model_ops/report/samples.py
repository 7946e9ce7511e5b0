"""The games and training rows that the report shows, with their pictures; pairs are in `pairs`.

Chosen by row id among the first shards: row ids are hashes of inputs, so the choice is random in
content, the same every time, and not ours to make pretty.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from model_ops.images import ImageReader
from model_ops.report.history import History, RoundView, StageView
from model_ops.report.thumbnails import Thumbnail, thumbnail
from schemas.artifacts import read_quarantine, read_rows, read_shard
from schemas.errors import StoreError
from schemas.manifest import Manifest
from schemas.rows import IMAGE, ImageRef, TrainRow, TranscriptRow, Turn
from schemas.store import Store

GAMES_PER_OUTCOME = 3
ROWS_PER_STAGE = 6
SHARDS_READ = 4
"""Shards looked into for samples: some hundred rows, so that a large root is reported quickly."""
ROUNDS_WITH_SAMPLES = 6
"""Samples are shown for the first and the latest rounds; keeps the page under about 3 MB."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One image of a game as it is shown: its picture, marks, and the Guesser's last belief."""

    picture: Thumbnail | None
    is_target: bool
    is_guess: bool
    belief: float | None


@dataclass(frozen=True, slots=True)
class GameSample:
    """A played game. `fate` is `kept`, the reason of its drop, or empty where neither is known."""

    row: TranscriptRow
    tiles: list[Tile]
    fate: str

    @property
    def turns(self) -> list[Turn]:
        """The dialog in order."""
        return self.row.turns


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a training row: a text, or a picture (which may be unreadable)."""

    role: str
    text: str | None
    picture: Thumbnail | None = None


@dataclass(frozen=True, slots=True)
class RowSample:
    """A training row: what the model reads, and what it learns to say."""

    row: TrainRow
    prompt: list[Piece]
    completion: str


@dataclass(frozen=True, slots=True)
class StageSample:
    """The samples of one stage of one round."""

    round: int
    stage: str
    won: list[GameSample]
    lost: list[GameSample]
    rows: list[RowSample]


def collect(store: Store, history: History) -> list[StageSample]:
    """Samples of games from the first and the latest rounds that have stages, oldest first."""
    reader = ImageReader(store, history.images) if history.images else None
    return [_stage(store, view, stage, reader) for view in sampled_rounds(history)
            for stage in view.stages if stage.record.method == "dialog"]


def sampled_rounds(history: History) -> list[RoundView]:
    """The rounds that samples are shown of."""
    views = [view for view in history.rounds if view.stages]
    if len(views) > ROUNDS_WITH_SAMPLES:
        views = [views[0], *views[1 - ROUNDS_WITH_SAMPLES :]]
    return views


def _stage(
    store: Store, view: RoundView, stage: StageView, reader: ImageReader | None
) -> StageSample:
    train = stage.manifests.get("train")
    fates = _fates(store, train) if train else {}
    games = sorted(_games(store, stage.manifests.get("transcripts")), key=lambda row: row.row_id)
    won = [_game(row, reader, fates) for row in _pick(row for row in games if row.won)]
    lost = [_game(row, reader, fates) for row in _pick(row for row in games if not row.won)]
    return StageSample(view.record.round, stage.record.name, won, lost,
                       training_rows(store, train))


def _games(store: Store, manifest: Manifest | None) -> Iterator[TranscriptRow]:
    if manifest is None:
        return
    for shard in manifest.shards[:SHARDS_READ]:
        yield from read_shard(store, manifest, shard.index, TranscriptRow)


def _pick(rows: Iterable[TranscriptRow]) -> Iterator[TranscriptRow]:
    """The first games of different groups: near-copies of one game teach a reader nothing."""
    by_group: dict[str, TranscriptRow] = {}
    for row in rows:
        by_group.setdefault(row.group_id, row)
    return islice(by_group.values(), GAMES_PER_OUTCOME)


def _fates(store: Store, train: Manifest) -> dict[str, str]:
    """What curation made of every game, by row id."""
    rows = read_rows(store, train, TrainRow, columns=["source_row_id"])
    dropped = {row.row_id: row.reason for row in read_quarantine(store, train)}
    return dropped | {row.source_row_id: "kept" for row in rows}


def _game(row: TranscriptRow, reader: ImageReader | None, fates: Mapping[str, str]) -> GameSample:
    beliefs = next((turn.beliefs for turn in reversed(row.turns) if turn.beliefs), [])
    tiles = [
        Tile(
            picture=picture(reader, ref),
            is_target=index == row.target,
            is_guess=index == row.guess,
            belief=beliefs[index] if index < len(beliefs) else None,
        )
        for index, ref in enumerate(row.images)
    ]
    return GameSample(row, tiles, fates.get(row.row_id, ""))


def picture(reader: ImageReader | None, ref: ImageRef) -> Thumbnail | None:
    """The thumbnail of a picture; None where it cannot be read."""
    if reader is None:
        return None
    try:
        return thumbnail(reader.read(ref))
    except StoreError:
        return None


def training_rows(store: Store, train: Manifest | None) -> list[RowSample]:
    """Training rows, every role in turn, so that none is hidden by another. Preference pairs
    (objective `dpo`) are none."""
    by_role: dict[str, list[TrainRow]] = {}
    if train is None or has_preferences(store, train):
        return []
    for shard in train.shards[:SHARDS_READ]:
        for row in read_shard(store, train, shard.index, TrainRow):
            by_role.setdefault(row.role, []).append(row)
    piles = [sorted(by_role[role], key=lambda row: row.row_id) for role in sorted(by_role)]
    depth = max(map(len, piles), default=0)
    mixed = [pile[level] for level in range(depth) for pile in piles if level < len(pile)]
    return [_row(row) for row in mixed[:ROWS_PER_STAGE]]


def has_preferences(store: Store, train: Manifest) -> bool:
    """Whether the rows are preference pairs."""
    if not train.shards:
        return False
    with store.open_parquet(f"{train.prefix}/{train.shards[0].path}") as file:
        return "chosen" in file.schema_arrow.names


def _row(row: TrainRow) -> RowSample:
    pictures = iter(row.images)
    pieces = []
    for message in row.prompt:
        for part in message.content:
            if part.type == IMAGE:
                image = next(pictures, None)
                pieces.append(Piece(message.role, None, thumbnail(image.bytes) if image else None))
            else:
                pieces.append(Piece(message.role, part.text or ""))
    said = [part.text or "" for message in row.completion for part in message.content]
    return RowSample(row, pieces, "".join(said))
