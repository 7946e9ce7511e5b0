"""Judging a reply by the rubric of its question's kind: one call, one of a few labels.

After the judge of MACAROON's benchmark (methods/contrastive_macaroon.md, section 2), without its
faults: temperature 0, structured output, the middle label offered wherever the rubric has one, and
a label of its own for a judge that cannot be read.
"""

from typing import NamedTuple

from model_ops.criteria import Criterion
from model_ops.programs.calls import Generate, Reply, Sampling
from model_ops.programs.contrastive_messages import judge_messages, label_texts
from model_ops.programs.replies import normalise
from model_ops.prompts import Prompts
from schemas.questions import Label
from schemas.rows import ImageRef

MAX_LABEL_TOKENS = 16


class Verdict(NamedTuple):
    """A label, and the probability that the judge gave to "as desired" (in [0, 1])."""

    label: Label
    probability: float


def judge_call(
    prompts: Prompts,
    criterion: Criterion,
    question: str,
    reply: str,
    image: ImageRef,
    seat: str = "",
) -> Generate:
    """The call that asks whoever sits in *seat* to judge *reply*; no reward word, temperature 0."""
    choices = tuple(label_texts(prompts, criterion).values())
    sampling = Sampling(max_tokens=MAX_LABEL_TOKENS, choices=choices)
    messages = judge_messages(prompts, criterion, question, reply)
    return Generate(messages, (image,), sampling, seat=seat, reward="")


def read_verdict(reply: Reply, criterion: Criterion, prompts: Prompts) -> Verdict:
    """The label that *reply* names; `ParseError` (with probability 0) if it names none.

    The probability is the engine's of the label True; 1 or 0 by the text where it gives none.
    """
    labels = {normalise(text): label for label, text in label_texts(prompts, criterion).items()}
    label = labels.get(normalise(reply.text), "ParseError")
    probs = reply.samples[0].choice_probs
    if label == "ParseError" or probs is None:
        return Verdict(label, float(label == "True"))
    return Verdict(label, probs[0])
