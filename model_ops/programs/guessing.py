"""What a Guesser is: the interface behind which the two modes stand (joint, per_image).

A Guesser keeps no state: everything it knows is in the turns, which become the transcript.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from model_ops.programs.calls import Program
from schemas.rows import Turn


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the one image that the asker was shown (None: all of them)."""

    text: str
    logprob: float
    asked_about: int | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What the Guesser makes of a turn; `guess` is None while it wants to ask on."""

    guess: int | None
    summary: str
    beliefs: tuple[float, ...] = ()
    fits: tuple[float, ...] = ()
    decision: str | None = None


class Guesser(Protocol):
    """Sees every image, never the target's position. Steps raise `Unparseable` to give up."""

    def ask(self, turns: Sequence[Turn]) -> Program[Question]:
        """The next question after *turns*."""
        ...

    def decide(self, turns: Sequence[Turn]) -> Program[Decision]:
        """What to make of the dialog whose last turn was just answered."""
        ...

    def guess(self, turns: Sequence[Turn]) -> Program[int]:
        """The forced guess at the turn limit."""
        ...

    def rotation_pass(self, turns: Sequence[Turn], target: int) -> Program[float]:
        """Share of the N-1 other image orders in which the same dialog leads to *target*."""
        ...

    def blind_pass(self, target: int) -> Program[float]:
        """Share of the N image orders in which *target* is guessed without any dialog."""
        ...


def rotation(num_images: int, shift: int) -> list[int]:
    """Which image (from 0) stands at each position when the order is rotated by *shift*."""
    return [(position + shift) % num_images for position in range(num_images)]
