"""The form of a reply: does it ask back or refuse where its criterion wants that, and only there?

Pure functions of a text and a criterion, for the one who imagines replies and for the one who
filters them. Whether a reply is any good is the judge's question.
"""

import re
from collections.abc import Collection

from model_ops.criteria import Criterion
from schemas.questions import CLEAR

QUESTION_MARKS = frozenset("?？؟")  # noqa: RUF001  # of other scripts, on purpose
_APOSTROPHES = str.maketrans("’ʼ`´", "''''")  # noqa: RUF001  # what models write for one


def desired_problem(reply: str, criterion: Criterion) -> str | None:
    """What is wrong with the form of a reply that should be as desired; a reason code or None."""
    if criterion.asks is not None and asks(reply) != criterion.asks:
        return "desired_asks" if asks(reply) else "no_question"
    words = criterion.refusal_words
    if words is None:
        return None
    if criterion.question_type == CLEAR:
        return "desired_refuses" if says_any(reply, words) else None
    return None if says_any(reply, words) else "no_refusal"


def undesired_problem(reply: str, criterion: Criterion) -> str | None:
    """The same for a reply that should be undesired: of an odd question it asks nothing back, of a
    clear one it asks or refuses."""
    if criterion.question_type == CLEAR:
        needless = asks(reply) or says_any(reply, criterion.refusal_words or ())
        return None if needless else "rejected_answers"
    return "rejected_asks" if criterion.asks and asks(reply) else None


def asks(text: str) -> bool:
    """Whether there is a question mark in it."""
    return not QUESTION_MARKS.isdisjoint(text)


def says_any(text: str, words: Collection[str]) -> bool:
    """Whether one of the words or phrases is in the text, as whole words and in any case."""
    said = _plain(text)
    return any(re.search(rf"(?<!\w){re.escape(_plain(word))}(?!\w)", said) for word in words)


def _plain(text: str) -> str:
    return " ".join(text.translate(_APOSTROPHES).lower().split())
