"""Small programs, answers and collections that the engine tests play with."""

import os
import random
import time
from pathlib import Path

from pydantic import BaseModel

from model_ops.engines.driver import call_seed
from model_ops.images import import_images
from model_ops.programs.calls import IMAGE, Call, Generate, Message, Program, Sampling
from model_ops.programs.context import JobContext
from model_ops.programs.registry import ProgramKind
from schemas.artifacts import publish, read_shard, write_shard
from schemas.config import ImagesConfig
from schemas.errors import ConfigError, DropError, EngineError
from schemas.manifest import Manifest
from schemas.rows import ImageRef, ImageRow, ItemRow, QuestionRow
from schemas.store import Store

HERE = "tests.model_ops.engines.plays"
REF = ImageRef(image_id="i0", shard=0, row=0)


class Settings(BaseModel):
    """How many calls a program makes, and whether some of them come to grief."""

    calls: int = 3
    trouble: bool = False
    misconfigured: bool = False


def ask(text: str, sampling: Sampling | None = None, seat: str = "",
        image: ImageRef | None = REF, prefix: str = "") -> Generate:
    """One user message with one image (or none)."""
    parts = (IMAGE, text) if image else (text,)
    return Generate((Message("user", parts),), (image,) if image else (),
                    sampling or Sampling(), prefix, seat)


def converse(item: QuestionRow, context: JobContext[Settings]) -> Program[ItemRow]:
    """Ask as often as the settings say; with `trouble`, every tenth item cannot be played."""
    number = int(item.row_id[1:])
    if context.settings.misconfigured:
        raise ConfigError("no such prompt: add it")
    if context.settings.trouble and number % 10 == 3:
        raise DropError("unlucky", f"item {number}")
    if context.settings.trouble and number % 10 == 7:
        raise ZeroDivisionError("a bug in the program")
    said = []
    for turn in range(context.settings.calls):
        sampling = Sampling(temperature=0.7, max_tokens=4) if turn % 2 else Sampling(
            choices=("yes", "no"))
        said.append((yield ask(item.question, sampling, image=item.image)).text)
    return ItemRow(row_id=item.row_id, benchmark="test", kind=item.kind,
                   image_ids=[item.image.image_id], prompt=item.question, expected="yes",
                   reply=" ".join(said), score=1.0, model_digest=context.model_digest,
                   prompt_version="1", seed=context.seed, num_calls=len(said),
                   num_prompt_tokens=0, num_output_tokens=0)


KIND = ProgramKind(converse, QuestionRow, ItemRow, Settings)


def answer(call: Call, seed: int) -> str:
    """A text that only the call and its seed decide."""
    assert isinstance(call, Generate)
    choices = call.sampling.choices
    return random.Random(seed).choice(choices or ("red", "blue", "green"))


def answer_maybe(call: Call, seed: int) -> str:
    """Another model: it never commits itself."""
    return "maybe"


def answer_slowly(call: Call, seed: int) -> str:
    """Leaves time to kill the actor; counts its calls in the file that PLAYS_LOG names."""
    time.sleep(0.004)
    with Path(os.environ["PLAYS_LOG"]).open("a") as log:
        log.write(f"{os.getpid()}\n")
    return answer(call, seed)


def answer_together(call: Call, seed: int) -> str:
    """Whether another process is asked as well, yes or no; waits for it."""
    folder, patience = Path(os.environ["PLAYS_LOG"]).parent, time.monotonic() + 20
    (folder / f"asked-{os.getpid()}").touch()
    while len(list(folder.glob("asked-*"))) < 2:
        if time.monotonic() > patience:
            return "no"
        time.sleep(0.05)
    return "yes"


def die(call: Call, seed: int) -> str:
    """An engine that dies of every call."""
    raise EngineError("out of memory")


def die_of_the_first(call: Call, seed: int) -> str:
    """An engine that dies of program `q0`, which it knows by its first call's seed (of run 5)."""
    if seed == call_seed(5, "q0", 0):
        raise RuntimeError("illegal memory access")
    return answer(call, seed)


def collection(store: Store, num_images: int = 8) -> Manifest:
    """A few nursery images."""
    return import_images(store, ImagesConfig(uri="nursery://field", limit=num_images))


def refs_of(store: Store, images: Manifest) -> list[ImageRef]:
    """References to all images."""
    return [ImageRef(image_id=row.image_id, shard=shard.index, row=number)
            for shard in images.shards
            for number, row in enumerate(read_shard(store, images, shard.index, ImageRow))]


def questions(store: Store, images: Manifest, num_items: int, shard_size: int,
              prefix: str = "items") -> Manifest:
    """A published artifact of *num_items* questions."""
    refs = refs_of(store, images)
    rows = [QuestionRow(row_id=f"q{n}", image=refs[n % len(refs)], kind="yesno", seed=0,
                        question="is there a red circle ?", answers=["yes"], domain="field")
            for n in range(num_items)]
    shards = [write_shard(store, prefix, start // shard_size, rows[start:start + shard_size],
                          QuestionRow, inputs_digest="q")
              for start in range(0, num_items, shard_size)]
    return publish(store, Manifest(kind="questions", prefix=prefix, inputs_digest="q",
                                   shards=shards))
