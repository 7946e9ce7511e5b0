"""The per_image Guesser: looks at one candidate at a time and multiplies its verdicts.

Ours [D], made for models too small to compare images in one prompt: it asks about the candidate
that it believes in most, then has every candidate judged ("does this answer fit?"), all at once.
Nothing it does depends on the order of the images, so rotations cannot change its guess.
"""

import math
import random
from collections.abc import Sequence
from typing import Literal

from model_ops.programs.calls import Generate, Program, Sampling
from model_ops.programs.guessing import Decision, Question
from model_ops.programs.messages import ask_one_messages, fit_messages
from model_ops.programs.replies import Unparseable, parse_line, yes_probability
from model_ops.programs.steps import generate_all, parsed
from model_ops.prompts import Prompts
from schemas.config import DialogPlayConfig
from schemas.rows import GameRow, Turn

SEAT = "guesser"
MAX_QUESTION_TOKENS = 64
VERDICT = Sampling(max_tokens=1, choices=("yes", "no"))
Scope = Literal["pair", "dialog"]


class PerImageGuesser:
    """Plays one game; see `model_ops.programs.guessing.Guesser`."""

    def __init__(
        self, game: GameRow, prompts: Prompts, rules: DialogPlayConfig, seed: int
    ) -> None:
        self._images = game.images
        self._prompts = prompts
        self._rules = rules
        self._tie_seed = f"{seed}/{game.row_id}"

    def ask(self, turns: Sequence[Turn]) -> Program[Question]:
        """Ask about the favourite; on the first turn that is a seeded pick."""
        shown = self._favourite(turns)
        sampling = Sampling(
            self._rules.ask_temperature, self._rules.top_p, MAX_QUESTION_TOKENS
        )
        messages = ask_one_messages(self._prompts, turns)
        call = Generate(messages, (self._images[shown],), sampling, seat=SEAT)
        reply, text = yield from parsed(call, parse_line)
        return Question(text, reply.samples[0].logprob, shown)

    def decide(self, turns: Sequence[Turn]) -> Program[Decision]:
        """Have every candidate judged; guess once one belief is high enough."""
        scope = self._rules.verdict_scope
        messages = fit_messages(self._prompts, verdict_turns(turns, scope))
        calls = [Generate(messages, (image,), VERDICT, seat=SEAT) for image in self._images]
        replies = yield from generate_all(calls)
        fits = [yes_probability(reply) for reply in replies]
        verdicts = [fit for fit in fits if fit is not None]
        if len(verdicts) < len(calls):
            raise Unparseable("a verdict was neither yes nor no")
        history = [*(turn.fits for turn in turns[:-1]), verdicts]
        beliefs = beliefs_after(history, scope, self._rules.belief_clip)
        ready = max(beliefs) >= self._rules.ready_confidence
        guess = _pick_best(beliefs, f"{self._tie_seed}/{len(turns)}") if ready else None
        return Decision(guess, _in_words(beliefs), tuple(beliefs), tuple(verdicts))

    def guess(self, turns: Sequence[Turn]) -> Program[int]:
        """The favourite; no further call is needed."""
        yield from ()
        return self._favourite(turns)

    def rotation_pass(self, turns: Sequence[Turn], target: int) -> Program[float]:
        """1.0 without a call: verdicts are per image, so the order cannot matter."""
        yield from ()
        return 1.0

    def blind_pass(self, target: int) -> Program[float]:
        """1/N without a call: with nothing to judge, beliefs are uniform."""
        yield from ()
        return 1.0 / len(self._images)

    def _favourite(self, turns: Sequence[Turn]) -> int:
        uniform = [1.0 / len(self._images)] * len(self._images)
        beliefs = turns[-1].beliefs if turns else uniform
        return _pick_best(beliefs, f"{self._tie_seed}/{len(turns)}")


def verdict_turns(turns: Sequence[Turn], scope: Scope) -> Sequence[Turn]:
    """What a verdict is about: the newest question and answer, or the whole dialog."""
    return turns[-1:] if scope == "pair" else turns


def beliefs_after(fits: Sequence[Sequence[float]], scope: Scope, clip: float) -> list[float]:
    """Probability of being the target per image, from P(fits) by turn and image.

    Scope `pair`: each verdict is about its own answer, so they multiply. Scope `dialog`: the newest
    verdict already covers all answers, so it stands alone.
    """
    counted = fits if scope == "pair" else fits[-1:]
    logs = [
        math.fsum(math.log(min(max(p, clip), 1.0 - clip)) for p in verdicts)
        for verdicts in zip(*counted, strict=True)
    ]
    top = max(logs)
    odds = [math.exp(log - top) for log in logs]
    total = math.fsum(odds)
    return [odd / total for odd in odds]


def _pick_best(beliefs: Sequence[float], tie_seed: str) -> int:
    """The position of the highest belief; ties are broken by seed, so no position is favoured."""
    top = max(beliefs)
    best = [place for place, belief in enumerate(beliefs) if math.isclose(belief, top)]
    return random.Random(tie_seed).choice(best)


def _in_words(beliefs: Sequence[float]) -> str:
    return "; ".join(f"image {n}: {belief:.0%}" for n, belief in enumerate(beliefs, start=1))
