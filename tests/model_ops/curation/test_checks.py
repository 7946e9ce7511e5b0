"""Each filter: what it drops, what it lets pass, and how it is switched off."""

from typing import Any

import pytest

from model_ops.curation.checks import drop_reason, orders_passed
from model_ops.curation.selection import RowKey as Key
from model_ops.curation.selection import exclude_rows, judge, select_games
from schemas.config import DialogCurationConfig
from schemas.rows import TranscriptRow, Turn
from tests.model_ops.bits_world import Bayesians, always_first, games, transcripts
from tests.model_ops.programs.test_dialog import JOINT

CONFIG = DialogCurationConfig()


@pytest.fixture(scope="module")
def won() -> TranscriptRow:
    """A won joint game that passes every check."""
    return transcripts(games(1), JOINT, Bayesians(flip=0.0))[0]


def changed(game: TranscriptRow, turn: int = 0, **fields: Any) -> TranscriptRow:
    """The game with one turn changed."""
    turns: list[Turn] = list(game.turns)
    turns[turn] = turns[turn].model_copy(update=fields)
    return game.model_copy(update={"turns": turns})


def test_a_sound_game_passes(won: TranscriptRow) -> None:
    assert drop_reason(won, CONFIG) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"stop_reason": "parse_fail", "guess": None, "won": False}, "parse_fail"),
        ({"turns": []}, "parse_fail"),
        ({"won": False}, "lost"),
        ({"rotation_pass": 1 / 3}, "order"),
        ({"blind_pass": 0.75}, "blind"),
    ],
)
def test_games_are_dropped_by_their_figures(
    won: TranscriptRow, fields: dict[str, Any], reason: str
) -> None:
    assert drop_reason(won.model_copy(update=fields), CONFIG) == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"question": "is it image 2 ?"}, "leak"),
        ({"question": "is it the second picture ?"}, "leak"),
        ({"answer": "photo (1)"}, "leak"),
        ({"answer": "see cat.JPG"}, "leak"),
        ({"answer": "word " * 26}, "caption_dump"),
        ({"question": "is bit 1 set ?"}, "repeat"),
        ({"consistency": 1 / 3}, "inconsistent"),
    ],
)
def test_games_are_dropped_by_what_was_said(
    won: TranscriptRow, fields: dict[str, Any], reason: str
) -> None:
    assert drop_reason(changed(won, **fields), CONFIG) == reason


def test_cannot_tell_may_be_half_of_the_answers_but_not_more(won: TranscriptRow) -> None:
    half = changed(won, answer="Cannot tell.")
    assert drop_reason(half, CONFIG) is None
    assert drop_reason(changed(half, 1, answer="can't tell"), CONFIG) == "cannot_tell"


def test_a_dialog_that_separates_nothing_is_dropped(won: TranscriptRow) -> None:
    same = changed(changed(won, counterfactual="NO."), 1, counterfactual="no")
    same = changed(changed(same, answer="no"), 1, answer="No")
    assert drop_reason(same, CONFIG) == "no_counterfactual"
    both_as_they_are = changed(same, answer="yes", as_it_is="no")
    assert drop_reason(both_as_they_are, CONFIG) == "no_counterfactual"
    assert drop_reason(changed(same, answer="no", as_it_is="yes"), CONFIG) is None
    not_asked = changed(changed(same, counterfactual=None), 1, counterfactual=None)
    assert drop_reason(not_asked, CONFIG) is None


@pytest.mark.parametrize(
    ("game", "off"),
    [
        ({"rotation_pass": 0.0}, {"min_rotation_pass": None}),
        ({"blind_pass": 1.0}, {"max_blind_pass": None}),
        ({"won": False, "rotation_pass": None}, {"require_win": False}),
        ({"rotation_pass": None}, {}),
        ({"blind_pass": None}, {}),
    ],
)
def test_a_check_can_be_off(
    won: TranscriptRow, game: dict[str, Any], off: dict[str, Any]
) -> None:
    config = CONFIG.model_copy(update=off)
    assert drop_reason(won.model_copy(update=game), config) is None


@pytest.mark.parametrize(
    ("turn", "off"),
    [
        ({"question": "is it image 2 ?"}, {"forbid_leak": False}),
        ({"question": "is bit 1 set ?"}, {"max_question_similarity": None}),
        ({"answer": "cannot tell", "consistency": None}, {"max_cannot_tell": None}),
        ({"consistency": 0.0}, {"min_consistency": None}),
    ],
)
def test_a_check_of_turns_can_be_off(
    won: TranscriptRow, turn: dict[str, Any], off: dict[str, Any]
) -> None:
    assert drop_reason(changed(won, **turn), CONFIG.model_copy(update=off)) is None


