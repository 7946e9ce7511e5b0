"""CHAIR as a benchmark (Rohrbach et al. 2018): one greedy description of an image, searched for
objects that are not there.

A description scores 1 if it names none that is not there. One that says nothing does too, so recall
and the number of words stand beside it (`hallucination_summary`).
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from model_ops.benchmarks.objects import World, num_words, object_list
from model_ops.programs.calls import Generate, Program, Sampling
from model_ops.programs.context import JobContext
from model_ops.programs.describing import description_messages
from model_ops.programs.steps import generate
from schemas.config import Config
from schemas.rows import CaptionItemRow, ItemRow

QUESTION = "calibrated.describe_1"
"""The prompt set's text that is asked where the item has none."""
KIND = "captions"
"""Kind of the planned artifact, and of its items."""


class ChairBenchmark(Config):
    """Settings of the program `chair`."""

    metric: str
    """Name of the main metric, such as `field/chair_clean`."""
    world: World
    """Whose objects are looked for."""
    objects: str
    """sha256 over what decides which objects a text names."""
    max_tokens: int
    """Longest description."""


class Mentions(NamedTuple):
    """What a description says of the objects that are there and of those that are not."""

    mentioned: list[str]
    """The class of every mention, in order."""
    hallucinated: list[str]
    """Those of them that are not there."""
    missed: list[str]
    """What is there and is not mentioned."""


def describe_item(item: CaptionItemRow, context: JobContext[ChairBenchmark]) -> Program[ItemRow]:
    """Let the model describe one image; the item keeps its id, so that evaluations pair."""
    question = item.question or context.prompts.text(QUESTION)
    call = Generate(description_messages(context.prompts, question), (item.image,),
                    Sampling(max_tokens=context.settings.max_tokens))
    reply = yield from generate(call)
    found = compare(object_list(context.settings.world).mentions(reply.text), item.objects)
    detail = {**found._asdict(), "words": num_words(reply.text),
              "finish_reason": reply.samples[0].finish_reason}
    return ItemRow(
        row_id=item.row_id,
        benchmark=context.settings.metric,
        kind=KIND,
        image_ids=[item.image.image_id],
        prompt=question,
        expected=", ".join(item.objects),
        reply=reply.text,
        score=float(not found.hallucinated),
        detail=json.dumps(detail),
        model_digest=context.model_digest,
        prompt_version=context.prompts.digest,
        seed=item.seed,
        num_calls=1,
        num_prompt_tokens=reply.num_prompt_tokens,
        num_output_tokens=reply.samples[0].num_tokens,
    )


def compare(mentioned: Sequence[str], objects: Sequence[str]) -> Mentions:
    """The *mentioned* classes (repeats count) against the *objects* that are there."""
    return Mentions(list(mentioned), [name for name in mentioned if name not in objects],
                    [name for name in objects if name not in mentioned])
