"""Which of the asked questions are replied to: without repeats, and without one opening for all.

methods/contrastive_macaroon.md, section 3, step 4 [P]. Questions are compared within their kind and
image only: the same words about another picture are another question. Everything here works on
small keys; the rows are then written shard by shard, so a killed run goes on at the first shard
without a receipt.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from model_ops.curation.batches import Batch, batches
from model_ops.curation.pair_checks import PAIR_REASONS
from model_ops.curation.selection import lot
from model_ops.programs.replies import normalise
from schemas.artifacts import find_manifest, publish, read_receipt, read_rows, write_shard
from schemas.config import QuestionsConfig
from schemas.manifest import Manifest, Shard, digest
from schemas.questions import slug
from schemas.rows import AskedRow, QuarantineRow
from schemas.store import Store

if TYPE_CHECKING:
    from datasketch import MinHash

CODE_VERSION = 1
"""Raise it when selection changes, so that finished shards of older code are not reused."""
NUM_HASHES = 128
"""Of a MinHash: its estimate is off by 0.03 (one standard deviation) at a similarity of 0.9."""
SHINGLE = 3
"""Letters of a shingle: questions are too short for shingles of words."""


class QuestionKey(NamedTuple):
    """A question as far as selection needs it; `text` is normalised."""

    row_id: str
    image_id: str
    question_type: str
    text: str


def key_of(row: AskedRow) -> QuestionKey:
    """The key of a question."""
    return QuestionKey(row.row_id, row.image.image_id, row.question_type, normalise(row.question))


def drop_reasons(
    keys: Iterable[QuestionKey], config: QuestionsConfig, seed: int
) -> dict[str, str]:
    """Row id -> why the question goes: `duplicate`, `near_duplicate` or `opening_cap`."""
    left = list(keys)
    reasons: dict[str, str] = dict.fromkeys(duplicates(left), "duplicate")
    left = [key for key in left if key.row_id not in reasons]
    if config.max_similarity is not None:
        reasons |= dict.fromkeys(near_duplicates(left, config.max_similarity), "near_duplicate")
        left = [key for key in left if key.row_id not in reasons]
    if config.max_share_per_opening is not None:
        share, words = config.max_share_per_opening, config.opening_words
        reasons |= dict.fromkeys(over_openings(left, share, words, seed), "opening_cap")
    return reasons


def duplicates(keys: Iterable[QuestionKey]) -> Iterator[str]:
    """Ids of the questions whose words (case and punctuation aside) were there before."""
    seen: set[tuple[str, ...]] = set()
    for key in keys:
        if key[1:] in seen:
            yield key.row_id
        seen.add(key[1:])


def near_duplicates(keys: Iterable[QuestionKey], max_similarity: float) -> Iterator[str]:
    """Ids of the questions that are as similar as *max_similarity* to an earlier one that stays,
    by MinHash (A. Broder 1997): the estimated Jaccard similarity of their letter shingles."""
    groups: dict[tuple[str, str], list[QuestionKey]] = {}
    for key in keys:
        groups.setdefault((key.image_id, key.question_type), []).append(key)
    for group in groups.values():
        kept: list[MinHash] = []
        for key in group if len(group) > 1 else ():
            sketch = sketch_of(key.text)
            if any(sketch.jaccard(other) >= max_similarity for other in kept):
                yield key.row_id
            else:
                kept.append(sketch)


def sketch_of(text: str) -> "MinHash":
    """The MinHash of a text's shingles."""
    from datasketch import MinHash

    shingles = {text[n : n + SHINGLE] for n in range(max(1, len(text) - SHINGLE + 1))}
    sketch = MinHash(num_perm=NUM_HASHES, seed=1)
    sketch.update_batch([shingle.encode() for shingle in sorted(shingles)])
    return sketch


