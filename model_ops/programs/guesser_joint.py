"""The joint Guesser: all images in one prompt, a private summary, a structured decision.

[P] it sees all images, keeps a private summary and ends by naming a position; [D] summary,
per-image status, readiness and guess are one JSON reply. System text and images stand first in
every prompt of a game, so that prefix caching pays for them once.
"""

import json
from collections.abc import Sequence

from model_ops.programs.calls import Generate, Program, Sampling
from model_ops.programs.guessing import Decision, Question, rotation
from model_ops.programs.messages import (
    Messages,
    ask_messages,
    decide_messages,
    guess_messages,
)
from model_ops.programs.replies import (
    STATUSES,
    parse_decision,
    parse_position,
    parse_question,
)
from model_ops.programs.steps import generate_all, parsed
from model_ops.prompts import Prompts
from schemas.config import DialogPlayConfig
from schemas.rows import GameRow, ImageRef, Turn

SEAT = "guesser"
MAX_QUESTION_TOKENS = 96
MAX_DECISION_TOKENS = 256
MAX_GUESS_TOKENS = 4
QUESTION_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"question": {"type": "string"}},
        "required": ["question"],
        "additionalProperties": False,
    }
)


class JointGuesser:
    """Plays one game; see `model_ops.programs.guessing.Guesser`."""

    def __init__(self, game: GameRow, prompts: Prompts, rules: DialogPlayConfig) -> None:
        self._images = tuple(game.images)
        self._prompts = prompts
        self._rules = rules

    def ask(self, turns: Sequence[Turn]) -> Program[Question]:
        """One question about what splits the images that are still possible."""
        sampling = Sampling(
            self._rules.ask_temperature,
            self._rules.top_p,
            MAX_QUESTION_TOKENS,
            json_schema=QUESTION_SCHEMA,
        )
        messages = ask_messages(self._prompts, len(self._images), turns)
        reply, text = yield from parsed(self._call(messages, sampling), parse_question)
        return Question(text, reply.samples[0].logprob, None)

    def decide(self, turns: Sequence[Turn]) -> Program[Decision]:
        """Summary, status per image, readiness and guess in one call."""
        num_images = len(self._images)
        sampling = Sampling(
            max_tokens=MAX_DECISION_TOKENS, json_schema=decision_schema(num_images)
        )
        messages = decide_messages(self._prompts, num_images, turns)
        _, found = yield from parsed(
            self._call(messages, sampling), lambda text: parse_decision(text, num_images)
        )
        guess = found.guess if found.ready else None
        return Decision(guess, found.summary, decision=found.as_json())

    def guess(self, turns: Sequence[Turn]) -> Program[int]:
        """The forced guess."""
        call = self._guess_call(self._images, turns)
        _, position = yield from parsed(call, self._position)
        return position

    def rotation_pass(self, turns: Sequence[Turn], target: int) -> Program[float]:
        """Guess again with the finished dialog in the N-1 other orders, asked together."""
        passed = yield from self._guess_rotated(turns, target, range(1, len(self._images)))
        return passed

    def blind_pass(self, target: int) -> Program[float]:
        """Guess without any dialog in all N orders, asked together."""
        passed = yield from self._guess_rotated((), target, range(len(self._images)))
        return passed

    def _guess_rotated(
        self, turns: Sequence[Turn], target: int, shifts: range
    ) -> Program[float]:
        orders = [rotation(len(self._images), shift) for shift in shifts]
        shown = [tuple(self._images[place] for place in order) for order in orders]
        replies = yield from generate_all([self._guess_call(images, turns) for images in shown])
        guesses = [self._position(reply.text) for reply in replies]
        hits = [guess == order.index(target) for guess, order in zip(guesses, orders, strict=True)]
        return sum(hits) / len(hits)

    def _guess_call(self, images: tuple[ImageRef, ...], turns: Sequence[Turn]) -> Generate:
        numbers = tuple(str(number) for number in range(1, len(images) + 1))
        sampling = Sampling(max_tokens=MAX_GUESS_TOKENS, choices=numbers)
        messages = guess_messages(self._prompts, len(images), turns)
        return Generate(messages, images, sampling, seat=SEAT)

    def _call(self, messages: Messages, sampling: Sampling) -> Generate:
        return Generate(messages, self._images, sampling, seat=SEAT)

    def _position(self, text: str) -> int | None:
        return parse_position(text, len(self._images))


def decision_schema(num_images: int) -> str:
    """JSON schema of a decision about *num_images* images."""
    numbers: list[int | None] = [*range(1, num_images + 1), None]
    statuses = {"type": "array", "items": {"enum": list(STATUSES)}}
    properties = {
        "summary": {"type": "string"},
        "images": statuses | {"minItems": num_images, "maxItems": num_images},
        "ready": {"type": "boolean"},
        "guess": {"enum": numbers},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    }
    return json.dumps(
        {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    )
