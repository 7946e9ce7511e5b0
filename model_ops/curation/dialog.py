"""Curation of dialog games: transcripts in, training shards and quarantine out.

Two passes over the transcripts: the first judges games and rows by small keys only, the second
writes what was chosen, shard by shard, with the pixels read as each shard is written. So memory
stays flat in the images, and a killed run goes on at the first shard without a receipt.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from model_ops.curation.batches import Batch, batches
from model_ops.curation.checks import has_sound_answers
from model_ops.curation.selection import (
    count_funnel,
    count_turns,
    draw_look,
    exclude_rows,
    judge,
    select_games,
)
from model_ops.curation.train_rows import PlannedRow, plan_rows, train_row
from model_ops.images import ImageReader
from model_ops.looks import encoded_look
from model_ops.prompts import Prompts
from schemas.artifacts import (
    find_manifest,
    publish,
    read_quarantine,
    read_receipt,
    read_rows,
    sum_stats,
    write_shard,
)
from schemas.config import DialogCurationConfig
from schemas.config.base import Look
from schemas.errors import ConfigError
from schemas.manifest import Manifest, Shard, digest
from schemas.rows import Picture, QuarantineRow, TrainRow, TranscriptRow
from schemas.store import Store

CODE_VERSION = 2
"""Raise it when curation changes, so that finished shards of older code are not reused."""

_Kept = tuple[PlannedRow, TranscriptRow]


def curate(
    store: Store,
    transcripts: Manifest,
    images: Manifest,
    config: DialogCurationConfig,
    prompts: Prompts,
    prefix: str,
    shard_size: int,
    seed: int,
    looks: Sequence[Look] = (),
) -> Manifest:
    """Judge *transcripts*, write the chosen games' rows under *prefix*, publish the manifest.

    *looks* are the lights in which `look_share` of the rows are shown once more.

    Finished work for the same inputs is returned as it is. Dropped games stand in the shards'
    quarantine with their reason. The funnel adds up: played = kept + all drops.
    """
    job = _Job(store, transcripts, images, config, prompts, prefix, shard_size, seed, looks)
    done = find_manifest(store, prefix, job.inputs_digest)
    return done or publish(store, _curate(job))


@dataclass(frozen=True, slots=True)
class _Job:
    """The arguments of `curate`."""

    store: Store
    transcripts: Manifest
    images: Manifest
    config: DialogCurationConfig
    prompts: Prompts
    prefix: str
    shard_size: int
    seed: int
    looks: Sequence[Look]

    @property
    def inputs_digest(self) -> str:
        """What decides whether finished shards are reused."""
        settings = self.config.model_dump(mode="json")
        parents = [self.transcripts.digest, self.images.digest, self.prompts.digest]
        key = ["curate dialog", CODE_VERSION, settings, parents, self.shard_size, self.seed,
               list(self.looks) if self.config.look_share else []]
        return digest(key)

    def games(self) -> Iterator[TranscriptRow]:
        """The transcripts; `ConfigError` if they were played with other prompts than ours."""
        for game in read_rows(self.store, self.transcripts, TranscriptRow):
            if game.prompt_version != self.prompts.digest:
                raise ConfigError(
                    f"transcript {game.row_id} was played with prompts {game.prompt_version[:12]}, "
                    f"but the set {self.prompts.name!r} is now {self.prompts.digest[:12]}: play "
                    "again, or restore the prompts"
                )
            yield game

    def plan(self, game: TranscriptRow, reason: str | None) -> list[PlannedRow]:
        """The rows of a game that was dropped for *reason*, or kept (None)."""
        if reason is None:
            return plan_rows(game, self.config, self.prompts)
        if self.config.answers_of_dropped_games and has_sound_answers(game, self.config):
            rows = plan_rows(game, self.config, self.prompts)
            return [row for row in rows if row.role == "answer"]
        return []


def _curate(job: _Job) -> Manifest:
    games = [judge(game, job.config) for game in job.games()]
    chosen = select_games(games, job.config, job.seed)
    excluded = _excluded_rows(job, chosen)
    reader = ImageReader(job.store, job.images)
    planned = _planned(job, chosen, excluded)
    shards = [_shard(job, index, batch, reader)
              for index, batch in enumerate(batches(planned, job.shard_size))]
    broken = (row.reason for row in read_quarantine(job.store, job.transcripts))
    return Manifest(
        kind="train",
        prefix=job.prefix,
        inputs_digest=job.inputs_digest,
        parents={"transcripts": job.transcripts.digest, "images": job.images.digest,
                 "prompts": job.prompts.digest},
        shards=shards,
        funnel=count_funnel(games, chosen, broken),
        stats=sum_stats(shards) | count_turns(games) | _count_excluded(excluded),
        config=job.config.model_dump(mode="json"),
        determinism=job.transcripts.determinism,
    )


def _excluded_rows(job: _Job, chosen: Mapping[str, str | None]) -> dict[str, str]:
    keys = (
        planned.key(game)
        for game in job.games()
        for planned in job.plan(game, chosen[game.row_id])
    )
    return exclude_rows(keys, job.config.balance_answers, job.seed)


def _planned(
    job: _Job, chosen: Mapping[str, str | None], excluded: Mapping[str, str]
) -> Iterator[tuple[list[_Kept], list[QuarantineRow]]]:
    for game in job.games():
        reason = chosen[game.row_id]
        rows = [row for row in job.plan(game, reason) if row.row_id(game) not in excluded]
        dropped = [] if reason is None else [_dropped_game(game, reason)]
        yield [(shown, game) for row in rows for shown in _shown(job, row, game)], dropped


def _shown(job: _Job, row: PlannedRow, game: TranscriptRow) -> list[PlannedRow]:
    """The row, and if it is drawn once more in another light."""
    look = draw_look(row.row_id(game), job.config.look_share, job.looks, job.seed)
    return [row, replace(row, look=look)] if look else [row]


def _dropped_game(game: TranscriptRow, reason: str) -> QuarantineRow:
    return QuarantineRow(
        row_id=game.row_id,
        kind="transcript",
        reason=reason,
        detail=f"guess {game.guess}, target {game.target}, {len(game.turns)} turns",
        source=game.group_id,
        payload=game.model_dump_json(),
    )


def _shard(
    job: _Job, index: int, batch: Batch[_Kept, QuarantineRow], reader: ImageReader
) -> Shard:
    """The finished shard if there is one; else write it (`write_shard` checks every row)."""
    finished = read_receipt(job.store, job.prefix, index, job.inputs_digest)
    if finished is not None:
        return finished
    weights = job.config.role_weights
    rows = []
    for planned, game in batch.kept:
        pictures = [Picture(bytes=encoded_look(reader.read(ref), planned.look))
                    for ref in planned.images]
        rows.append(train_row(planned, game, pictures, weights[planned.role], job.seed))
    stats = {f"rows/{role}": float(n) for role, n in Counter(row.role for row in rows).items()}
    return write_shard(
        job.store, job.prefix, index, rows, TrainRow, batch.dropped, stats, job.inputs_digest
    )


def _count_excluded(excluded: Mapping[str, str]) -> dict[str, float]:
    counts = Counter(excluded.values())
    return {f"rows_left_out/{reason}": float(counts[reason]) for reason in sorted(counts)}