def test_two_images_must_be_right_in_both_orders() -> None:
    [pair] = transcripts(games(1, 2), JOINT, Bayesians(flip=0.0))
    assert drop_reason(pair.model_copy(update={"rotation_pass": 0.0}), CONFIG) == "order"


def test_the_played_order_counts_among_the_orders(won: TranscriptRow) -> None:
    assert orders_passed(won.model_copy(update={"rotation_pass": 2 / 3})) == pytest.approx(0.75)
    assert orders_passed(won.model_copy(update={"rotation_pass": None})) is None


def test_the_difficulty_band_comes_after_the_checks(won: TranscriptRow) -> None:
    hard = CONFIG.model_copy(update={"difficulty": (0.2, 0.9)})
    assert drop_reason(won, hard) == "difficulty"
    assert drop_reason(won.model_copy(update={"rotation_pass": 2 / 3}), hard) is None
    assert drop_reason(won.model_copy(update={"rotation_pass": None}), hard) is None


def test_the_rotation_filter_rejects_whoever_always_says_one() -> None:
    lucky = [row for row in transcripts(games(16), JOINT, always_first) if row.won]
    assert len(lucky) == 4
    assert {drop_reason(row, CONFIG) for row in lucky} == {"order"}


def test_caps_keep_so_many_per_group_and_target(won: TranscriptRow) -> None:
    same = [won.model_copy(update={"row_id": f"r{number}"}) for number in range(5)]
    config = CONFIG.model_copy(update={"max_per_group": 3, "max_per_target": 2})
    chosen = select_games([judge(game, config) for game in same], config, seed=1)
    assert sorted(map(str, chosen.values())) == ["None", "None"] + ["target_cap"] * 3
    config = config.model_copy(update={"max_per_group": 1, "max_per_target": None})
    chosen = select_games([judge(game, config) for game in reversed(same)], config, seed=1)
    assert sorted(map(str, chosen.values())) == ["None"] + ["group_cap"] * 4


def test_selection_does_not_depend_on_the_order_of_games(won: TranscriptRow) -> None:
    judged = [judge(won.model_copy(update={"row_id": f"r{n}"}), CONFIG) for n in range(9)]
    assert select_games(judged, CONFIG, 3) == select_games(judged[::-1], CONFIG, 3)


@pytest.mark.slow
def test_random_keeps_as_many_as_curated_but_blindly() -> None:
    played = transcripts(games(200), JOINT, Bayesians(flip=0.25))
    config = CONFIG.model_copy(update={"max_question_similarity": None})
    judged = [judge(game, config) for game in played]
    kept = {
        mode: {
            row_id
            for row_id, reason in select_games(
                judged, config.model_copy(update={"select": mode}), 5
            ).items()
            if reason is None
        }
        for mode in ("curated", "unfiltered", "random")
    }
    assert 5 < len(kept["curated"]) == len(kept["random"]) < len(kept["unfiltered"]) == 200
    wins = {game.row_id for game in played if game.won}
    assert kept["curated"] <= wins
    assert not kept["random"] <= wins


def test_unfiltered_and_random_leave_out_unparsed_games(won: TranscriptRow) -> None:
    broken = won.model_copy(update={"row_id": "x", "stop_reason": "parse_fail"})
    for mode in ("unfiltered", "random"):
        config = CONFIG.model_copy(update={"select": mode})
        chosen = select_games([judge(won, config), judge(broken, config)], config, 0)
        assert chosen == {won.row_id: None, "x": "parse_fail"}


def test_duplicate_rows_are_left_out_once_each() -> None:
    keys = [Key("a", "answer", "yes", 1), Key("b", "answer", "yes", 1), Key("c", "ask", "q", 2)]
    assert exclude_rows(keys, False, 0) == {"b": "duplicate"}


def test_balance_levels_yes_and_no_within_each_role() -> None:
    keys = [Key(f"y{n}", "answer", "yes", n) for n in range(2)]
    keys += [Key(f"n{n}", "answer", "no", 10 + n) for n in range(7)]
    keys += [Key(f"c{n}", "answer", "two", 30 + n) for n in range(3)]
    keys += [Key("v", "verdict", "yes", 50)]
    excluded = exclude_rows(keys, True, 0)
    assert set(excluded.values()) == {"balance"}
    assert sum(row_id.startswith("n") for row_id in excluded) == 5
    assert "v" in excluded
    assert not any(row_id.startswith(("y", "c")) for row_id in excluded)


def test_balance_keeps_what_most_looks_agree_on() -> None:
    keys = [Key("y", "answer", "yes", 0, agreement=0.6)]
    keys += [Key(f"n{n}", "answer", "no", 1 + n, agreement=1.0 if n == 3 else 0.8)
             for n in range(6)]
    assert set(exclude_rows(keys, True, 0)) == {"n0", "n1", "n2", "n4", "n5"}
