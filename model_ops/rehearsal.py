"""A rehearsal: what a model says already becomes rows, so that it goes on saying it.

A stage that teaches short replies unlearns long ones. So the model that is about to be trained is
asked first, and its own replies are learnt beside the stage's rows (self-synthesised rehearsal,
J. Huang et al. 2024, arXiv 2403.01244). No label is needed, and none is looked at.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from model_ops.contrastive import reward_word
from model_ops.curation.batches import Batch, batches
from model_ops.curation.pair_rows import assistant_says
from model_ops.curation.train_rows import chat
from model_ops.descriptions import plan_prompts
from model_ops.engines.pool import ProgramJob, run_programs
from model_ops.images import ImageReader
from model_ops.programs.describing import description_messages
from model_ops.programs.reward import with_reward_word
from model_ops.prompts import Prompts, load_prompts
from model_ops.stages import OnProgress, StagePlace, local_model
from schemas.artifacts import (
    find_manifest,
    publish,
    read_receipt,
    read_rows,
    sum_stats,
    write_shard,
)
from schemas.checks import check_train_row
from schemas.config import RehearsalConfig
from schemas.errors import DropError
from schemas.manifest import Manifest, Shard, digest
from schemas.rows import Picture, QuarantineRow, TrainRow, row_id
from schemas.searches import DescribedRow
from schemas.store import Store

CODE_VERSION = 1
"""Raise it when other rows come of the same replies."""
ROLE = "rehearsal"
"""`role` of rows without a reward word."""
PROMPTS, REPLIES, ROWS = "rehearsal-prompts", "rehearsal-replies", "rehearsal"
"""The artifacts, in their order."""


def settings_of(place: StagePlace) -> RehearsalConfig | None:
    """The stage's rehearsal; None where it has none (a calibrated stage learns descriptions)."""
    stage = place.stage
    return None if stage.method == "calibrated" else stage.rehearsal


def _settings(place: StagePlace) -> RehearsalConfig:
    settings = settings_of(place)
    assert settings is not None, f"{place.name} has no rehearsal"
    return settings


def plan(store: Store, place: StagePlace, images: Manifest) -> Manifest:
    """What is asked about which image: the same in every round, as the seed is the run's."""
    config, settings = place.config, _settings(place)
    return plan_prompts(store, images, settings, load_prompts(config.model.prompts), config.seed,
                        place.prefix(PROMPTS), config.shard_size)


def reply(
    store: Store, place: StagePlace, prompts: Manifest, images: Manifest, model: Manifest,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Let `model`, which is about to be trained, reply to every prompt."""
    config, settings = place.config, _settings(place)
    job = ProgramJob(
        program="rehearse", settings=settings.model_dump(mode="json"), prompts=config.model.prompts,
        round=place.round, stage=place.name, seed=place.seed,
        models={"": local_model(store, model, config)})
    return run_programs(store, prompts, images, job, config.engine, place.prefix(REPLIES),
                        on_progress=on_progress)


def rows(store: Store, place: StagePlace, replies: Manifest, images: Manifest) -> Manifest:
    """What the stage's objective learns from the replies."""
    return write_rows(RehearsalJob(
        store=store, replies=replies, images=images, word=reward_word(place) or "",
        prompts=load_prompts(place.config.model.prompts), prefix=place.prefix(ROWS),
        shard_size=place.config.shard_size, seed=place.seed))


@dataclass(frozen=True, slots=True)
class RehearsalJob:
    """Replies that become training rows, and where the rows go."""

    store: Store
    replies: Manifest
    images: Manifest
    prompts: Prompts
    word: str
    """The reward word that the trained model is asked with, where rows carry it (`crl`)."""
    prefix: str
    shard_size: int
    seed: int

    @property
    def inputs_digest(self) -> str:
        """What decides whether finished shards are reused."""
        parents = [self.replies.digest, self.images.digest, self.prompts.digest]
        return digest(["rehearsal", CODE_VERSION, self.word, parents, self.shard_size, self.seed])


def write_rows(job: RehearsalJob) -> Manifest:
    """Write a training row for every whole reply under `job.prefix`, publish the manifest.

    Finished work for the same inputs is returned as it is. A reply that was cut off (`cut_off`) or
    is no training row (`schemas.checks`) stands in the shards' quarantine. The funnel adds up:
    replied = kept + all drops.
    """
    done = find_manifest(job.store, job.prefix, job.inputs_digest)
    return done or publish(job.store, _rehearse(job))


_Batch = Batch[TrainRow, QuarantineRow]


def _rehearse(job: RehearsalJob) -> Manifest:
    shards = [_shard(job, index, batch)
              for index, batch in enumerate(batches(_rows(job), job.shard_size))]
    drops = {name: int(num) for name, num in sorted(sum_stats(shards).items())}
    return Manifest(
        kind="train", prefix=job.prefix, inputs_digest=job.inputs_digest, shards=shards,
        parents={"replies": job.replies.digest, "images": job.images.digest,
                 "prompts": job.prompts.digest},
        funnel={"replied": job.replies.num_rows, **drops,
                "kept": sum(shard.num_rows for shard in shards)},
        determinism=job.replies.determinism)


def _rows(job: RehearsalJob) -> Iterator[tuple[list[TrainRow], list[QuarantineRow]]]:
    reader = ImageReader(job.store, job.images)
    for said in read_rows(job.store, job.replies, DescribedRow):
        row = _train_row(job, said, Picture(bytes=reader.read(said.image)))
        try:
            if said.finish_reason == "length":
                raise DropError("cut_off", f"after {said.num_output_tokens} tokens")
            check_train_row(row, reward_words={job.word} - {""})
            yield [row], []
        except DropError as error:
            yield [], [QuarantineRow(
                row_id=row.row_id, kind="train", reason=error.reason, detail=error.detail,
                source=said.row_id, payload=said.model_dump_json())]


def _train_row(job: RehearsalJob, said: DescribedRow, picture: Picture) -> TrainRow:
    """The row, traceable to the reply by `source_row_id`."""
    messages = with_reward_word(description_messages(job.prompts, said.question), job.word)
    return TrainRow(
        row_id=row_id("train", source=said.row_id, word=job.word), round=said.round,
        stage=said.stage, model_digest=said.model_digest, prompt_version=said.prompt_version,
        seed=job.seed, prompt=chat(messages), completion=assistant_says(said.reply),
        images=[picture], weight=1.0, role=job.word or ROLE, source_row_id=said.row_id,
        image_ids=[said.image.image_id])


def _shard(job: RehearsalJob, index: int, batch: _Batch) -> Shard:
    """The finished shard if there is one; else write it."""
    finished = read_receipt(job.store, job.prefix, index, job.inputs_digest)
    if finished is not None:
        return finished
    drops = Counter(row.reason for row in batch.dropped)
    return write_shard(job.store, job.prefix, index, batch.kept, TrainRow, batch.dropped,
                       {reason: float(num) for reason, num in drops.items()}, job.inputs_digest)
