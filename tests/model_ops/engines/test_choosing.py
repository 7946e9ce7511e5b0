"""Choosing between token sequences: one token where one is enough, exact where more are needed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_ops.engines.choosing import Choosing

END = 0


def test_yes_or_no_is_decided_by_one_token() -> None:
    choosing = Choosing([(7, END), (9, END)])
    assert (choosing.forced, choosing.deciding) == ((), [7, 9])
    choosing.decide(9, {7: math.log(0.1), 9: math.log(0.3)})
    assert choosing.chosen == 1
    assert choosing.probs == pytest.approx([0.25, 0.75])


def test_what_all_choices_start_with_is_forced() -> None:
    choosing = Choosing([(4, 1, END), (4, 2, END), (4, 3, END)])
    assert (choosing.forced, choosing.deciding) == ((4,), [1, 2, 3])


def test_a_choice_that_starts_another_is_decided_by_the_end_token() -> None:
    choosing = Choosing([(1, END), (1, 5, END)])
    assert (choosing.forced, choosing.deciding) == ((1,), [END, 5])
    choosing.decide(END, {END: 0.0, 5: -1.0})
    assert choosing.chosen == 0


def test_choices_that_share_a_token_are_asked_further_on() -> None:
    choosing = Choosing([(1, 2, END), (1, 3, END), (4, END)])
    choosing.decide(1, {1: math.log(0.8), 4: math.log(0.2)})
    assert choosing.chosen is None
    assert (choosing.forced, choosing.deciding) == ((1,), [2, 3])
    choosing.decide(3, {2: math.log(0.5), 3: math.log(0.5)})
    assert choosing.chosen == 1
    assert choosing.probs == pytest.approx([0.4, 0.4, 0.2])


def test_a_single_choice_needs_no_model() -> None:
    assert Choosing([(1, END)]).chosen == 0


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple), min_size=1,
                max_size=8, unique=True), st.randoms())
@pytest.mark.slow
def test_any_choices_end_in_one_of_them_with_probabilities_that_sum_to_one(words, random) -> None:
    choosing = Choosing([(*word, END) for word in words])
    for _ in range(6):
        if choosing.chosen is not None:
            break
        logprobs = {token: -random.random() for token in choosing.deciding}
        choosing.decide(random.choice(choosing.deciding), logprobs)
    assert choosing.chosen is not None
    assert sum(choosing.probs) == pytest.approx(1.0)
    assert choosing.sequences[choosing.chosen][:choosing.depth] == choosing.forced
