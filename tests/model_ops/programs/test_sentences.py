"""Sentence ends that are none, and what is wrong with a sentence."""

import pytest

from model_ops.programs.sentences import (
    drop_reason,
    had_ended,
    is_unfinished,
    says_something,
)


@pytest.mark.parametrize("text", [
    "It is about 3.", "3.", "Dr.", "Next to Mr.", "(e.", "by the U.", "the U.S.", "at 10 a.m.",
    "e.g.", "A photo of St.", "approx.", "by J.", "Nr. 12."])
def test_a_full_stop_after_a_digit_a_letter_or_an_abbreviation_ends_nothing(text: str) -> None:
    assert is_unfinished(text)


@pytest.mark.parametrize("text", [
    "A cat sits on a mat.", "a big red circle at the top left .", "It is 3 !", "Is it 3?",
    "That is the man's.", "It is the artist\u2019s.", "It is a forest.", "There is no dog.",
    "It says 3", "a circle at 3 .", "Three pm.", "..."])
def test_other_ends_are_ends(text: str) -> None:
    assert not is_unfinished(text)


@pytest.mark.parametrize(("text", "more", "ended"), [
    (" There are 3.", " A dog sits.", True), ("It is bus 12.", "\nA man waits.", True),
    ("3.", "5 metres.", False), ("It is 3.", "5 metres.", False), ("There are 3.", "", False),
    ("There are 3.", " \n", False), (" 1.", " A dog sits.", False),
    ("I see:\n2.", " A dog sits.", False), ("Dr.", " Who sits.", False),
    ("by J.", " Smith.", False)])
def test_what_follows_a_number_tells_whether_it_ended_a_sentence(
    text: str, more: str, ended: bool
) -> None:
    assert is_unfinished(text) and had_ended(text, more) == ended


@pytest.mark.parametrize(("text", "reason"), [
    ("A cat sits on a mat.", None), ("a big red circle at the top left .", None),
    ("Il \u00e9tait une fois, \u00e0 N\u00eemes.", None), ("A \u201csign\u201d in green.", None),
    ("The sky: \u4e00.", None), ("10000000 or 1000 balls.", None), ("No.", "too_short"),
    (" .", "too_short"), ("", "too_short"), ("\ud55c\uad6d.", "foreign_script"),
    ("A \u043a\u043e\u0442.", "foreign_script"), ("A \u30cd\u30b3.", "foreign_script"),
    ("Smile \U0001f600.", "foreign_script"), ("Star \u2605.", "foreign_script"),
    ("a &nbsp; b.", None), ("a &nbsp;&nbsp; b.", "repeated"), ("very " * 5 + "big.", None),
    ("very " * 6 + "big.", "repeated"), ("very, " * 6 + "big.", "repeated"),
    ("a" + "b" * 10 + ".", None), ("a" + "b" * 11 + ".", "repeated"),
    ("s " * 11, "repeated"), ("quo" + '"' * 9 + ".", None), ("quo" + '"' * 10 + ".", "repeated"),
    ("a" + ", " * 10 + "b.", None), ("a" + ", " * 13 + "b.", "repeated"),
    ("one\n\n\n\n\ntwo.", None), ("one\n\n \n\n\n\ntwo.", "repeated"),
    ("thing things thing things.", None), ("the " * 3 + "then " * 3, None)])
def test_what_the_clean_up_drops(text: str, reason: str | None) -> None:
    assert drop_reason(text) == reason


def test_a_long_sentence_is_looked_at_in_no_time() -> None:
    assert drop_reason("ab " * 20_000 + "cd") == "repeated"
    assert drop_reason(" ".join(f"word{number}" for number in range(20_000))) is None
    assert drop_reason(" \n" * 3 + "a" + " " * 50_000 + "b") is None


@pytest.mark.parametrize(("text", "says"), [
    ("", False), (' "', False), (" .\n", False), ("a", True), ("3", True), ("\u00e9", True)])
def test_only_letters_and_digits_say_something(text: str, says: bool) -> None:
    assert says_something(text) == says
