"""What a candidate is measured with, and when it becomes the champion."""

from typing import Literal

from pydantic import Field, model_validator

from schemas.config.base import Config, ImagesConfig
from schemas.config.dialog import DialogPlayConfig, GroupingConfig, check_turn_limit


class BenchmarkConfig(Config):
    """One benchmark."""

    kind: Literal["game", "vqa"]
    """`game`: held-out games; `vqa`: questions with known answers."""
    images: ImagesConfig
    """Held-out images. An image that a training game used is refused."""
    domain: str = "field"
    """Prefix of the metric names."""
    num_items: int = Field(default=1000, ge=1)
    """Games or questions."""
    num_images: int = Field(default=4, ge=2)
    """`game`: images per game."""
    questions_uri: str | None = None
    """`vqa` on real images: a JSONL or Parquet file of `image` (path as in `images`), `question`,
    `answers` and perhaps `kind`; scored by VQA-accuracy. Without it the images must be the
    nursery's, whose questions are made from facts and scored by exact match."""
    play: DialogPlayConfig = DialogPlayConfig(rotations=True, blind=False, reasks=0,
                                              counterfactual=False)
    """`game`: the rules."""
    grouping: GroupingConfig = GroupingConfig()
    """`game`: how images become games."""
    cross_play: bool = False
    """`game`: the candidate describes, the champion guesses: gains that vanish with an older
    partner are a private code. The metric is `<domain>/game<N>_crossplay`."""

    @property
    def slug(self) -> str:
        """Name of the benchmark's folder, for example `field-game4`."""
        size = str(self.num_images) if self.kind == "game" else ""
        cross = "-cross" if self.cross_play else ""
        return f"{self.domain}-{self.kind}{size}{cross}"

    @model_validator(mode="after")
    def _has_a_turn_limit(self) -> "BenchmarkConfig":
        if self.kind == "game":
            check_turn_limit(self.play, self.num_images)
        return self


class EvaluationConfig(Config):
    """What every candidate is measured with."""

    benchmarks: list[BenchmarkConfig] = []
    """The benchmarks; the seeds are fixed, so that two evaluations pair item by item."""
    seed: int = 20_000
    """Seed of the items."""

    @model_validator(mode="after")
    def _names_differ(self) -> "EvaluationConfig":
        slugs = [benchmark.slug for benchmark in self.benchmarks]
        if twice := {slug for slug in slugs if slugs.count(slug) > 1}:
            raise ValueError(f"two benchmarks are called {', '.join(sorted(twice))}: give them "
                             f"different `domain`s")
        return self


class GatePolicy(Config):
    """When a candidate becomes the champion."""

    primary: str = "field/game4_success"
    """The metric that must rise."""
    min_gain: float = 0.0
    """The lower end of the paired bootstrap interval of the gain must exceed this."""
    guards: dict[str, float] = {}
    """Metric -> the largest fall below the champion that is tolerated (a fraction: 0.01 is one
    point)."""
    base_guards: dict[str, float] = {}
    """The same against the base (round 0): what all rounds together may cost. Small falls that
    `guards` allows would add up."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of the intervals."""
