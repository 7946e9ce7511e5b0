"""The game as a program: protocol, success rates that must follow, visibility, checks."""

import json
from collections import Counter
from statistics import mean

import pytest

from model_ops.engines.scripted import reply_with
from model_ops.programs.calls import Call, Generate, Reply, Sample
from model_ops.programs.dialog import transcript_id
from schemas.config import DialogPlayConfig
from schemas.errors import ConfigError, DropError
from tests.model_ops.bits_world import (
    Bayesians,
    always_first,
    bits_of,
    context,
    games,
    outcomes,
    transcripts,
)

JOINT = DialogPlayConfig(guesser="joint")
PER_IMAGE = DialogPlayConfig(guesser="per_image")
LOOKED = DialogPlayConfig(guesser="per_image", looks=["deeper", "deepest"], reasks=0,
                          counterfactual=False)
BARE = DialogPlayConfig(
    guesser="joint", rotations=False, blind=False, reasks=0, counterfactual=False
)
BOTH = pytest.mark.parametrize("rules", [JOINT, PER_IMAGE], ids=["joint", "per_image"])


@pytest.mark.slow
@BOTH
def test_perfect_players_win_every_game_in_log2_turns(rules: DialogPlayConfig) -> None:
    played = transcripts(games(40), rules, Bayesians(flip=0.0))
    assert all(row.won for row in played)
    assert mean(len(row.turns) for row in played) == 2.0
    assert {row.stop_reason for row in played} == {"guessed"}
    assert [row.rotation_pass for row in played] == [1.0] * 40


@pytest.mark.slow
@pytest.mark.parametrize(("num_images", "low", "high"), [(4, 0.19, 0.31), (2, 0.43, 0.57)])
@BOTH
def test_players_who_answer_by_coin_win_one_game_in_n(
    rules: DialogPlayConfig, num_images: int, low: float, high: float
) -> None:
    played = transcripts(games(400, num_images), rules, Bayesians(flip=0.5))
    assert low < mean(row.won for row in played) < high
    assert {len(row.turns) for row in played} == {rules.max_turns[num_images]}
    assert {row.stop_reason for row in played} == {"max_turns"}


@pytest.mark.slow
@BOTH
def test_noise_lies_between_and_costs_turns(rules: DialogPlayConfig) -> None:
    played = transcripts(games(300), rules, Bayesians(flip=0.15))
    assert 0.6 < mean(row.won for row in played) < 0.99
    assert mean(len(row.turns) for row in played) > 2.0


@BOTH
def test_the_describer_sees_the_target_and_no_position(rules: DialogPlayConfig) -> None:
    rules = rules.model_copy(update={"counterfactual": False})
    for game in games(12):
        players = Bayesians(flip=0.2)
        transcripts([game], rules, players)
        others = {ref.image_id for ref in game.images} - {game.images[game.target].image_id}
        asked = [call for call in players.calls if call.seat == "describer"]
        assert asked
        for call in asked:
            assert call.images == (game.images[game.target],)
            words = " ".join(part for message in call.messages for part in message.parts)
            assert not any(image_id in words for image_id in others)
            assert "Image " not in words
            assert game.row_id not in words


def test_the_describer_says_what_most_lights_give_and_the_image_as_it_is_has_no_vote() -> None:
    players = Bayesians(flip=0.0)

    def wrong_as_it_is(call: Call, seed: int) -> Reply:
        reply = players(call, seed)
        assert isinstance(call, Generate)
        if call.seat != "describer" or call.look:
            return reply
        return reply_with(call, "no" if reply.text == "yes" else "yes")

    played = transcripts(games(20), LOOKED, wrong_as_it_is)
    assert all(row.won for row in played)
    assert {turn.agreement for row in played for turn in row.turns} == {1.0}
    turns = [turn for row in played for turn in row.turns]
    assert all({turn.answer, turn.as_it_is} == {"yes", "no"} for turn in turns)
    asked = [call for call in players.calls if call.seat == "describer"]
    assert Counter(call.look for call in asked)["deeper"] == len(asked) / 3
    alone = transcripts(games(20), PER_IMAGE, Bayesians(flip=0.0))
    assert {turn.agreement for row in alone for turn in row.turns} == {None}


def test_a_look_without_an_answer_agrees_with_none() -> None:
    players = Bayesians(flip=0.0)

    def blank_in_other_lights(call: Call, seed: int) -> Reply:
        reply = players(call, seed)
        looked = isinstance(call, Generate) and call.seat == "describer" and call.look
        return reply_with(call, " ") if looked else reply

    played = transcripts(games(20), LOOKED, blank_in_other_lights)
    assert all(row.won for row in played)
    assert {turn.agreement for row in played for turn in row.turns} == {0.0}


