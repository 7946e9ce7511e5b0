"""The Describer: sees one image, the question and the dialog so far; never a position, never the
other images [P: the figures show it with the target alone; the exact visibility rule is ours, D].
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from model_ops.programs.calls import Generate, Program, Reply, Sampling
from model_ops.programs.messages import answer_messages
from model_ops.programs.replies import normalise, parse_line
from model_ops.programs.steps import generate_all, parsed
from model_ops.prompts import Prompts
from schemas.config import DialogPlayConfig
from schemas.rows import ImageRef, Turn

SEAT = "describer"
MAX_ANSWER_TOKENS = 48


class Answer(NamedTuple):
    """What the Describer said, on one line, and its summed log-probability; if it was shown the
    image in other lights, the share of those that gave this answer, and what it said of the image
    as it is."""

    text: str
    logprob: float
    agreement: float | None = None
    as_it_is: str | None = None


def answer(
    image: ImageRef,
    question: str,
    turns: Sequence[Turn],
    prompts: Prompts,
    rules: DialogPlayConfig,
) -> Program[Answer]:
    """Ask the Describer one question about *image* after the dialog *turns*; with `rules.looks`
    in those lights too, and take what most of those give."""
    sampling = Sampling(rules.answer_temperature, rules.top_p, MAX_ANSWER_TOKENS)
    call = answer_call(image, question, turns, prompts, sampling)
    reply, text = yield from parsed(call, parse_line)
    first = Answer(text, reply.samples[0].logprob)
    others = yield from generate_all([replace(call, look=look) for look in rules.looks])
    return _agreed(first, others) if others else first


def _agreed(first: Answer, looked: Sequence[Reply]) -> Answer:
    """The answer that most lights give; among equals *first*, of the image as it is, else that of
    the light named first. *First* has no vote itself: the answer will be learnt for that image, and
    teaches most where the lights agree on something else. A look with no answer agrees with
    none."""
    lines = [(parse_line(reply.text), reply.samples[0].logprob) for reply in looked]
    said = [Answer(text, logprob) for text, logprob in lines if text]
    votes = Counter(normalise(answer.text) for answer in said)
    most = max([first, *said], key=lambda answer: votes[normalise(answer.text)])
    agreement = votes[normalise(most.text)] / len(looked)
    return most._replace(agreement=agreement, as_it_is=first.text)


def answer_call(
    image: ImageRef, question: str, turns: Sequence[Turn], prompts: Prompts, sampling: Sampling
) -> Generate:
    """The call that shows the Describer *image* and the question."""
    return Generate(answer_messages(prompts, question, turns), (image,), sampling, seat=SEAT)
