"""The form of replies: what asks, what refuses, and which of both a criterion wants where."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_ops.criteria import Criterion, load_criteria
from model_ops.criteria.forms import (
    QUESTION_MARKS,
    asks,
    desired_problem,
    says_any,
    undesired_problem,
)
from schemas.questions import CLEAR, ODD_TYPES, QUESTION_TYPES
from tests.model_ops.contrastive_world import CRITERIA, DESIRED, UNDESIRED

ASKING = ("Subject Ambiguity", "Subjective Interpretations", "Unclear User Background",
          "Hidden Human Preferences")
REFUSING = ("False Premise", "Unanswerable Questions")
PLAIN = "It is a red car."


def criterion(kind: str, **changes: Any) -> Criterion:
    return CRITERIA.of(kind).model_copy(update=changes)


@pytest.mark.parametrize("kind", QUESTION_TYPES)
def test_replies_as_they_should_be_have_no_problem_and_each_is_one_in_the_others_place(
    kind: str
) -> None:
    told = criterion(kind)
    assert desired_problem(DESIRED[kind], told) is undesired_problem(UNDESIRED[kind], told) is None
    assert desired_problem(UNDESIRED[kind], told) is not None
    assert (undesired_problem(DESIRED[kind], told) is None) == (kind in REFUSING), (
        "only a judge can tell a refusal to an odd question from an answer")


def test_every_kind_is_in_one_of_the_cases() -> None:
    assert {*ASKING, *REFUSING} == set(ODD_TYPES) == set(QUESTION_TYPES) - {CLEAR}


@pytest.mark.parametrize("kind", ASKING)
def test_where_the_kind_asks_back_the_desired_reply_does_and_the_undesired_does_not(
    kind: str
) -> None:
    assert desired_problem(PLAIN, criterion(kind)) == "no_question"
    assert desired_problem("", criterion(kind)) == "no_question"
    assert desired_problem("I cannot tell.", criterion(kind)) == "no_question"
    assert desired_problem("Which one?", criterion(kind)) is None
    assert undesired_problem("It is red, is it not?", criterion(kind)) == "rejected_asks"
    assert undesired_problem("I cannot tell.", criterion(kind)) is None


@pytest.mark.parametrize("kind", REFUSING)
def test_where_the_kind_refuses_the_desired_reply_has_to_say_so(kind: str) -> None:
    assert desired_problem(PLAIN, criterion(kind)) == "no_refusal"
    assert desired_problem("Which one?", criterion(kind)) == "no_refusal"
    assert desired_problem("That CANNOT be told.", criterion(kind)) is None
    assert desired_problem("That cannot be told. Why?", criterion(kind)) is None, "may ask, too"
    assert undesired_problem("I cannot tell. Why?", criterion(kind)) is None


def test_a_clear_question_is_the_other_way_round() -> None:
    clear = criterion(CLEAR)
    assert desired_problem(PLAIN, clear) is None
    assert desired_problem("Which one?", clear) == "desired_asks"
    assert desired_problem("I can’t tell.", clear) == "desired_refuses"  # noqa: RUF001
    assert desired_problem("I cannot tell. Which one?", clear) == "desired_asks"
    assert undesired_problem(PLAIN, clear) == "rejected_answers"
    assert undesired_problem("", clear) == "rejected_answers"
    assert undesired_problem("Which one?", clear) is None
    assert undesired_problem("I cannot tell.", clear) is None


def test_what_a_criterion_does_not_say_is_not_checked() -> None:
    free = criterion("Subject Ambiguity", asks=None)
    assert desired_problem(PLAIN, free) is undesired_problem("Which one?", free) is None
    wordless = criterion("False Premise", refusal_words=None)
    assert desired_problem(PLAIN, wordless) is None
    clear = criterion(CLEAR, refusal_words=None)
    assert desired_problem("I cannot tell.", clear) is None
    assert undesired_problem("I cannot tell.", clear) == "rejected_answers"
    assert undesired_problem("Which one?", clear) is None
    assert desired_problem("Which one?", criterion(CLEAR, asks=None)) is None


def test_a_question_where_none_is_wanted_is_the_first_problem() -> None:
    told = load_criteria("nursery").of("False Premise")
    assert told.asks is False
    assert desired_problem("there is no star ?", told) == "desired_asks"
    assert desired_problem("there is no star", told) is None
    assert desired_problem("the star is red", told) == "no_refusal"
    assert undesired_problem("is it red ?", told) is None


def test_words_are_found_whole_in_any_case_and_with_any_apostrophe() -> None:
    assert says_any("I Can’t  TELL.", ["can't tell"])  # noqa: RUF001
    assert says_any("I can't tell.", ["can’t tell"])  # noqa: RUF001
    assert says_any("No.", ["no"]) and says_any("It is no\n way", ["no way"])
    assert not says_any("She knows a knot.", ["no", "not", "now"])
    assert not says_any("anything", []) and says_any("a (b) c", ["(b)"])


def test_question_marks_of_other_scripts_ask() -> None:
    assert asks("¿Qué?") and asks("哪一个？") and asks("ماذا؟")  # noqa: RUF001
    assert not asks("It is.") and not asks("")


@pytest.mark.slow
@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(sorted(QUESTION_MARKS)),
       st.sampled_from(QUESTION_TYPES))
def test_a_question_mark_anywhere_asks(before: str, after: str, mark: str, kind: str) -> None:
    reply, told = f"{before}{mark}{after}", CRITERIA.of(kind)
    assert asks(reply)
    assert (undesired_problem(reply, told) == "rejected_asks") == (kind in ASKING)
    assert (desired_problem(reply, told) == "desired_asks") == (kind == CLEAR)