def test_among_equally_many_lights_the_image_as_it_is_decides() -> None:
    players = Bayesians(flip=0.0)

    def wrong_in_one_light(call: Call, seed: int) -> Reply:
        reply = players(call, seed)
        wrong = isinstance(call, Generate) and call.seat == "describer" and call.look == "deeper"
        return reply_with(call, "no" if reply.text == "yes" else "yes") if wrong else reply

    played = transcripts(games(20), LOOKED, wrong_in_one_light)
    assert all(row.won for row in played)
    assert {turn.agreement for row in played for turn in row.turns} == {0.5}


def test_describer_prompts_do_not_depend_on_the_target_position() -> None:
    game = games(1)[0]
    order = [*game.images[1:], game.images[0]]
    moved = game.model_copy(update={"images": order, "target": 3, "nearest": None})
    assert moved.images[3] == game.images[0] == game.images[game.target]
    said = []
    for one in (game, moved):
        players = Bayesians(flip=0.0)
        transcripts([one], BARE, players)
        said.append([call for call in players.calls if call.seat == "describer"])
    assert said[0] == said[1]


def test_joint_prompts_of_a_game_share_system_and_images() -> None:
    game, players = games(1)[0], Bayesians(flip=0.0)
    transcripts([game], BARE, players)
    guesser = [call for call in players.calls if call.seat == "guesser"]
    assert len({call.messages[0] for call in guesser}) == 1
    assert len({call.messages[1].parts[:-1] for call in guesser}) == 1
    assert {call.images for call in guesser} == {tuple(game.images)}


def test_the_per_image_asker_sees_its_favourite() -> None:
    for row in transcripts(games(20), PER_IMAGE, Bayesians(flip=0.1)):
        for before, turn in zip(row.turns, row.turns[1:], strict=False):
            assert turn.asked_about is not None
            assert before.beliefs[turn.asked_about] == pytest.approx(max(before.beliefs))
    firsts = Counter(
        row.turns[0].asked_about for row in transcripts(games(80), PER_IMAGE, Bayesians(0.1))
    )
    assert set(firsts) == {0, 1, 2, 3}


def test_all_verdicts_of_a_turn_are_asked_together() -> None:
    game, players = games(1)[0], Bayesians(flip=0.0)
    [row] = transcripts([game], PER_IMAGE, players)
    kinds = ["fit" if call.sampling.choices else call.seat for call in players.calls]
    assert kinds[:6] == ["guesser", "describer", "fit", "fit", "fit", "fit"]
    assert [len(turn.fits) for turn in row.turns] == [4, 4]
    assert row.turns[0].summary.startswith("image 1:")


def test_scope_dialog_judges_the_whole_dialog_at_every_turn() -> None:
    rules = PER_IMAGE.model_copy(update={"verdict_scope": "dialog"})
    players = Bayesians(flip=0.0)
    [row] = transcripts(games(1), rules, players)
    assert row.won
    assert row.verdict_scope == "dialog"
    last = [call for call in players.calls if call.sampling.choices][-1]
    assert last.messages[-1].parts[-1].count("is bit") == len(row.turns) == 2


def test_a_rotated_replay_unmasks_a_guesser_that_always_says_one() -> None:
    played = transcripts(games(8), JOINT, always_first)
    assert [row.won for row in played] == [row.target == 0 for row in played]
    won = [row for row in played if row.won]
    assert [row.rotation_pass for row in won] == [0.0, 0.0]
    assert [row.blind_pass for row in won] == [0.25, 0.25]


def test_lost_games_are_not_checked() -> None:
    lost = [row for row in transcripts(games(8), JOINT, always_first) if not row.won]
    assert len(lost) == 6
    for row in lost:
        assert (row.rotation_pass, row.blind_pass) == (None, None)
        assert row.turns[0].consistency is None
        assert row.turns[0].counterfactual is None


def test_checks_cost_what_is_counted() -> None:
    players = Bayesians(flip=0.0)
    [row] = transcripts(games(1), JOINT, players)
    per_turn, turns, rotations, blind = 3, 2, 3, 4
    assert row.num_calls == len(players.calls) == per_turn * turns + rotations + blind + 2 * turns
    [bare] = transcripts(games(1), BARE, Bayesians(flip=0.0))
    assert bare.num_calls == per_turn * turns
    assert bare.num_prompt_tokens > 0
    assert bare.num_output_tokens > 0
    assert bare.num_image_tokens == turns * (4 + 1 + 4)


def test_per_image_controls_need_no_calls() -> None:
    rules = PER_IMAGE.model_copy(update={"reasks": 0, "counterfactual": False})
    players = Bayesians(flip=0.0)
    [row] = transcripts(games(1), rules, players)
    assert (row.rotation_pass, row.blind_pass) == (1.0, 0.25)
    assert row.num_calls == 2 * (1 + 1 + 4)


