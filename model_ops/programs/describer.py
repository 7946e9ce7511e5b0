"""The Describer: sees one image, the question and the dialog so far; never a position, never the
other images [P: the figures show it with the target alone; the exact visibility rule is ours, D].
"""

from collections.abc import Sequence
from typing import NamedTuple

from model_ops.programs.calls import Generate, Program, Sampling
from model_ops.programs.messages import answer_messages
from model_ops.programs.replies import parse_line
from model_ops.programs.steps import parsed
from model_ops.prompts import Prompts
from schemas.config import DialogPlayConfig
from schemas.rows import ImageRef, Turn

SEAT = "describer"
MAX_ANSWER_TOKENS = 48


class Answer(NamedTuple):
    """What the Describer said, on one line, and its summed log-probability."""

    text: str
    logprob: float


def answer(
    image: ImageRef,
    question: str,
    turns: Sequence[Turn],
    prompts: Prompts,
    rules: DialogPlayConfig,
) -> Program[Answer]:
    """Ask the Describer one question about *image* after the dialog *turns*."""
    sampling = Sampling(rules.answer_temperature, rules.top_p, MAX_ANSWER_TOKENS)
    call = answer_call(image, question, turns, prompts, sampling)
    reply, text = yield from parsed(call, parse_line)
    return Answer(text, reply.samples[0].logprob)


def answer_call(
    image: ImageRef, question: str, turns: Sequence[Turn], prompts: Prompts, sampling: Sampling
) -> Generate:
    """The call that shows the Describer *image* and the question."""
    return Generate(answer_messages(prompts, question, turns), (image,), sampling, seat=SEAT)
