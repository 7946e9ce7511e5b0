"""Beside a stage's own rows: other people's, or another stage's, pairs and instructions.

Its one idea: a record becomes the rows that the objective learns from, whole or not at all. Which
records are taken is a seeded draw, for which a first pass over the file counts the rows that each
would give; a second pass writes them shard by shard, so memory stays flat in the pictures. What
cannot be used goes to quarantine with its reason. Reading files is left to `interop`.
"""

import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from model_ops.curation.batches import Batch, batches
from model_ops.curation.train_rows import chat
from model_ops.interop.examples import Example, list_files, read_examples, stamp
from model_ops.interop.macaroon import BadRecord
from model_ops.pixels import decode
from model_ops.programs.calls import IMAGE, Message
from model_ops.programs.reward import with_reward_word
from schemas.artifacts import find_manifest, publish, read_receipt, sum_stats, write_shard
from schemas.checks import check_pair_row, check_preference, check_train_row
from schemas.config import MixConfig, RewardWords
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest, Shard, digest
from schemas.rows import ChatMessage, PairRow, Picture, QuarantineRow, TrainRow, row_id
from schemas.store import Store

CODE_VERSION = 1
"""Raise it when other rows come of the same file."""
ROLE = "mix"
"""`role` of rows without a reward word."""
_DROPPED = "dropped_"
_Row = TrainRow | PairRow


@dataclass(frozen=True, slots=True)
class MixJob:
    """What to mix into a stage, and where the rows go.

    For `crl` a chosen reply becomes a row with the good word, a rejected one a row with the bad;
    for `sft` a chosen reply (or a completion) becomes a row; for `dpo` both become a `PairRow`.
    """

    store: Store
    mix: MixConfig
    objective: str
    words: RewardWords
    """The reward words (`crl` only)."""
    num_own: int
    """Rows that the stage has itself."""
    prefix: str
    round: int
    stage: str
    seed: int
    max_pixels: int = 50_000_000
    """A larger picture is quarantined (`images.max_pixels`)."""
    held_out: frozenset[str] = frozenset()
    """Image ids (sha256) that are measured with, and must not be learnt from."""
    rows: Manifest | None = None
    """What an earlier stage made, to draw from instead of `mix.uri`."""
    max_rows: int | None = None
    """Most rows to draw where `mix.ratio` is None."""
    shard_size: int = 128

    @property
    def num_wanted(self) -> int:
        """Rows to draw."""
        if self.mix.ratio is None:
            return self.max_rows or sys.maxsize
        return max(1, round(self.mix.ratio * self.num_own))

    @property
    def row_type(self) -> type[TrainRow] | type[PairRow]:
        """What the objective learns from."""
        return PairRow if self.objective == "dpo" else TrainRow

    @property
    def files(self) -> list[str]:
        """What is read; `ConfigError` if there is nothing at `mix.uri`."""
        if self.rows is None:
            return list_files(self.mix.uri)
        return [f"{self.store.uri(self.rows.prefix)}/{shard.path}" for shard in self.rows.shards]

    def inputs_digest(self, files: Sequence[str]) -> str:
        """Identity of all that shapes the rows; a file counts by name, size and time or tag."""
        settings = [self.mix.model_dump(mode="json"), self.words.model_dump(mode="json")]
        read = self.rows.digest if self.rows else [stamp(file) for file in files]
        return digest(["mix", CODE_VERSION, settings, read,
                       self.objective, self.num_wanted, self.round, self.stage, self.seed,
                       self.max_pixels, sorted(self.held_out), self.shard_size])


def publish_mix(job: MixJob) -> Manifest:
    """Draw the rows, write them under `job.prefix`, publish the manifest (kind `train`).

    Rows per own row: `mix.ratio` (None: all), fewer if the file has fewer. The funnel counts
    records: `drawn` = `kept` + the drops by reason. Finished work for the same inputs is returned
    as it is. Raises `ConfigError` for a file that cannot be read, or that gives no row at all; an
    earlier stage may have kept none.
    """
    files = job.files
    inputs = job.inputs_digest(files)
    if (done := find_manifest(job.store, job.prefix, inputs)) is not None:
        return done
    sizes = [num_rows(record, job.objective) for record in _records(job, files)]
    drawn = draw(sizes, job.num_wanted, job.seed)
    records = (record for number, record in enumerate(_records(job, files)) if number in drawn)
    shards = [_shard(job, index, batch, inputs)
              for index, batch in enumerate(batches(_made(job, records), job.shard_size))]
    counts = {name: int(num) for name, num in sum_stats(shards).items()}
    if not counts.get("kept") and job.rows is None:
        raise ConfigError(f"mix.uri {job.mix.uri}: none of its {len(sizes)} records gives a row "
                          f"for objective {job.objective!r} ({counts}); dpo needs chosen and "
                          f"rejected replies, sft a chosen reply or a completion")
    drops = {name.removeprefix(_DROPPED): num for name, num in sorted(counts.items())
             if name.startswith(_DROPPED)}
    return publish(job.store, Manifest(
        kind="train", prefix=job.prefix, inputs_digest=inputs, shards=shards,
        parents={"rows": job.rows.digest} if job.rows else {},
        determinism=job.rows.determinism if job.rows else "inputs",
        funnel={"read": len(sizes), "drawn": len(drawn), **drops, "kept": counts.get("kept", 0)},
        config={"mix": job.mix.model_dump(mode="json"), "objective": job.objective}))


def num_rows(record: Example | BadRecord, objective: str) -> int:
    """How many rows a record gives, if nothing is wrong with it."""
    if isinstance(record, BadRecord):
        return 0
    has = [record.chosen is not None, record.rejected is not None]
    return {"crl": sum(has), "sft": int(has[0]), "dpo": int(all(has))}[objective]


