"""Curation of imagined replies: preference pairs and quarantine, then training rows of the pairs.

Two passes, as for the dialog method: the first judges by small keys only, the second writes what
was chosen shard by shard, with the pixels read as each shard is written. Pairs do not depend on how
they are learnt, so every objective trains on the same ones; `write_train` says how.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from model_ops.criteria import CriteriaSet
from model_ops.curation.batches import Batch, batches
from model_ops.curation.pair_checks import drop_reason
from model_ops.curation.pair_rows import Objective, pair_row, rows_of
from model_ops.curation.selection import lot
from model_ops.images import ImageReader
from model_ops.prompts import Prompts
from schemas.artifacts import (
    find_manifest,
    publish,
    read_receipt,
    read_rows,
    read_shard,
    sum_stats,
    write_shard,
)
from schemas.checks import check_pair_row
from schemas.config import PairCurationConfig, RewardWords
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest, Shard, digest
from schemas.questions import slug
from schemas.rows import ImaginedRow, PairRow, Picture, QuarantineRow, TrainRow
from schemas.store import Store

CODE_VERSION = 1
"""Raise it when curation changes, so that finished shards of older code are not reused."""
_DROPPED = "dropped/"
_Dropped = tuple[ImaginedRow, DropError]


class Wording(NamedTuple):
    """The words that replies were asked, judged and are learnt with."""

    prompts: Prompts
    criteria: CriteriaSet
    reward_words: RewardWords


def curate(
    store: Store,
    questions: Manifest,
    imagined: Manifest,
    images: Manifest,
    config: PairCurationConfig,
    wording: Wording,
    prefix: str,
    shard_size: int,
    seed: int,
) -> Manifest:
    """Judge *imagined*, write the chosen pairs under *prefix*, publish the manifest.

    Finished work for the same inputs is returned as it is. What is dropped stands in the shards'
    quarantine with its reason. The funnel continues that of *questions* and adds up: planned = kept
    + all drops. `ConfigError` if prompts or criteria are not those of the replies.
    """
    _check_pattern(config)
    job = _Job(store, questions, imagined, images, config, wording, prefix, shard_size, seed)
    done = find_manifest(store, prefix, job.inputs_digest)
    return done or publish(store, _curate(job))


def _check_pattern(config: PairCurationConfig) -> None:
    try:
        re.compile(config.leak_pattern or "")
    except re.error as error:
        raise ConfigError(f"curation.leak_pattern {config.leak_pattern!r} is no regular "
                          f"expression: {error}") from error


@dataclass(frozen=True, slots=True)
class _Job:
    """The arguments of `curate`."""

    store: Store
    questions: Manifest
    imagined: Manifest
    images: Manifest
    config: PairCurationConfig
    wording: Wording
    prefix: str
    shard_size: int
    seed: int

    @property
    def inputs_digest(self) -> str:
        """What decides whether finished shards are reused."""
        parents = [self.questions.digest, self.imagined.digest, self.images.digest]
        words = [self.wording.prompts.digest, self.wording.criteria.digest,
                 self.wording.reward_words.model_dump()]
        return digest(["curate pairs", CODE_VERSION, self.config.model_dump(mode="json"), parents,
                       words, self.shard_size, self.seed])

    def rows(self) -> Iterator[ImaginedRow]:
        """The imagined replies; `ConfigError` if they were asked with other words than ours."""
        ours = (self.wording.prompts.digest, self.wording.criteria.digest)
        for row in read_rows(self.store, self.imagined, ImaginedRow):
            if (row.prompt_version, row.criteria_version) != ours:
                raise ConfigError(
                    f"reply {row.row_id} was imagined with prompts {row.prompt_version[:12]} and "
                    f"criteria {row.criteria_version[:12]}, but these are now {ours[0][:12]} and "
                    f"{ours[1][:12]}: generate again, or restore the files")
            yield row


class JudgedPair(NamedTuple):
    """A pair as far as selection needs it; `reason` is None if every check passed."""

    row_id: str
    question_type: str
    reason: str | None


def select_pairs(
    pairs: Iterable[JudgedPair], max_per_type: int | None, seed: int
) -> dict[str, str]:
    """Row id -> why the pair goes: its own reason, or `over_cap` (drawn by seed)."""
    reasons: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for pair in sorted(pairs, key=lambda pair: lot(seed, pair.row_id)):
        if pair.reason is not None:
            reasons[pair.row_id] = pair.reason
        elif max_per_type is not None and taken[pair.question_type] >= max_per_type:
            reasons[pair.row_id] = "over_cap"
        else:
            taken[pair.question_type] += 1
    return reasons


def _curate(job: _Job) -> Manifest:
    criteria, config = job.wording.criteria, job.config
    judged = (JudgedPair(row.row_id, row.question_type,
                         drop_reason(row, criteria.of(row.question_type), config))
              for row in job.rows())
    reasons = select_pairs(judged, config.max_per_type, job.seed)
    reader = ImageReader(job.store, job.images)
    shards = [_shard(job, index, batch, reader)
              for index, batch in enumerate(batches(_chosen(job, reasons), job.shard_size))]
    return Manifest(
        kind="pairs", prefix=job.prefix, inputs_digest=job.inputs_digest,
        parents={"imagined": job.imagined.digest, "images": job.images.digest,
                 "prompts": job.wording.prompts.digest},
        shards=shards, funnel=count_pairs(job.questions, job.imagined, shards),
        stats=sum_stats(shards, lambda name: not name.startswith(_DROPPED)),
        config=config.model_dump(mode="json"), determinism=job.imagined.determinism)


def _chosen(
    job: _Job, reasons: Mapping[str, str]
) -> Iterator[tuple[list[ImaginedRow], list[_Dropped]]]:
    for row in job.rows():
        if row.row_id in reasons:
            yield [], [(row, DropError(reasons[row.row_id], _told(row)))]
        else:
            yield [row], []


def _told(row: ImaginedRow) -> str:
    labels = f", judged {row.desired_label}/{row.undesired_label}" if row.desired_label else ""
    return f"{row.question_type}{labels}: {row.question} / {row.desired} / {row.undesired}"


def _shard(
    job: _Job, index: int, batch: Batch[ImaginedRow, _Dropped], reader: ImageReader
) -> Shard:
    """The finished shard if there is one; else check every pair and write it."""
    finished = read_receipt(job.store, job.prefix, index, job.inputs_digest)
    if finished is not None:
        return finished
    words = tuple(job.wording.reward_words.model_dump().values())
    pairs: list[PairRow] = []
    dropped = list(batch.dropped)
    for row in batch.kept:
        picture = Picture(bytes=reader.read(row.image))
        pair = pair_row(row, picture, job.wording.prompts, job.seed)
        try:
            check_pair_row(pair, reward_words=words)
            pairs.append(pair)
        except DropError as error:
            dropped.append((row, error))
    quarantined = [_quarantined(row, error) for row, error in dropped]
    return write_shard(job.store, job.prefix, index, pairs, PairRow, quarantined,
                       _stats(pairs, dropped), job.inputs_digest)


def _quarantined(row: ImaginedRow, error: DropError) -> QuarantineRow:
    return QuarantineRow(
        row_id=row.row_id, kind="imagined", reason=error.reason, detail=error.detail,
        source=row.image.image_id, payload=row.model_dump_json())


def _stats(
    pairs: list[PairRow], dropped: list[_Dropped]
) -> dict[str, float]:
    """`played/<slug>` (replies that came in) and `kept/<slug>` by kind, drops by reason."""
    kept = Counter(pair.role for pair in pairs)
    played = kept + Counter(row.question_type for row, _ in dropped)
    reasons = Counter(error.reason for _, error in dropped)
    counts = {
        **{f"played/{slug(kind)}": num for kind, num in sorted(played.items())},
        **{f"kept/{slug(kind)}": kept[kind] for kind in sorted(played)},
        **{f"{_DROPPED}{reason}": num for reason, num in sorted(reasons.items())},
    }
    return {name: float(num) for name, num in counts.items()}


def count_pairs(
    questions: Manifest, imagined: Manifest, shards: list[Shard]
) -> dict[str, int]:
    """The funnel of the questions, then the drops of imagining (`imagining_<reason>`: asking has
    the same reasons), imagined, the drops here, kept: planned = kept + all drops."""
    lost = {f"imagining_{name}": num for name, num in imagined.funnel.items()
            if name not in ("planned", "played")}
    dropped = {name.removeprefix(_DROPPED): int(num)
               for name, num in sum_stats(shards, lambda name: name.startswith(_DROPPED)).items()}
    return {**questions.funnel, **lost, "imagined": imagined.num_rows,
            **dict(sorted(dropped.items())), "kept": sum(shard.num_rows for shard in shards)}


def write_train(
    store: Store, pairs: Manifest, objective: Objective, words: RewardWords, prefix: str, seed: int
) -> Manifest:
    """The rows that *objective* learns from *pairs*, a shard for a shard; publish the manifest.

    Finished work for the same inputs is returned as it is. The funnel is that of *pairs*.
    """
    settings = {"objective": objective, "reward_words": words.model_dump()}
    inputs = digest(["train rows of pairs", CODE_VERSION, settings, pairs.digest, seed])
    if (done := find_manifest(store, prefix, inputs)) is not None:
        return done
    shards = [read_receipt(store, prefix, shard.index, inputs)
              or _train_shard(store, pairs, shard.index, objective, words, prefix, seed, inputs)
              for shard in pairs.shards]
    manifest = Manifest(
        kind="train", prefix=prefix, inputs_digest=inputs,
        parents={"pairs": pairs.digest, **_prompts_of(pairs)}, shards=shards,
        funnel=pairs.funnel, stats={**pairs.stats, **sum_stats(shards)}, config=settings,
        determinism=pairs.determinism)
    return publish(store, manifest)


def _prompts_of(made: Manifest) -> dict[str, str]:
    return {name: found for name, found in made.parents.items() if name == "prompts"}


def _train_shard(
    store: Store, pairs: Manifest, index: int, objective: Objective, words: RewardWords,
    prefix: str, seed: int, inputs: str,
) -> Shard:
    rows = [row for pair in read_shard(store, pairs, index, PairRow)
            for row in rows_of(pair, objective, words, seed)]
    stats = {f"rows/{role}": float(num) for role, num in Counter(r.role for r in rows).items()}
    row_type = PairRow if objective == "dpo" else TrainRow
    return write_shard(store, prefix, index, rows, row_type, (), stats, inputs)
