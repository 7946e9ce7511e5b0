"""The kinds of questions that the contrastive method knows (methods/contrastive_macaroon.md, 1).

The strings are those of the authors' `Question Type` field; `Clear` is ours: the control.
"""

from typing import Literal, get_args

OddType = Literal["False Premise", "Unanswerable Questions", "Subject Ambiguity",
                  "Subjective Interpretations", "Unclear User Background",
                  "Hidden Human Preferences"]
"""Questions that should not simply be answered."""
QuestionType = Literal["False Premise", "Unanswerable Questions", "Subject Ambiguity",
                       "Subjective Interpretations", "Unclear User Background",
                       "Hidden Human Preferences", "Clear"]
"""All kinds, `Clear` (a plain question that should be answered) included."""
Label = Literal["True", "Ambiguous", "False", "ParseError"]
"""A judge's verdict on a reply: as desired, in between, undesired, or the judge cannot be read."""

CLEAR = "Clear"
ODD_TYPES: tuple[str, ...] = get_args(OddType)
QUESTION_TYPES: tuple[str, ...] = get_args(QuestionType)
TIERS: dict[str, str] = {
    "False Premise": "invalid", "Unanswerable Questions": "invalid",
    "Subject Ambiguity": "ambiguous", "Subjective Interpretations": "ambiguous",
    "Unclear User Background": "ambiguous", "Hidden Human Preferences": "personalizable",
}
"""Tier of each odd type."""
HAS_MIDDLE = frozenset(kind for kind, tier in TIERS.items() if tier == "ambiguous")
"""Types for which a reply may be `Ambiguous`; the others are true or false."""


def slug(question_type: str) -> str:
    """The type in metric and file names: `False Premise` -> `false_premise`."""
    return question_type.lower().replace(" ", "_")


_TYPE_OF_SLUG = {slug(kind): kind for kind in QUESTION_TYPES}


def type_named(name: object) -> str | None:
    """The type that a file's entry names, in any case (`false premise`, `false_premise`)."""
    return _TYPE_OF_SLUG.get(slug(str(name).strip()))