def over_openings(
    keys: Iterable[QuestionKey], max_share: float, num_words: int, seed: int
) -> Iterator[str]:
    """Ids of the questions, drawn by seed, that are too many of one opening: of a kind's questions
    (as they came here), at most *max_share*, but one in any case, may begin with the same words."""
    by_opening: dict[tuple[str, str], list[str]] = {}
    of_kind: Counter[str] = Counter()
    for key in keys:
        opening = " ".join(key.text.split()[:num_words])
        by_opening.setdefault((key.question_type, opening), []).append(key.row_id)
        of_kind[key.question_type] += 1
    for (kind, _), ids in by_opening.items():
        limit = max(1, int(max_share * of_kind[kind] + 1e-9))
        yield from sorted(ids, key=lambda row_id: lot(seed, row_id))[limit:]


def select_questions(
    store: Store, asked: Manifest, config: QuestionsConfig, prefix: str, shard_size: int, seed: int
) -> Manifest:
    """Write the questions worth replying to under *prefix* and publish the manifest.

    Finished work for the same inputs is returned as it is. What is dropped stands in the shards'
    quarantine with its reason. The funnel adds up: planned = unique + all drops.
    """
    job = _Job(store, asked, config, prefix, shard_size, seed)
    done = find_manifest(store, prefix, job.inputs_digest)
    return done or publish(store, _select(job))


@dataclass(frozen=True, slots=True)
class _Job:
    """The arguments of `select_questions`."""

    store: Store
    asked: Manifest
    config: QuestionsConfig
    prefix: str
    shard_size: int
    seed: int

    @property
    def settings(self) -> dict[str, object]:
        """The part of the configuration that counts here."""
        wanted = {"max_similarity", "max_share_per_opening", "opening_words"}
        return self.config.model_dump(mode="json", include=wanted)

    @property
    def inputs_digest(self) -> str:
        """What decides whether finished shards are reused."""
        return digest(["select questions", CODE_VERSION, self.settings, self.asked.digest,
                       self.shard_size, self.seed])

    def rows(self) -> Iterator[AskedRow]:
        """The asked questions."""
        return read_rows(self.store, self.asked, AskedRow)


def _select(job: _Job) -> Manifest:
    reasons = drop_reasons(map(key_of, job.rows()), job.config, job.seed)
    shards = [_shard(job, index, batch)
              for index, batch in enumerate(batches(_judged(job, reasons), job.shard_size))]
    kinds = Counter(row.question_type for row in job.rows() if row.row_id not in reasons)
    return Manifest(
        kind="asked", prefix=job.prefix, inputs_digest=job.inputs_digest,
        parents={"asked": job.asked.digest}, shards=shards, config=job.settings,
        funnel=count_questions(job.asked, reasons), determinism=job.asked.determinism,
        stats={f"unique/{slug(kind)}": float(num) for kind, num in sorted(kinds.items())})


def _judged(
    job: _Job, reasons: Mapping[str, str]
) -> Iterator[tuple[list[AskedRow], list[QuarantineRow]]]:
    for row in job.rows():
        if row.row_id in reasons:
            yield [], [_dropped(row, reasons[row.row_id])]
        else:
            yield [row], []


def _dropped(row: AskedRow, reason: str) -> QuarantineRow:
    return QuarantineRow(
        row_id=row.row_id, kind="asked", reason=reason,
        detail=f"{row.question_type}: {row.question}", source=row.image.image_id,
        payload=row.model_dump_json())


def _shard(job: _Job, index: int, batch: Batch[AskedRow, QuarantineRow]) -> Shard:
    finished = read_receipt(job.store, job.prefix, index, job.inputs_digest)
    return finished or write_shard(job.store, job.prefix, index, batch.kept, AskedRow,
                                   batch.dropped, None, job.inputs_digest)


def count_questions(asked: Manifest, reasons: Mapping[str, str]) -> dict[str, int]:
    """planned, asked, the drops of asking and of selection, unique: planned = unique + all drops.

    A reason that also exists for pairs is called `asking_<reason>` here: they share one funnel.
    """
    unasked = {name: num for name, num in asked.funnel.items() if name not in ("planned", "played")}
    named = {f"asking_{name}" if name in PAIR_REASONS else name: unasked[name] for name in unasked}
    dropped = Counter(reasons.values())
    return {"planned": asked.funnel.get("planned", asked.num_rows + sum(unasked.values())),
            "asked": asked.num_rows, **named, **dict(sorted(dropped.items())),
            "unique": asked.num_rows - dropped.total()}
