"""How many calls and tokens a stage or a benchmark will take: arithmetic on its configuration.

The one idea: every formula follows the programs call by call, and what only a run can tell (how
long games last, how many are won) is a named assumption, so that a reader can disagree with it.
"""

from collections.abc import Mapping
from math import ceil

from pydantic import BaseModel, ConfigDict

from schemas.config import (
    DialogCurationConfig,
    DialogPlayConfig,
    DialogStage,
    MixConfig,
    TrainConfig,
)

TURN_SHARE = {"joint": 0.7, "per_image": 0.85}
"""Turns of a mean game as a share of its limit: Guessers that may stop early do, about half way;
beliefs (`per_image`) get there later."""
WIN_RATE = 0.5
"""Share of games won: between chance (0.25 to 0.5) and a strong model (0.8). Checks follow wins."""
FORCED_SHARE = 0.3
"""Share of joint games that reach the turn limit and need a guess of their own."""
KEPT_SHARE = 0.25
"""Share of played games that pass curation: half are lost, half of the rest fail a check."""
UNREPEATED_KEPT_SHARE = 0.45
"""The same where nothing was asked again (no image orders, blind guesses or re-asks): one won game
in ten fails what is left of the checks."""
PARSED_SHARE = 0.97
"""Share of played games whose every reply could be read (what `unfiltered` keeps)."""
RULED_OUT_SHARE = 0.5
"""Share of a kept game's distractors that are ruled out clearly enough for a "no" verdict row."""
CLEAR_SHARE = 0.4
"""Share of these whose own verdict a strict `max_distractor_fit` (below one half) lets through."""
AGREED_SHARE = 0.75
"""Share of turns on which enough of the looks agree (`min_agreement`)."""
CLOSED_SHARE = 0.6
"""Share of answers that are yes or no."""
BALANCED_SHARE = 0.6
"""Share of these that are left with as many yes as no."""


class Wording(BaseModel):
    """Mean text tokens of a prompt set, measured on its files and typical replies."""

    model_config = ConfigDict(frozen=True)

    prompt: int
    turn: int
    output: Mapping[str, int]


WORDINGS = {
    "nursery": Wording(
        prompt=12, turn=8, output={"ask": 7, "answer": 2, "decide": 1, "verdict": 1}
    ),
    "default": Wording(
        prompt=230, turn=45, output={"ask": 30, "answer": 14, "decide": 110, "verdict": 1}
    ),
}
GUESS_TOKENS = 1
"""A guess is one constrained token."""


class Calls(BaseModel):
    """Expected calls of one step, with all their prompt and output tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    calls: int
    prompt_tokens: int
    output_tokens: int


def mean_turns(rules: DialogPlayConfig, num_images: int) -> float:
    """`TURN_SHARE` of the limit, at least one turn."""
    return max(1.0, TURN_SHARE[rules.guesser] * rules.max_turns.get(num_images, num_images))


def play_calls(
    rules: DialogPlayConfig, games: Mapping[int, int], image_tokens: float, prompts: str
) -> list[Calls]:
    """Calls of all games, step by step.

    With T mean turns, N images, W the win rate, per game:
    ask T, answer T, and T for each further look; joint: decide T, guess `FORCED_SHARE`, after a
    win N-1 rotated and N blind guesses; per_image: N * T verdicts, no further guess; after a win
    T re-asks (each of `reasks` samples) and T counterfactual answers. A prompt is the set's text,
    half of the dialog, and its images: 1, or N where the joint Guesser speaks.
    """
    totals: dict[str, list[float]] = {}
    for num_images, num_games in games.items():
        for step, calls, shown, output in _per_game(rules, num_images, WORDINGS[prompts]):
            turns = mean_turns(rules, num_images)
            text = WORDINGS[prompts].prompt + WORDINGS[prompts].turn * turns / 2
            total = totals.setdefault(step, [0.0, 0.0, 0.0])
            total[0] += calls * num_games
            total[1] += calls * num_games * (text + shown * image_tokens)
            total[2] += calls * num_games * output
    return [
        Calls(step=step, calls=round(n), prompt_tokens=round(p), output_tokens=round(o))
        for step, (n, p, o) in totals.items()
        if n
    ]


def _per_game(
    rules: DialogPlayConfig, num_images: int, words: Wording
) -> list[tuple[str, float, int, float]]:
    """(step, calls, images shown, output tokens of a call) of one mean game."""
    turns, joint = mean_turns(rules, num_images), rules.guesser == "joint"
    say = words.output
    after = WIN_RATE * turns
    steps: list[tuple[str, float, int, float]] = [
        ("ask", turns, num_images if joint else 1, say["ask"]),
        ("answer", turns, 1, say["answer"]),
        ("looks", turns * len(rules.looks), 1, say["answer"]),
    ]
    if joint:
        steps += [
            ("decide", turns, num_images, say["decide"]),
            ("guess", FORCED_SHARE, num_images, GUESS_TOKENS),
            ("rotations", WIN_RATE * (num_images - 1) * rules.rotations, num_images, GUESS_TOKENS),
            ("blind", WIN_RATE * num_images * rules.blind, num_images, GUESS_TOKENS),
        ]
    else:
        steps.append(("verdict", turns * num_images, 1, say["verdict"]))
    steps.append(("re-ask", after * (rules.reasks > 0), 1, say["answer"] * rules.reasks))
    steps.append(("counterfactual", after * rules.counterfactual, 1, say["answer"]))
    return steps


def vqa_calls(num_items: int, image_tokens: float, prompts: str) -> Calls:
    """One call per question: the prompt's text and one image, a short answer."""
    words = WORDINGS[prompts]
    prompt = num_items * (words.prompt + image_tokens)
    output = num_items * words.output["answer"]
    return Calls(step="vqa", calls=num_items, prompt_tokens=round(prompt), output_tokens=output)


