"""Stands in for `model_ops.nursery.odd`: its two functions, with rules simple enough to foresee."""

import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from model_ops.nursery.grammar import sample_questions


def write_question(question_type: str, scene: Any, rng: random.Random) -> str | None:
    """A text of the kind; clear ones are the grammar's; few scenes are fit for ambiguity."""
    if question_type == "Clear":
        found = sample_questions(scene, rng, 1)
        return found[0].text if found else None
    if question_type == "Subject Ambiguity" and len(scene.things) < 4:
        return None
    return f"{question_type.lower()} {rng.randrange(1000)} ?"


def judge(question_type: str, question: str, reply: str, scene: Any) -> str:
    """`good` is as desired, `well` in between; a clear question wants an answer without a `?`."""
    assert scene.things
    if question_type == "Clear":
        return str("?" not in reply)
    return {"good": "True", "well": "Ambiguous"}.get(reply, "False")


@pytest.fixture
def odd() -> Iterator[None]:
    """This module in place of the nursery's."""
    with pytest.MonkeyPatch.context() as patch:
        import model_ops.nursery

        here = sys.modules[__name__]
        patch.setitem(sys.modules, "model_ops.nursery.odd", here)
        patch.setattr(model_ops.nursery, "odd", here, raising=False)
        yield
