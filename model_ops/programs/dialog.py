"""The image-identification game as a program (VLM Dialog Games, arXiv 2502.02740).

`play` reads like the protocol: the Guesser asks, the Describer (who sees the target alone)
answers, the Guesser decides; early guess or a forced one at the turn limit; checks after a win.
Which games are learnt from is curation's decision; how calls are answered is the engines'.
"""

import random

from model_ops.programs.calls import Program
from model_ops.programs.checks import Checked, check_win
from model_ops.programs.context import JobContext
from model_ops.programs.describer import answer
from model_ops.programs.guesser_joint import JointGuesser
from model_ops.programs.guesser_per_image import PerImageGuesser
from model_ops.programs.guessing import Guesser
from model_ops.programs.replies import Unparseable
from model_ops.programs.steps import Meter, metered
from schemas.config import DialogPlayConfig
from schemas.errors import ConfigError
from schemas.manifest import digest
from schemas.rows import GameRow, TranscriptRow, Turn, row_id

PlayContext = JobContext[DialogPlayConfig]


def play(game: GameRow, context: PlayContext) -> Program[TranscriptRow]:
    """Play *game* to its end and return the transcript, whether won, lost or broken off."""
    game = _with_nearest(game, context.seed)
    meter = Meter()
    row = yield from metered(_play(game, context, meter), meter)
    return row


def _play(game: GameRow, context: PlayContext, meter: Meter) -> Program[TranscriptRow]:
    rules, prompts = context.settings, context.prompts
    guesser = seat_guesser(game, context)
    turns: list[Turn] = []
    guess, stop_reason = None, "guessed"
    try:
        while guess is None and len(turns) < _turn_limit(game, rules):
            turn, guess = yield from _one_turn(game, guesser, turns, context)
            turns.append(turn)
        if guess is None:
            guess = yield from guesser.guess(turns)
            stop_reason = "max_turns"
    except Unparseable:
        guess, stop_reason = None, "parse_fail"
    checked = Checked(turns)
    if guess == game.target:
        checked = yield from check_win(game, turns, guesser, prompts, rules)
    return _transcript(game, context, guess, stop_reason, checked, meter)


def seat_guesser(game: GameRow, context: PlayContext) -> Guesser:
    """The Guesser of the mode that the rules name."""
    rules = context.settings
    if rules.guesser == "joint":
        return JointGuesser(game, context.prompts, rules)
    return PerImageGuesser(game, context.prompts, rules, context.seed)


def _one_turn(
    game: GameRow, guesser: Guesser, turns: list[Turn], context: PlayContext
) -> Program[tuple[Turn, int | None]]:
    """Question, answer, decision: the turn and the early guess, if there is one."""
    question = yield from guesser.ask(turns)
    said = yield from answer(
        game.images[game.target], question.text, turns, context.prompts, context.settings
    )
    turn = Turn(
        question=question.text,
        answer=said.text,
        question_logprob=question.logprob,
        answer_logprob=said.logprob,
        summary="",
        beliefs=[],
        asked_about=question.asked_about,
        agreement=said.agreement,
        as_it_is=said.as_it_is,
    )
    decision = yield from guesser.decide([*turns, turn])
    decided = {
        "summary": decision.summary,
        "beliefs": list(decision.beliefs),
        "fits": list(decision.fits),
        "decision": decision.decision,
    }
    return turn.model_copy(update=decided), decision.guess


def _transcript(
    game: GameRow,
    context: PlayContext,
    guess: int | None,
    stop_reason: str,
    checked: Checked,
    meter: Meter,
) -> TranscriptRow:
    rules = context.settings
    return TranscriptRow(
        row_id=transcript_id(game, context),
        round=context.round,
        stage=context.stage,
        model_digest=context.model_digest,
        prompt_version=context.prompts.digest,
        seed=context.seed,
        group_id=game.group_id,
        images=game.images,
        target=game.target,
        guess=guess,
        won=guess == game.target,
        turns=checked.turns,
        stop_reason=stop_reason,
        mode=rules.guesser,
        verdict_scope=rules.verdict_scope if rules.guesser == "per_image" else None,
        nearest=game.nearest,
        rotation_pass=checked.rotation_pass,
        blind_pass=checked.blind_pass,
        mean_similarity=game.mean_similarity,
        num_calls=meter.num_calls,
        num_prompt_tokens=meter.num_prompt_tokens,
        num_output_tokens=meter.num_output_tokens,
        num_image_tokens=meter.num_image_tokens,
    )


def transcript_id(game: GameRow, context: PlayContext) -> str:
    """Deterministic id: the game, who plays it and how; never what was said."""
    return row_id(
        "transcript",
        game=game.row_id,
        model=context.model_digest,
        prompts=context.prompts.digest,
        settings=digest(context.settings),
        seed=context.seed,
    )


def _turn_limit(game: GameRow, rules: DialogPlayConfig) -> int:
    limit = rules.max_turns.get(len(game.images))
    if limit is None:
        raise ConfigError(
            f"play.max_turns has no limit for games of {len(game.images)} images "
            f"(row {game.row_id}): add one"
        )
    return limit


def _with_nearest(game: GameRow, seed: int) -> GameRow:
    """Where grouping recorded no nearest distractor, a seeded pick stands for it."""
    if game.nearest is not None:
        return game
    others = [place for place in range(len(game.images)) if place != game.target]
    picked = random.Random(f"{seed}/{game.row_id}/nearest").choice(others)
    return game.model_copy(update={"nearest": picked})
