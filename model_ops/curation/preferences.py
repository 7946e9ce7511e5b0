"""Preferences of the calibrated method: searches in, nodes as they were judged and pairs out.

Its one idea: all of it is arithmetic on what the searches scored, so other weights cost no model
call. Searches are judged one by one (`preference_checks`) and written shard by shard, with the
pixels read as each shard is written; a killed run goes on at the first shard without a receipt.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from model_ops.curation.batches import Batch, batches
from model_ops.curation.pair_rows import assistant_says
from model_ops.curation.preference_checks import (
    Preference,
    Reply,
    identity,
    node_rows,
    prefer,
)
from model_ops.curation.train_rows import chat
from model_ops.images import ImageReader
from model_ops.programs.describing import description_messages
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
from schemas.config import PreferenceConfig
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest, Shard, digest
from schemas.rows import PairRow, Picture, QuarantineRow, row_id
from schemas.searches import NodeRow, SearchRow
from schemas.store import Store

CODE_VERSION = 3
"""Raise it when preferences change, so that finished shards of older code are not reused."""
ROLE = "calibrated"
_DROPPED = "dropped/"
_Kept = tuple[SearchRow, Preference]
_Dropped = tuple[SearchRow, DropError]
_SUM, _MEAN = "sum/", "mean_"


def write_nodes(
    store: Store, searches: Manifest, config: PreferenceConfig, prefix: str, seed: int,
    into: Store | None = None,
) -> Manifest:
    """Write every node of *searches* as *config* judges it, a shard for a shard; the manifest.

    Finished work for the same inputs is returned as it is. *into* is the store that is written to,
    where it is not *store*. Stats count nodes, finished replies and drops (`dropped/<reason>`).
    """
    out = into or store
    inputs = digest(["nodes of searches", CODE_VERSION, config.model_dump(mode="json"),
                     searches.digest, seed])
    if (done := find_manifest(out, prefix, inputs)) is not None:
        return done
    shards = [read_receipt(out, prefix, shard.index, inputs)
              or _node_shard(store, out, searches, shard.index, config, prefix, seed, inputs)
              for shard in searches.shards]
    return publish(out, Manifest(
        kind="nodes", prefix=prefix, inputs_digest=inputs, shards=shards,
        parents={"searches": searches.digest}, stats=sum_stats(shards),
        config=config.model_dump(mode="json"), determinism=searches.determinism))


def _node_shard(
    store: Store, out: Store, searches: Manifest, index: int, config: PreferenceConfig,
    prefix: str, seed: int, inputs: str,
) -> Shard:
    rows = [row for search in read_shard(store, searches, index, SearchRow)
            for row in node_rows(search, config, seed)]
    return write_shard(out, prefix, index, rows, NodeRow, (), _count_nodes(rows), inputs)


def _count_nodes(rows: Sequence[NodeRow]) -> dict[str, float]:
    reasons = Counter(row.dropped_reason for row in rows if row.dropped_reason is not None)
    return {"nodes": float(len(rows)), "final": float(sum(row.key is not None for row in rows)),
            **{f"{_DROPPED}{reason}": float(num) for reason, num in sorted(reasons.items())}}


def write_preferences(
    store: Store, searches: Manifest, images: Manifest, config: PreferenceConfig, prompts: Prompts,
    prefix: str, shard_size: int, seed: int, into: Store | None = None,
) -> Manifest:
    """Write the pairs of *searches* under *prefix*, publish the manifest.

    Finished work for the same inputs is returned as it is. *into* is the store that is written to,
    where it is not *store*. What is dropped stands in the shards' quarantine with its reason. The
    funnel adds up: planned = kept + all drops. Stats are means over the kept pairs (`mean_...`) and
    sums over all searches. `ConfigError` if *prompts* are not those of the searches.
    """
    job = _Job(store, into or store, searches, images, config, prompts, prefix, shard_size, seed)
    done = find_manifest(job.out, prefix, job.inputs_digest)
    return done or publish(job.out, _prefer_all(job))


@dataclass(frozen=True, slots=True)
class _Job:
    """The arguments of `write_preferences`."""

    store: Store
    out: Store
    searches: Manifest
    images: Manifest
    config: PreferenceConfig
    prompts: Prompts
    prefix: str
    shard_size: int
    seed: int

    @property
    def inputs_digest(self) -> str:
        """What decides whether finished shards are reused."""
        parents = [self.searches.digest, self.images.digest, self.prompts.digest]
        return digest(["preferences", CODE_VERSION, self.config.model_dump(mode="json"), parents,
                       self.shard_size, self.seed])

    def rows(self) -> Iterator[SearchRow]:
        """The searches; `ConfigError` if they were made with other prompts than ours."""
        for row in read_rows(self.store, self.searches, SearchRow):
            if row.prompt_version != self.prompts.digest:
                raise ConfigError(
                    f"search {row.row_id} was made with prompts {row.prompt_version[:12]}, but the "
                    f"set {self.prompts.name!r} is now {self.prompts.digest[:12]}: search again, "
                    f"or restore the prompts")
            yield row


def _prefer_all(job: _Job) -> Manifest:
    reader = ImageReader(job.store, job.images)
    shards = [_shard(job, index, batch, reader)
              for index, batch in enumerate(batches(_judged(job), job.shard_size))]
    return Manifest(
        kind="pairs", prefix=job.prefix, inputs_digest=job.inputs_digest,
        parents={"searches": job.searches.digest, "images": job.images.digest,
                 "prompts": job.prompts.digest},
        shards=shards, funnel=_funnel(job.searches, shards), stats=_summary(shards),
        config=job.config.model_dump(mode="json"), determinism=job.searches.determinism)


def _judged(job: _Job) -> Iterator[tuple[list[_Kept], list[_Dropped]]]:
    for row in job.rows():
        try:
            yield [(row, prefer(row, job.config))], []
        except DropError as error:
            yield [], [(row, error)]


def _shard(
    job: _Job, index: int, batch: Batch[_Kept, _Dropped], reader: ImageReader
) -> Shard:
    """The finished shard if there is one; else check every pair and write it."""
    finished = read_receipt(job.out, job.prefix, index, job.inputs_digest)
    if finished is not None:
        return finished
    pairs: list[PairRow] = []
    kept: list[Preference] = []
    dropped = list(batch.dropped)
    for row, preference in batch.kept:
        pair = _pair_row(job, row, preference, Picture(bytes=reader.read(row.image)))
        try:
            check_pair_row(pair)
            pairs.append(pair)
            kept.append(preference)
        except DropError as error:
            dropped.append((row, error))
    searches = [row for row, _ in (*batch.kept, *batch.dropped)]
    return write_shard(job.out, job.prefix, index, pairs, PairRow,
                       [_quarantined(row, error) for row, error in dropped],
                       _sums(searches, kept, dropped), job.inputs_digest)


def _pair_row(job: _Job, search: SearchRow, pair: Preference, picture: Picture) -> PairRow:
    """The preference pair, traceable to its search by `source_row_id`."""
    return PairRow(
        row_id=row_id("pair", source=search.row_id, preference=identity(job.config)),
        round=search.round, stage=search.stage,
        model_digest=search.model_digest, prompt_version=search.prompt_version, seed=job.seed,
        prompt=chat(description_messages(job.prompts, search.question)),
        chosen=assistant_says(pair.chosen.text), rejected=assistant_says(pair.rejected.text),
        images=[picture], role=ROLE, source_row_id=search.row_id,
        image_ids=[search.image.image_id], chosen_reward=pair.chosen.reward,
        rejected_reward=pair.rejected.reward, num_candidates=pair.num_candidates,
        margin=pair.margin, chosen_words=pair.chosen.num_words,
        rejected_words=pair.rejected.num_words)


def _quarantined(row: SearchRow, error: DropError) -> QuarantineRow:
    # The nodes stand in the searches: a second copy of every tree would be most of the artifact.
    return QuarantineRow(
        row_id=row.row_id, kind="searches", reason=error.reason, detail=error.detail,
        source=row.image.image_id, payload=row.model_dump_json(exclude={"nodes"}))


def _sums(
    searches: Sequence[SearchRow], kept: Sequence[Preference],
    dropped: Sequence[_Dropped],
) -> dict[str, float]:
    """Of a shard: sums over its pairs (`sum/...`) and searches, drops by reason."""
    sums: dict[str, float] = {f"{_SUM}margin": sum(pair.margin for pair in kept)}
    for side in ("chosen", "rejected"):
        replies: list[Reply] = [getattr(pair, side) for pair in kept]
        sums[f"{_SUM}{side}_reward"] = sum(reply.reward for reply in replies)
        sums[f"{_SUM}{side}_words"] = float(sum(reply.num_words for reply in replies))
        sums[f"{_SUM}{side}_cos100"] = sum(reply.cos100 for reply in replies)
        sums[f"{_SUM}{side}_cut"] = float(sum(reply.is_cut for reply in replies))
    reasons = Counter(error.reason for _, error in dropped)
    return {**sums, "truncated": float(sum(row.num_truncated for row in searches)),
            "merged": float(sum(row.num_merged for row in searches)),
            "empty": float(sum(row.num_empty for row in searches)),
            **{f"{_DROPPED}{reason}": float(num) for reason, num in sorted(reasons.items())}}


def _summary(shards: Sequence[Shard]) -> dict[str, float]:
    num_pairs = sum(shard.num_rows for shard in shards)
    sums = sum_stats(shards, lambda name: not name.startswith(_DROPPED))
    means = {name.replace(_SUM, _MEAN): total / num_pairs for name, total in sums.items()
             if name.startswith(_SUM) and num_pairs}
    return means | {name: total for name, total in sums.items() if not name.startswith(_SUM)}


def _funnel(searches: Manifest, shards: Sequence[Shard]) -> Mapping[str, int]:
    """planned, the drops of searching (`searching_<reason>`: the write check has the same reasons),
    searched, the drops here, kept: planned = kept + all drops."""
    lost = {f"searching_{name}": num for name, num in searches.funnel.items()
            if name not in ("planned", "played")}
    dropped = {name.removeprefix(_DROPPED): int(num)
               for name, num in sum_stats(shards, lambda name: name.startswith(_DROPPED)).items()}
    return {"planned": searches.num_rows + sum(lost.values()), **lost,
            "searched": searches.num_rows, **dict(sorted(dropped.items())),
            "kept": sum(shard.num_rows for shard in shards)}
