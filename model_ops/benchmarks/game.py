"""The game as a benchmark: held-out games, scored 1 if won and 0 if not.

The same program that generates training data plays here; a broken-off game counts as lost.
"""

import json

from model_ops.programs.calls import Program
from model_ops.programs.context import JobContext
from model_ops.programs.dialog import play
from schemas.config import Config, DialogPlayConfig
from schemas.rows import GameRow, ItemRow, TranscriptRow


class GameBenchmark(Config):
    """Settings of the program `game_benchmark`."""

    metric: str
    """Name of the metric, such as `field/game4_success`."""
    play: DialogPlayConfig
    """The rules."""


def play_item(game: GameRow, context: JobContext[GameBenchmark]) -> Program[ItemRow]:
    """Play one held-out game; the item keeps the game's id, so that evaluations pair."""
    settings = context.settings
    rules = JobContext(
        prompts=context.prompts,
        settings=settings.play,
        round=context.round,
        stage=context.stage,
        model_digest=context.model_digest,
        seed=context.seed,
    )
    transcript = yield from play(game, rules)
    return item_of(game, transcript, settings.metric)


def item_of(game: GameRow, transcript: TranscriptRow, metric: str) -> ItemRow:
    """The item that a finished game is; positions are written from 1, as the models see them."""
    dialog = "\n".join(f"{turn.question} {turn.answer}" for turn in transcript.turns)
    guess = transcript.guess
    return ItemRow(
        row_id=game.row_id,
        benchmark=metric,
        kind=f"game{len(game.images)}",
        image_ids=[ref.image_id for ref in game.images],
        prompt=dialog,
        expected=str(game.target + 1),
        reply="" if guess is None else str(guess + 1),
        score=float(transcript.won),
        detail=game_detail(transcript),
        model_digest=transcript.model_digest,
        prompt_version=transcript.prompt_version,
        seed=game.seed,
        num_calls=transcript.num_calls,
        num_prompt_tokens=transcript.num_prompt_tokens,
        num_output_tokens=transcript.num_output_tokens,
    )


def game_detail(transcript: TranscriptRow) -> str:
    """The game as JSON: turns, positions (from 0), why it ended, share of other orders passed."""
    shown = {"question", "answer", "summary", "beliefs", "asked_about"}
    detail = {
        "turns": [turn.model_dump(include=shown) for turn in transcript.turns],
        "target": transcript.target,
        "guess": transcript.guess,
        "stop_reason": transcript.stop_reason,
        "rotation_pass": transcript.rotation_pass,
    }
    return json.dumps(detail, ensure_ascii=False)