def draw(sizes: Sequence[int], num_wanted: int, seed: int) -> frozenset[int]:
    """Positions drawn until they give *num_wanted* rows (one more, if the last is a pair of two).

    `sizes[i]` is how many rows record i gives; those of 0 are drawn too, and reported.
    """
    order = list(range(len(sizes)))
    random.Random(seed).shuffle(order)
    total, num = 0, 0
    while num < len(order) and total < num_wanted:
        total += sizes[order[num]]
        num += 1
    return frozenset(order[:num])


def make_rows(job: MixJob, example: Example) -> list[TrainRow] | list[PairRow]:
    """The rows of a record; `DropError` if one of them cannot be used."""
    check_example(job, example)
    if job.objective == "dpo":
        return [_pair_row(job, example)]
    replies = [(example.chosen, "")]
    if job.objective == "crl":
        replies = [(example.chosen, job.words.good), (example.rejected, job.words.bad)]
    rows = [_train_row(job, example, reply, word) for reply, word in replies if reply is not None]
    if not rows:
        raise DropError("no_reply", f"objective {job.objective} learns from chosen replies")
    if len(rows) == 2:
        check_preference(rows[0].completion, rows[1].completion)
    return rows


def check_example(job: MixJob, example: Example) -> None:
    """The prompt ends with a question of the user's; as many pictures as placeholders, none in a
    reply; all pictures decode, none is measured with."""
    last = example.prompt[-1] if example.prompt else Message("user", ())
    if last.role != "user":
        raise DropError("bad_message", f"the prompt ends with a message of the {last.role}")
    if not any(part.strip() for part in last.parts if part != IMAGE):
        raise DropError("empty_prompt", "its last message has no text")
    num_placeholders = sum(part == IMAGE for message in example.prompt for part in message.parts)
    if num_placeholders != len(example.images):
        raise DropError("placeholder_mismatch",
                        f"{num_placeholders} placeholders, {len(example.images)} images")
    if any(IMAGE in (reply or "") for reply in (example.chosen, example.rejected)):
        raise DropError("placeholder_mismatch", f"a reply holds {IMAGE}")
    for data in example.images:
        decode(data, job.max_pixels)
    if known := job.held_out.intersection(image_ids(example)):
        raise DropError("held_out_image", ", ".join(sorted(known)))


def image_ids(example: Example) -> list[str]:
    """The pictures' ids: sha256 of their bytes, as in the collection."""
    return [hashlib.sha256(data).hexdigest() for data in example.images]


def _train_row(job: MixJob, example: Example, reply: str, word: str) -> TrainRow:
    row = TrainRow(**_origin(job, example, word), prompt=_prompt(example, word),
                   completion=_said(reply), weight=1.0)
    words = {job.words.good, job.words.bad} - {""} if word else set()
    check_train_row(row, reward_words=words)
    return row


def _pair_row(job: MixJob, example: Example) -> PairRow:
    if example.chosen is None or example.rejected is None:
        raise DropError("no_pair", "objective dpo learns from a chosen and a rejected reply")
    row = PairRow(**_origin(job, example, ""), prompt=_prompt(example, ""),
                  chosen=_said(example.chosen), rejected=_said(example.rejected))
    check_pair_row(row)
    return row


def _origin(job: MixJob, example: Example, word: str) -> dict[str, Any]:
    """The columns that both kinds of row share. No model wrote them: its digest is empty."""
    return {"row_id": row_id(ROLE, source=example.source, word=word), "round": job.round,
            "stage": job.stage, "model_digest": "", "prompt_version": "", "seed": job.seed,
            "images": [Picture(bytes=data) for data in example.images], "role": word or ROLE,
            "source_row_id": example.source, "image_ids": image_ids(example)}


def _prompt(example: Example, word: str) -> list[ChatMessage]:
    try:
        return chat(with_reward_word(example.prompt, word))
    except ValueError as error:
        raise DropError("empty_prompt", str(error)) from error


def _said(reply: str) -> list[ChatMessage]:
    return chat((Message("assistant", (reply,)),))


def _records(job: MixJob, files: Sequence[str]) -> Iterator[Example | BadRecord]:
    return read_examples(files, job.mix.images_uri)


def _made(
    job: MixJob, records: Iterator[Example | BadRecord]
) -> Iterator[tuple[list[_Row], list[QuarantineRow]]]:
    for record in records:
        try:
            if isinstance(record, BadRecord):
                raise record.error
            yield [*make_rows(job, record)], []
        except DropError as error:
            yield [], [_quarantined(record, error)]


def _quarantined(record: Example | BadRecord, error: DropError) -> QuarantineRow:
    if isinstance(record, BadRecord):
        return record.row
    payload = json.dumps({"prompt": [[m.role, *m.parts] for m in record.prompt],
                          "chosen": record.chosen, "rejected": record.rejected})
    return QuarantineRow(row_id=row_id(ROLE, source=record.source), kind=ROLE, reason=error.reason,
                         detail=error.detail, source=record.source, payload=payload)


def _shard(job: MixJob, index: int, batch: Batch[_Row, QuarantineRow], inputs: str) -> Shard:
    """The finished shard if there is one; else write it."""
    finished = read_receipt(job.store, job.prefix, index, inputs)
    if finished is not None:
        return finished
    drops = Counter(f"{_DROPPED}{row.reason}" for row in batch.dropped)
    num_kept = len({row.source_row_id for row in batch.kept})
    stats = {"kept": float(num_kept), **{name: float(num) for name, num in drops.items()}}
    return write_shard(job.store, job.prefix, index, batch.kept, job.row_type, batch.dropped,
                       stats, inputs)
