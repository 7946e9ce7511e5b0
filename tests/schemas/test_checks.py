"""Write-time checks: each bad row has its reason code, and good rows pass."""

from typing import Any

import pytest

from schemas.checks import (
    MAX_WORDS,
    check_pair_row,
    check_preference,
    check_train_row,
    conditioned_by,
)
from schemas.errors import DropError
from schemas.manifest import digest
from schemas.rows import ChatMessage, Part, Picture, row_id
from tests.schemas.rows_for_tests import message, pair_row, png, train_row

BAD: list[tuple[str, dict[str, Any]]] = [
    ("placeholder_mismatch", {"images": []}),
    ("placeholder_mismatch", {"prompt": [message("user", "no picture")]}),
    ("undecodable_image", {"images": [Picture(bytes=png()[:40])]}),
    ("undecodable_image", {"images": [Picture(bytes=b"")]}),
    ("empty_prompt", {"prompt": [], "images": []}),
    ("empty_completion", {"completion": []}),
    ("empty_completion", {"completion": [message("assistant", "  \n")]}),
    ("bad_message", {"completion": [message("user", "yes")]}),
    ("bad_message", {"completion": [message("robot", "yes")]}),
    ("bad_message", {"prompt": [ChatMessage(role="user", content=[Part(type="image", text="x")])]}),
    ("bad_message", {"prompt": [ChatMessage(role="user", content=[Part(type="text")])]}),
    ("bad_message", {"prompt": [ChatMessage(role="user", content=[Part(type="video", text="")])]}),
    ("bad_weight", {"weight": float("nan")}),
    ("bad_weight", {"weight": -1.0}),
    ("too_long", {"completion": [message("assistant", "so " * 40_000)]}),
]


@pytest.mark.parametrize(("reason", "changes"), BAD)
def test_each_defect_has_its_reason(reason: str, changes: dict[str, Any]) -> None:
    with pytest.raises(DropError) as caught:
        check_train_row(train_row(**changes))
    assert caught.value.reason == reason


def test_a_good_row_passes() -> None:
    check_train_row(train_row())
    check_train_row(train_row(), reward_words=("good", "bad"))


def test_a_completion_that_starts_with_the_reward_word_leaks_it() -> None:
    for text in ("Good yes", "bad", '"good", a cat'):
        with pytest.raises(DropError, match="reward_word_leak"):
            check_train_row(train_row(completion=[message("assistant", text)]),
                            reward_words=("good", "bad"))
    check_train_row(train_row(completion=[message("assistant", "a good cat")]),
                    reward_words=("good", "bad"))


def test_the_budget_counts_the_words_of_prompt_and_completion() -> None:
    asked = len(["is", "it", "red", "?"])
    fits = train_row(completion=[message("assistant", "so " * (MAX_WORDS - asked))])
    check_train_row(fits)
    with pytest.raises(DropError, match="too_long"):
        check_train_row(train_row(completion=[message("assistant",
                                                      "so " * (MAX_WORDS - asked + 1))]))


def test_a_preference_needs_two_answers() -> None:
    check_preference([message("assistant", "yes")], [message("assistant", "no")])
    with pytest.raises(DropError, match="chosen_equals_rejected"):
        check_preference([message("assistant", "Yes  it is")], [message("assistant", "yes it is")])


BAD_PAIRS: list[tuple[str, dict[str, Any]]] = [
    ("placeholder_mismatch", {"images": []}),
    ("placeholder_mismatch", {"rejected": [message("assistant", "<image>", "no")]}),
    ("undecodable_image", {"images": [Picture(bytes=b"no picture")]}),
    ("chosen_equals_rejected", {"rejected": [message("assistant", "YES")]}),
    ("empty_prompt", {"prompt": [], "images": []}),
    ("empty_completion", {"chosen": []}),
    ("empty_completion", {"rejected": [message("assistant", " ")]}),
    ("bad_message", {"rejected": [message("user", "no")]}),
    ("reward_word_leak", {"chosen": [message("assistant", "Good, yes")]}),
    ("reward_word_leak", {"rejected": [message("assistant", "bad")]}),
    ("too_long", {"rejected": [message("assistant", "so " * 40_000)]}),
]


@pytest.mark.parametrize(("reason", "changes"), BAD_PAIRS)
def test_each_defect_of_a_pair_has_its_reason(reason: str, changes: dict[str, Any]) -> None:
    check_pair_row(pair_row(), reward_words=("good", "bad"))
    with pytest.raises(DropError) as caught:
        check_pair_row(pair_row(**changes), reward_words=("good", "bad"))
    assert caught.value.reason == reason


@pytest.mark.parametrize(("prompt", "role", "expected"), [
    ("good is it red ?", "good", ("good",)), ("is it good ?", "good", ()),
    ("good is it red ?", "bad", ()), ("goods here ?", "good", ()), ("is it red ?", "answer", ()),
])
def test_a_row_is_conditioned_by_the_word_that_its_question_starts_with(
    prompt: str, role: str, expected: tuple[str, ...]
) -> None:
    row = train_row(role=role, prompt=[message("system", "good you"),
                                       message("user", "<image>", prompt)])
    assert conditioned_by(row) == expected
    assert conditioned_by(train_row(prompt=[], images=[])) == ()


def test_row_ids_come_from_inputs_only_and_in_any_order() -> None:
    first = row_id("games", images=["a", "b"], seed=1)
    assert first == row_id("games", seed=1, images=["a", "b"]) and len(first) == 32
    assert len({first, row_id("games", images=["b", "a"], seed=1), row_id("x", seed=1)}) == 3


def test_a_digest_of_a_model_is_that_of_its_json() -> None:
    row = train_row(images=[])
    assert digest(row) == digest(row.model_dump(mode="json"))
