"""A mean over items with its interval: Wilson's for shares, a seeded bootstrap for other scores."""

import math
from collections.abc import Sequence

import numpy as np

from model_ops.gate import bootstrap_interval
from schemas.records import Metric

CONFIDENCE = 0.95
_Z = 1.959963984540054


def metric_of(scores: Sequence[float], chance: float | None = None) -> Metric:
    """Mean with its interval: Wilson's for 0/1 scores, a seeded bootstrap's for others."""
    value = math.fsum(scores) / len(scores)
    if all(score in (0.0, 1.0) for score in scores):
        low, high = wilson_interval(int(sum(scores)), len(scores))
    else:
        low, high = bootstrap_interval(np.array(scores), CONFIDENCE)
    return Metric(value=value, low=low, high=high, n=len(scores), chance=chance)


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (E. B. Wilson 1927)."""
    share = hits / n
    spread = 1 + _Z**2 / n
    centre = (share + _Z**2 / (2 * n)) / spread
    half = _Z / spread * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