def kept_games(stage: DialogStage, num_images: int) -> int:
    """`KEPT_SHARE` of the games (nothing asked again: `UNREPEATED_KEPT_SHARE`; unfiltered:
    `PARSED_SHARE`), at most the cap per target allows."""
    config, play = stage.curation, stage.play
    orders = play.guesser == "joint" and (play.rotations or play.blind)
    share = KEPT_SHARE if orders or play.reasks else UNREPEATED_KEPT_SHARE
    share = PARSED_SHARE if config.select == "unfiltered" else share
    kept = round(share * sum(stage.games.values()))
    if config.select == "unfiltered" or config.max_per_target is None:
        return kept
    return min(kept, config.max_per_target * num_images)


class Lesson(BaseModel):
    """What a stage's training is expected to read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    pictures: int
    """Images in all rows together: they are stored in the rows."""
    steps: int


def lesson(stage: DialogStage, num_images: int, num_rehearsed: int = 0) -> Lesson:
    """Rows and optimizer steps of one round.

    Rows of a kept game with T turns and N images: T answers (twice with counterfactual answers),
    T asks; per_image: T * (1 + `RULED_OUT_SHARE` * (N-1)) verdicts; joint: T decisions and N
    guesses (1 without rotations). `AGREED_SHARE` of the turns where looks have to agree; of the
    answers those that `_answer_share` lets through, of dropped games too where these are learnt;
    balanced verdicts are as many "no" as "yes", and about closed answers only where these
    alone are learnt. `look_share` of all rows comes once more, and rehearsed replies beside.
    Replay adds r / (1 - r) of that; `max_rows` caps it.
    steps = ceil(rows / (batch * accumulation * workers)) * epochs, at most `max_steps`.
    """
    kept = kept_games(stage, num_images) / max(1, sum(stage.games.values()))
    answered = PARSED_SHARE if stage.curation.answers_of_dropped_games else kept
    rows = pictures = 0.0
    for shown, num_games in stage.games.items():
        for role, (num_rows, num_shown) in _rows_per_game(stage, shown).items():
            made = (answered if role == "answer" else kept) * num_games * num_rows
            made *= 1 + stage.curation.look_share
            rows += made
            pictures += made * num_shown
    beside = mixed(rows, stage.mix) - rows + num_rehearsed
    rows, pictures = rows + beside, pictures + beside
    return Lesson(
        rows=round(rows), pictures=round(pictures), steps=num_steps(rows, stage.train)
    )


def mixed(rows: float, mix: MixConfig | None) -> float:
    """A stage's own *rows* with those that are mixed in (a whole file: as many, for want of its
    size)."""
    return rows * (1 + (mix.ratio or 1.0 if mix else 0))


def num_steps(rows: float, train: TrainConfig) -> int:
    """Optimizer steps over *rows*, replayed ones added (see `lesson`)."""
    read = rows / (1 - train.replay)
    read = min(read, train.max_rows) if train.max_rows else read
    batch = train.batch_size * train.gradient_accumulation * train.num_workers
    steps = ceil(ceil(read / batch) * train.epochs)
    return min(steps, train.max_steps or steps)


def _rows_per_game(stage: DialogStage, num_images: int) -> dict[str, tuple[float, int]]:
    """Role -> (rows, images in a row), for roles that have a weight."""
    turns, joint = mean_turns(stage.play, num_images), stage.play.guesser == "joint"
    config = stage.curation
    if stage.play.looks and config.min_agreement is not None:
        turns *= AGREED_SHARE
    by_role = {
        "answer": (turns * (1 + config.counterfactual_answers) * _answer_share(config), 1),
        "ask": (turns, num_images if joint else 1),
    }
    if joint:
        by_role["decide"] = (turns, num_images)
        by_role["guess"] = (num_images if config.guess_rotations else 1.0, num_images)
    else:
        no = RULED_OUT_SHARE * (num_images - 1)
        no *= CLEAR_SHARE if config.max_distractor_fit < 0.5 else 1
        about = turns * (CLOSED_SHARE if config.closed_answers_only else 1)
        by_role["verdict"] = (about * (2 * min(1.0, no) if config.balance_answers else 1 + no), 1)
    weights = {str(role): weight for role, weight in config.role_weights.items()}
    return {role: rows for role, rows in by_role.items() if weights.get(role, 0.0) > 0}


def _answer_share(config: DialogCurationConfig) -> float:
    """Share of the answers that are learnt: yes and no, balanced or not, and the open ones."""
    closed = CLOSED_SHARE * (BALANCED_SHARE if config.balance_answers else 1)
    return closed if config.closed_answers_only else closed + 1 - CLOSED_SHARE
