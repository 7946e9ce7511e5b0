"""Small train artifacts of nursery pictures, the nursery's model, and a session without Ray."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree

import pytest

from model_ops.curation.train_rows import chat
from model_ops.models import publish_base
from model_ops.nursery.grammar import caption, sample_questions
from model_ops.nursery.world import render, sample_scene, to_png
from model_ops.programs.calls import IMAGE, Message
from model_ops.programs.reward import with_reward_word
from model_ops.training.job import ObjectiveConfig, Session, Step, TrainJob
from schemas.artifacts import publish, write_shard
from schemas.config import CrlConfig, DpoConfig, ModelConfig, SftConfig
from schemas.manifest import Manifest
from schemas.rows import ChatMessage, PairRow, Part, Picture, Row, TrainRow, row_id
from schemas.store import Store

NURSERY = ModelConfig(uri="nursery://vlm", dtype="float32")
OBJECTIVES: dict[str, type[ObjectiveConfig]] = {"sft": SftConfig, "crl": CrlConfig,
                                                "dpo": DpoConfig}
WORDS = ("good", "bad")
TRAIN = "rounds/round=0001/00-dialog/train"
MODEL = "rounds/round=0001/00-dialog/model"


def train_row(number: int) -> TrainRow:
    """Odd rows answer with a word, even ones describe; weights 1 and 0.5."""
    scene = sample_scene(number, "field")
    question = sample_questions(scene, random.Random(number), 1)[0]
    asked, said = (question.text, question.answer) if number % 2 else ("describe the image .",
                                                                      caption(scene))
    return TrainRow(
        row_id=row_id("train", number=number), round=1, stage="dialog", model_digest="m",
        prompt_version="p", seed=0,
        prompt=[ChatMessage(role="user", content=[Part(type="image"),
                                                  Part(type="text", text=asked)])],
        completion=[ChatMessage(role="assistant", content=[Part(type="text", text=said)])],
        images=[Picture(bytes=to_png(render(scene)))], weight=1.0 if number % 2 else 0.5,
        role="answer", source_row_id="t", image_ids=["i"])


def question(number: int) -> tuple[Message, ...]:
    """The prompt of pair *number*, as a program builds it."""
    text = sample_questions(sample_scene(number, "field"), random.Random(number), 1)[0].text
    return (Message("user", (IMAGE, text)),)


def pair_row(number: int) -> PairRow:
    """Chosen is a question back (of two lengths), rejected the plain answer (of a third)."""
    scene = sample_scene(number, "field")
    answer = sample_questions(scene, random.Random(number), 1)[0].answer
    replies = {"chosen": "which red thing ?" if number % 2 else "which thing ?",
               "rejected": answer}
    return PairRow(
        row_id=row_id("pair", number=number), round=1, stage="00-contrastive", model_digest="m",
        prompt_version="p", seed=0, prompt=chat(question(number)),
        images=[Picture(bytes=to_png(render(scene)))], role="Subject Ambiguity",
        source_row_id="i", image_ids=["i"],
        **{name: chat((Message("assistant", (text,)),)) for name, text in replies.items()})


def reward_rows(number: int) -> list[TrainRow]:
    """The two rows that a pair gives for `crl`: good, then bad."""
    pair = pair_row(number)
    shared = pair.model_dump(exclude={"prompt", "chosen", "rejected", "role", "row_id",
                                      "chosen_reward", "rejected_reward", "num_candidates",
                                      "margin", "chosen_words", "rejected_words"})
    return [TrainRow.model_validate({
        **shared, "row_id": row_id("train", pair=pair.row_id, word=word), "weight": 1.0,
        "prompt": chat(with_reward_word(question(number), word)), "completion": reply,
        "role": word}) for word, reply in zip(WORDS, (pair.chosen, pair.rejected), strict=True)]


def publish_rows(store: Store, first: int, num: int, prefix: str = TRAIN,
                 objective: str = "sft") -> Manifest:
    """`num` rows in two shards."""
    numbers = range(first, first + num)
    rows: Sequence[Row] = [train_row(number) for number in numbers]
    if objective == "crl":
        rows = [row for number in numbers[:num // 2] for row in reward_rows(number)]
    if objective == "dpo":
        rows = [pair_row(number) for number in numbers]
    halves = [rows[:num // 2], rows[num // 2:]]
    shards = [write_shard(store, prefix, index, half, type(rows[0]))
              for index, half in enumerate(halves)]
    return publish(store, Manifest(kind="train", prefix=prefix, shards=shards,
                                   inputs_digest=f"{objective} {first}+{num}"))


@pytest.fixture(scope="session")
def one_thread() -> None:
    """The same sums in the same order, and the fastest for so small a model."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def make_job(local_store: Store) -> Callable[..., TrainJob]:
    """A job on 24 rows: four steps of six, full weights, one thread; keywords change it."""
    base = publish_base(local_store, NURSERY)

    def make(seed: int = 0, objective: str = "sft", reward_word: str = "",
             **changes: object) -> TrainJob:
        settings = {"adapter": "full", "batch_size": 6, "learning_rate": 1e-3, "save_steps": 2}
        config = OBJECTIVES[objective].model_validate(settings | changes)
        rows = publish_rows(local_store, 0, 24, f"{TRAIN}-{objective}", objective)
        return TrainJob(local_store, (rows,), base, config, NURSERY, MODEL, seed, reward_word)

    return make


class LocalSession(Session):
    """A session in this process. Stops after `die_at` steps with KeyboardInterrupt."""

    def __init__(self, scratch: Path, start: Path | None = None, die_at: int | None = None) -> None:
        self.rank, self.scratch = 0, scratch
        self.saved: dict[int, Path] = {}
        self.steps: list[Step] = []
        self._start, self._die_at = start, die_at

    @contextmanager
    def checkpoint(self) -> Iterator[str | None]:
        yield str(self._start) if self._start else None

    def save(self, folder: Path, step: int) -> None:
        kept = self.scratch / f"kept-{step}"
        copytree(folder, kept)
        self.saved[step] = kept
        if step == self._die_at:
            raise KeyboardInterrupt

    def log(self, steps: Sequence[Step], last: bool) -> None:
        self.steps = list(steps)
