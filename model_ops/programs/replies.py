"""From a model's text to something typed, or None where the text cannot be used.

Models wrap JSON in prose and fences; nothing here trusts a reply. What to do about an unusable
one (ask again, give up) is the programs' decision.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from model_ops.programs.calls import Reply

STATUSES = ("fits", "ruled out", "unsure")
"""What a joint Guesser may say about an image."""


class Unparseable(Exception):
    """A reply could not be used, twice: the game ends here."""


@dataclass(frozen=True, slots=True)
class JointDecision:
    """A joint Guesser's decision after a turn; `guess` counts from 0."""

    summary: str
    statuses: tuple[str, ...]
    ready: bool
    guess: int | None
    confidence: float

    def as_json(self) -> str:
        """The decision in the form in which the model is asked for it."""
        return json.dumps(
            {
                "summary": self.summary,
                "images": list(self.statuses),
                "ready": self.ready,
                "guess": None if self.guess is None else self.guess + 1,
                "confidence": self.confidence,
            },
            ensure_ascii=False,
        )


def normalise(text: str) -> str:
    """Lower case, no punctuation, single spaces: how short answers are compared."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def parse_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in *text*."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def parse_line(text: str) -> str | None:
    """The text on one line."""
    return " ".join(text.split()) or None


def parse_question(text: str) -> str | None:
    """The question of a joint Guesser's reply, `{"question": ...}`."""
    found = parse_object(text)
    question = found.get("question") if found else None
    return parse_line(question) if isinstance(question, str) else None


def question_json(question: str) -> str:
    """The reply that `parse_question` reads."""
    return json.dumps({"question": question}, ensure_ascii=False)


def parse_decision(text: str, num_images: int) -> JointDecision | None:
    """The decision in a joint Guesser's reply; None unless every field is there and in range."""
    found = parse_object(text)
    if found is None:
        return None
    summary, ready, guess = found.get("summary"), found.get("ready"), found.get("guess")
    statuses, confidence = found.get("images"), found.get("confidence")
    in_range = guess is None or (type(guess) is int and 1 <= guess <= num_images)
    if not (
        isinstance(summary, str)
        and isinstance(ready, bool)
        and in_range
        and isinstance(statuses, list)
        and len(statuses) == num_images
        and all(status in STATUSES for status in statuses)
        and isinstance(confidence, int | float)
        and 0 <= confidence <= 1
    ):
        return None
    position = None if guess is None else guess - 1
    return JointDecision(parse_line(summary) or "", tuple(statuses), ready, position, confidence)


def parse_position(text: str, num_images: int) -> int | None:
    """The image (from 0) named by a reply that is a number "1".."N"."""
    found = re.fullmatch(r"\D*(\d{1,3})\D*", text)
    position = int(found[1]) - 1 if found else -1
    return position if 0 <= position < num_images else None


def yes_probability(reply: Reply) -> float | None:
    """P(yes) of a call with choices ("yes", "no"); by its text where the engine gives none."""
    probs = reply.samples[0].choice_probs
    if probs is not None:
        return probs[0]
    said = normalise(reply.text)
    return {"yes": 1.0, "no": 0.0}.get(said)
