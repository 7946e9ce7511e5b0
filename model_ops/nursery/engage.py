"""What the tiny VLM is taught for the contrastive method: to follow a criterion, and little else.

One idea: it must be a *base*. Asked an odd question it simply answers, as real models do; told by
a criterion how to reply it mostly does; it can write, check and judge such questions as well as it
can see. The words are those of the prompt and criteria sets `nursery`, read from their files.
"""

import random
from functools import cache

from model_ops.criteria import Criterion, load_criteria
from model_ops.nursery.exchange import Exchange
from model_ops.nursery.odd import (
    NEEDLESS,
    desired_reply,
    judge,
    middle_reply,
    undesired_reply,
    write_question,
)
from model_ops.nursery.world import Scene
from model_ops.prompts import load_prompts
from schemas.questions import CLEAR, ODD_TYPES, QUESTION_TYPES

DISOBEDIENCE = 0.1
"""Share of lessons in which a criterion is not followed: real models do not always either."""
_NEAR = ("False Premise", "Subject Ambiguity", CLEAR)
"""Kinds whose questions have the same words: only the picture tells them apart."""


def passive(scene: Scene, rng: random.Random) -> Exchange:
    """Simply answer an odd question."""
    kind, question = _question(scene, rng, ODD_TYPES)
    return Exchange(_text("question", question=question),
                    undesired_reply(kind, question, scene, rng))


def follow(scene: Scene, rng: random.Random) -> Exchange:
    """Reply as a criterion says; now and then the other way."""
    kind, question = _question(scene, rng, QUESTION_TYPES)
    wants = rng.random() < 0.5
    follows = rng.random() >= DISOBEDIENCE
    reply = (desired_reply(kind, question, scene) if wants == follows
             else undesired_reply(kind, question, scene, rng))
    return Exchange(_told(kind, question, wants), reply)


def obey(scene: Scene, rng: random.Random) -> Exchange:
    """Reply as the desired criterion says, always: for measuring how far the base follows."""
    kind, question = _question(scene, rng, QUESTION_TYPES)
    return Exchange(_told(kind, question, wants=True), desired_reply(kind, question, scene))


def write(scene: Scene, rng: random.Random) -> Exchange:
    """Write a question of a kind."""
    kind, question = _question(scene, rng, QUESTION_TYPES)
    return Exchange(_text("write", definition=_criterion(kind).definition), question)


def check(scene: Scene, rng: random.Random) -> Exchange:
    """Say whether a question is of a kind; the wrong kind is mostly one of the same words."""
    kind, question = _question(scene, rng, QUESTION_TYPES)
    said = kind
    if rng.random() < 0.5:
        others = _NEAR if kind in _NEAR and rng.random() < 0.7 else QUESTION_TYPES
        said = rng.choice([other for other in others if other != kind])
    return Exchange(_text("check", definition=_criterion(said).definition, question=question),
                    "yes" if said == kind else "no")


def review(scene: Scene, rng: random.Random) -> Exchange:
    """Judge a reply to a question by the rubric of its kind."""
    kind, question = _question(scene, rng, QUESTION_TYPES)
    replies = [desired_reply(kind, question, scene)] * 2
    replies += [undesired_reply(kind, question, scene, rng), rng.choice(NEEDLESS)]
    middle = middle_reply(kind, question, scene, rng)
    reply = rng.choice([*replies, *([middle] if middle else [])])
    label = judge(kind, question, reply, scene)
    user = _text("judge", definition=_criterion(kind).definition, question=question, reply=reply)
    return Exchange(user, _text(f"label_{label.lower()}"))


def _told(kind: str, question: str, wants: bool) -> str:
    criterion = _criterion(kind)
    return _text("imagine", question=question,
                 criterion=criterion.desired if wants else criterion.undesired)


def _question(scene: Scene, rng: random.Random, kinds: tuple[str, ...]) -> tuple[str, str]:
    while True:
        kind = rng.choice(kinds)
        question = write_question(kind, scene, rng)
        if question is not None:
            return kind, question


@cache
def _criterion(kind: str) -> Criterion:
    return load_criteria("nursery").of(kind)


def _text(key: str, **fields: str) -> str:
    return load_prompts("nursery").text(f"contrastive.{key}", **fields)
