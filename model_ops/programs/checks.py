"""What is asked about a game after it was won, so that curation can tell skill from luck.

All of it is ours [D] (methods/dialog_games.md, section 4): replay of the guess in other image
orders, the blind control, re-asked answers, and the nearest distractor's answers. Lost games are
not checked: nothing would be learnt from them, and every check costs calls.
"""

from collections.abc import Sequence
from typing import NamedTuple

from model_ops.programs.calls import Generate, Program, Reply, Sampling
from model_ops.programs.describer import MAX_ANSWER_TOKENS, answer_call
from model_ops.programs.guessing import Guesser
from model_ops.programs.replies import normalise, parse_line
from model_ops.programs.steps import generate_all
from model_ops.prompts import Prompts
from schemas.config import DialogPlayConfig
from schemas.rows import GameRow, ImageRef, Turn


class Checked(NamedTuple):
    """What the checks found; None where a check was off."""

    turns: list[Turn]
    rotation_pass: float | None = None
    blind_pass: float | None = None


def check_win(
    game: GameRow,
    turns: list[Turn],
    guesser: Guesser,
    prompts: Prompts,
    rules: DialogPlayConfig,
) -> Program[Checked]:
    """Run every check that the rules switch on."""
    rotation_pass = blind_pass = None
    if rules.rotations:
        rotation_pass = yield from guesser.rotation_pass(turns, game.target)
    if rules.blind:
        blind_pass = yield from guesser.blind_pass(game.target)
    reasks = _reask_calls(game.images[game.target], turns, prompts, rules)
    others = _counterfactual_calls(game, turns, prompts, rules)
    replies = yield from generate_all([*reasks, *others])
    turns = _with_consistency(turns, replies[: len(reasks)])
    turns = _with_counterfactual(turns, replies[len(reasks) :])
    return Checked(turns, rotation_pass, blind_pass)


def _reask_calls(
    target: ImageRef, turns: list[Turn], prompts: Prompts, rules: DialogPlayConfig
) -> list[Generate]:
    """Every question again, each k times in one call."""
    if not rules.reasks:
        return []
    sampling = Sampling(
        rules.reask_temperature, rules.top_p, MAX_ANSWER_TOKENS, num_samples=rules.reasks
    )
    return [
        answer_call(target, turn.question, turns[:number], prompts, sampling)
        for number, turn in enumerate(turns)
    ]


def _counterfactual_calls(
    game: GameRow, turns: list[Turn], prompts: Prompts, rules: DialogPlayConfig
) -> list[Generate]:
    """Every question about the nearest distractor, greedily, after the same dialog."""
    if not rules.counterfactual or game.nearest is None:
        return []
    image = game.images[game.nearest]
    sampling = Sampling(max_tokens=MAX_ANSWER_TOKENS)
    return [
        answer_call(image, turn.question, turns[:number], prompts, sampling)
        for number, turn in enumerate(turns)
    ]


def _with_consistency(turns: list[Turn], replies: Sequence[Reply]) -> list[Turn]:
    if not replies:
        return turns
    shares = [_share(turn.answer, reply) for turn, reply in zip(turns, replies, strict=True)]
    return [
        turn.model_copy(update={"consistency": share})
        for turn, share in zip(turns, shares, strict=True)
    ]


def _share(answer: str, reply: Reply) -> float:
    """Share of the samples that say the same as *answer*."""
    same = [normalise(sample.text) == normalise(answer) for sample in reply.samples]
    return sum(same) / len(same)


def _with_counterfactual(turns: list[Turn], replies: Sequence[Reply]) -> list[Turn]:
    if not replies:
        return turns
    return [
        turn.model_copy(update={"counterfactual": parse_line(reply.text) or ""})
        for turn, reply in zip(turns, replies, strict=True)
    ]
