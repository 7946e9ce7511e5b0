"""A small train artifact of nursery pictures, the nursery's model, and a session without Ray."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree

import pytest

from model_ops.models import publish_base
from model_ops.nursery.grammar import caption, sample_questions
from model_ops.nursery.world import render, sample_scene, to_png
from model_ops.training.job import Session, Step, TrainJob
from schemas.artifacts import publish, write_shard
from schemas.config import ModelConfig, SftConfig
from schemas.manifest import Manifest
from schemas.rows import ChatMessage, Part, Picture, TrainRow, row_id
from schemas.store import Store

NURSERY = ModelConfig(uri="nursery://vlm", dtype="float32")
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


def publish_rows(store: Store, first: int, num: int, prefix: str = TRAIN) -> Manifest:
    """`num` rows in two shards."""
    rows = [train_row(number) for number in range(first, first + num)]
    halves = [rows[:num // 2], rows[num // 2:]]
    shards = [write_shard(store, prefix, index, half, TrainRow)
              for index, half in enumerate(halves)]
    return publish(store, Manifest(kind="train", prefix=prefix, shards=shards,
                                   inputs_digest=f"{first}+{num}"))


@pytest.fixture
def make_job(local_store: Store) -> Callable[..., TrainJob]:
    """A job on 24 rows: four steps of six, full weights, one thread; keywords change it."""
    base = publish_base(local_store, NURSERY)
    rows = publish_rows(local_store, 0, 24)

    def make(seed: int = 0, **changes: object) -> TrainJob:
        settings = {"adapter": "full", "batch_size": 6, "learning_rate": 1e-3, "save_steps": 2}
        config = SftConfig.model_validate(settings | changes)
        return TrainJob(local_store, (rows,), base, config, NURSERY, MODEL, seed)

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
