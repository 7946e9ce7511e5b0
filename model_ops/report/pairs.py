"""The pairs that the report shows: some of every kind that were kept, and some of every reason for
which others were dropped, each with its picture.

Chosen by row id, as games are: the same every time, and not ours to make pretty.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from model_ops.images import ImageReader
from model_ops.report.history import History, StageView
from model_ops.report.samples import (
    SHARDS_READ,
    RowSample,
    has_preferences,
    picture,
    sampled_rounds,
    training_rows,
)
from model_ops.report.thumbnails import Thumbnail, thumbnail
from model_ops.report.yields import KindYield, kind_yields
from schemas.artifacts import read_quarantine, read_shard
from schemas.checks import text_of
from schemas.manifest import Manifest
from schemas.questions import QUESTION_TYPES
from schemas.rows import ImaginedRow, PairRow, QuarantineRow
from schemas.store import Store

PAIRS_PER_KIND = 2
DROPPED_PER_STAGE = 9


@dataclass(frozen=True, slots=True)
class PairSample:
    """A question about a picture with both replies, as they were judged."""

    row_id: str
    kind: str
    question: str
    chosen: str
    rejected: str
    picture: Thumbnail | None
    verdicts: list[str]
    """What the judge said, in words; empty where it was not asked."""
    prompt_version: str
    reason: str = ""
    """Why it was dropped; "" for a pair that was kept."""


@dataclass(frozen=True, slots=True)
class PairStage:
    """What one contrastive stage of one round shows."""

    round: int
    stage: str
    yields: list[KindYield]
    kept: list[PairSample]
    dropped: list[PairSample]
    rows: list[RowSample]
    learns_pairs: bool
    """The training rows are the pairs themselves (objective `dpo`)."""


def pair_stages(store: Store, history: History) -> list[PairStage]:
    """The contrastive stages of the rounds that samples are shown of, oldest first."""
    reader = ImageReader(store, history.images) if history.images else None
    return [_stage(store, view.record.round, stage, reader) for view in sampled_rounds(history)
            for stage in view.stages if stage.record.method == "contrastive"]


def _stage(
    store: Store, number: int, stage: StageView, reader: ImageReader | None
) -> PairStage:
    pairs, train = stage.manifests.get("pairs"), stage.manifests.get("train")
    return PairStage(
        round=number,
        stage=stage.record.name,
        yields=kind_yields(stage),
        kept=[_kept(row) for row in _some_of_each_kind(store, pairs)] if pairs else [],
        dropped=[_dropped(row, reader) for row in some_of_each_reason(store, pairs)]
        if pairs else [],
        rows=training_rows(store, train),
        learns_pairs=train is not None and has_preferences(store, train))


def _some_of_each_kind(store: Store, pairs: Manifest) -> Iterator[PairRow]:
    by_kind: dict[str, list[PairRow]] = {}
    for shard in pairs.shards[:SHARDS_READ]:
        for row in read_shard(store, pairs, shard.index, PairRow):
            by_kind.setdefault(row.role, []).append(row)
    for kind in (*QUESTION_TYPES, *sorted(by_kind.keys() - set(QUESTION_TYPES))):
        yield from sorted(by_kind.get(kind, []), key=lambda row: row.row_id)[:PAIRS_PER_KIND]


def some_of_each_reason(store: Store, pairs: Manifest) -> Sequence[QuarantineRow]:
    """The first of every reason, then the second of each, the most frequent reason first."""
    read = pairs.model_copy(update={"shards": pairs.shards[:SHARDS_READ]})
    rows = sorted(read_quarantine(store, read), key=lambda row: row.row_id)
    counts = Counter(row.reason for row in rows)
    seen: Counter[str] = Counter()
    placed: list[tuple[int, int, QuarantineRow]] = []
    for row in rows:
        placed.append((seen[row.reason], -counts[row.reason], row))
        seen[row.reason] += 1
    ordered = sorted(placed, key=lambda place: (*place[:2], place[2].reason))
    return [row for _, _, row in ordered[:DROPPED_PER_STAGE]]


def _kept(row: PairRow) -> PairSample:
    rewards = {"chosen": row.chosen_reward, "rejected": row.rejected_reward}
    return PairSample(
        row_id=row.row_id, kind=row.role, question=text_of(row.prompt[-1:]),
        chosen=text_of(row.chosen), rejected=text_of(row.rejected),
        picture=thumbnail(row.images[0].bytes) if row.images else None,
        verdicts=[f"{name} as desired: {value:.2f}" for name, value in rewards.items()
                  if value is not None],
        prompt_version=row.prompt_version)


def _dropped(row: QuarantineRow, reader: ImageReader | None) -> PairSample:
    """The imagined replies of the payload; of a payload that is none, what is told of it."""
    try:
        source = ImaginedRow.model_validate_json(row.payload)
    except ValidationError:
        return PairSample(row_id=row.row_id, kind=row.kind, question=row.detail, chosen="",
                          rejected="", picture=None, verdicts=[], prompt_version="",
                          reason=row.reason)
    labels = {"desired": source.desired_label, "undesired": source.undesired_label}
    return PairSample(
        row_id=row.row_id, kind=source.question_type, question=source.question,
        chosen=source.desired, rejected=source.undesired, picture=picture(reader, source.image),
        verdicts=[f"{name} judged {label}" for name, label in labels.items() if label is not None],
        prompt_version=source.prompt_version, reason=row.reason)