def test_reasks_and_counterfactuals_are_recorded_per_turn() -> None:
    [row] = transcripts(games(1), JOINT, Bayesians(flip=0.0))
    assert [turn.consistency for turn in row.turns] == [1.0, 1.0]
    assert row.nearest is not None
    near, target = bits_of(row.images[row.nearest]), bits_of(row.images[row.target])
    assert [turn.answer for turn in row.turns] == ["yes" if bit else "no" for bit in target]
    assert [turn.counterfactual for turn in row.turns] == ["yes" if bit else "no" for bit in near]


def test_a_consistency_share_compares_after_normalisation() -> None:
    players = Bayesians(flip=0.0)

    def shouting(call: Call, seed: int) -> Reply:
        reply = players(call, seed)
        assert isinstance(call, Generate)
        if call.sampling.num_samples == 3:
            return reply_with(call, reply.text.upper() + ".", reply.text, "perhaps")
        return reply

    [row] = transcripts(games(1), JOINT, shouting)
    assert [turn.consistency for turn in row.turns] == [pytest.approx(2 / 3)] * 2


@pytest.mark.parametrize("broken", ["ask", "decide", "answer", "guess"])
def test_an_unusable_reply_is_asked_once_more_then_ends_the_game(broken: str) -> None:
    tries: list[float] = []
    players = Bayesians(flip=0.5)

    def mute(call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        if _kind(call) != broken:
            return players(call, seed)
        tries.append(call.sampling.temperature)
        return reply_with(call, " " if broken == "answer" else "I would rather not { say")

    [row] = transcripts(games(1), BARE, mute)
    assert (row.stop_reason, row.guess, row.won) == ("parse_fail", None, False)
    assert len(tries) == 2
    assert tries[1] >= 0.7
    assert len(row.turns) == (6 if broken == "guess" else 0)


def test_a_second_try_can_save_the_game() -> None:
    players, seen = Bayesians(flip=0.0), Counter[str]()

    def stumbling(call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        kind = _kind(call)
        seen[kind] += 1
        return reply_with(call, "?!") if seen[kind] == 1 and kind == "ask" else players(call, seed)

    [row] = transcripts(games(1), BARE, stumbling)
    assert row.won


def test_a_verdict_that_is_neither_yes_nor_no_ends_the_game() -> None:
    players = Bayesians(flip=0.0)

    def vague(call: Call, seed: int) -> Reply:
        reply = players(call, seed)
        assert isinstance(call, Generate)
        if call.sampling.choices:
            return Reply((Sample("maybe", 1, 0.0, "stop"),), 5, 1, 9)
        return reply

    [row] = transcripts(games(1), PER_IMAGE, vague)
    assert row.stop_reason == "parse_fail"


def test_an_engine_error_ends_the_program_with_its_reason() -> None:
    def failing(call: Call, seed: int) -> Reply:
        raise DropError("context_overflow", "too long")

    [ended] = outcomes(games(1), JOINT, failing)
    assert ended.row is None
    assert ended.error is not None
    assert ended.error.reason == "context_overflow"


def test_a_missing_turn_limit_is_named() -> None:
    rules = BARE.model_copy(update={"max_turns": {2: 3}})
    with pytest.raises(ConfigError, match="max_turns has no limit for games of 4 images"):
        outcomes(games(1), rules, Bayesians(flip=0.0))


def test_the_same_inputs_give_the_same_rows() -> None:
    first = transcripts(games(30), PER_IMAGE, Bayesians(flip=0.3))
    again = transcripts(games(30), PER_IMAGE, Bayesians(flip=0.3))
    assert {row.row_id: row for row in first} == {row.row_id: row for row in again}


def test_row_ids_come_from_inputs_only() -> None:
    game = games(1)[0]
    ids = {transcripts([game], JOINT, Bayesians(flip))[0].row_id for flip in (0.0, 0.5)}
    assert ids == {transcript_id(game, context(JOINT))}
    assert transcript_id(game, context(BARE)) not in ids


def test_a_game_without_a_nearest_distractor_gets_a_seeded_one() -> None:
    game = games(1)[0].model_copy(update={"nearest": None})
    picked = {transcripts([game], JOINT, Bayesians(0.0))[0].nearest for _ in range(3)}
    assert len(picked) == 1
    assert picked.pop() != game.target


def test_decisions_are_kept_as_json() -> None:
    [row] = transcripts(games(1), BARE, Bayesians(flip=0.0))
    last = json.loads(row.turns[-1].decision or "")
    assert (last["ready"], last["guess"]) == (True, row.target + 1)
    assert row.turns[0].summary == "1 answers"


def _kind(call: Generate) -> str:
    if call.seat == "describer":
        return "answer"
    if call.sampling.choices:
        return "guess"
    return "decide" if '"summary"' in call.messages[-1].parts[-1] else "ask"
