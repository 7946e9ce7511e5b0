"""The small JSON records of a run: metrics, evaluations, decisions, rounds, the champion."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

LOWER_IS_BETTER = ("_overask", "_parse_error", "/chair_s", "/chair_i")
"""How the metrics end that fall when a model gets better."""
WORD_COUNT = "_words"
"""How the metrics end that are numbers of words, not shares."""


def is_lower_better(metric: str) -> bool:
    """Whether the metric of this name falls when a model gets better."""
    return metric.endswith(LOWER_IS_BETTER)


def is_word_count(metric: str) -> bool:
    """Whether the metric of this name is a number of words."""
    return metric.endswith(WORD_COUNT)


class Record(BaseModel):
    """Base of all records: frozen and closed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Metric(Record):
    """A mean over items with its confidence interval; all in [0, 1] unless the name says else."""

    value: float
    low: float
    high: float
    n: int
    chance: float | None = None
    """What a uniform guesser gets (games: 1/N)."""


class Evaluation(Record):
    """What one model scored. `items` are the prefixes of the per-item Parquet artifacts."""

    model_digest: str
    metrics: dict[str, Metric]
    items: dict[str, str]
    inputs_digest: str


class Decision(Record):
    """What the gate said, with its reasons in words."""

    decision: Literal["promote", "hold"]
    reasons: list[str]
    gain: Metric | None = None
    """The paired gain of the primary metric."""


class StageRecord(Record):
    """One finished stage of a round: prefixes and digests of what it made."""

    name: str
    method: str
    artifacts: dict[str, str]
    """Artifact (games, transcripts, train, model) -> prefix; its manifest is there."""
    funnel: dict[str, int]
    seconds: dict[str, float]
    """Step -> wall-clock seconds of the run that made it."""
    tokens_per_second: float
    model_digest: str


class Champion(Record):
    """`champion.json`: the pointer to the model in use; changed last, by compare-and-swap."""

    digest: str
    prefix: str
    round: int
    decision: str
    history: list[str] = []
    """Digests of all champions so far, oldest first."""


class RoundRecord(Record):
    """`round.json`: one round from start model to decision. Round 0 is the base."""

    round: int
    model: str
    """Digest of the candidate that was evaluated."""
    model_prefix: str
    trained_from: str | None
    """Digest of the model that training started from."""
    incumbent: Champion | None = None
    """The champion that the candidate had to beat."""
    decision: Literal["base", "promote", "hold"]
    reasons: list[str]
    gain: Metric | None = None
    stages: list[StageRecord] = []
    evaluation: Evaluation
    funnel: dict[str, int] = {}
    seconds: dict[str, float] = {}
    tokens_per_second: float = 0.0
    config_digest: str = ""
    """The configuration that shaped it; a later run with another one keeps it and says so."""
    finished_at: str = ""
