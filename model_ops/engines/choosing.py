"""Choosing between texts by their tokens: exact, without a grammar, for any tokenizer.

Its one idea: texts differ at few tokens. What all of them start with is put into the prompt, the
model decides one token among those at which they differ, and only if several texts share the
decided token it is asked again, further on. Yes or no, or one of N, is then a single token.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Tokens = tuple[int, ...]


@dataclass(slots=True)
class Choosing:
    """A choice in progress between token *sequences* (each ended by EOS, so none is a prefix of
    another). `probs` sum to 1: choices that were never told apart share their mass equally."""

    sequences: Sequence[Tokens]
    alive: list[int] = field(default_factory=list)
    probs: list[float] = field(default_factory=list)
    depth: int = 0

    def __post_init__(self) -> None:
        self.alive = list(range(len(self.sequences)))
        self.probs = [1 / len(self.sequences)] * len(self.sequences)
        self._advance()

    @property
    def forced(self) -> Tokens:
        """Tokens that are settled, and go into the prompt."""
        return self.sequences[self.alive[0]][:self.depth]

    @property
    def deciding(self) -> list[int]:
        """The tokens among which the model has to decide now, each once."""
        return sorted({self.sequences[i][self.depth] for i in self.alive})

    @property
    def chosen(self) -> int | None:
        """The choice's index once it is settled."""
        return self.alive[0] if len(self.alive) == 1 else None

    def decide(self, token: int, logprobs: Mapping[int, float]) -> None:
        """The model chose *token*; *logprobs* are those of the `deciding` tokens."""
        mass = sum(self.probs[i] for i in self.alive)
        weights = {t: math.exp(logprobs.get(t, -math.inf)) for t in self.deciding}
        total = sum(weights.values()) or 1.0
        of_token = {t: [i for i in self.alive if self.sequences[i][self.depth] == t]
                    for t in weights}
        for t, members in of_token.items():
            for i in members:
                self.probs[i] = mass * weights[t] / total / len(members)
        self.alive = of_token[token]
        self._advance()

    def _advance(self) -> None:
        while len(self.alive) > 1 and len(self.deciding) == 1:
            self.depth += 1
