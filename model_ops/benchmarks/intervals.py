"""A mean over items with its interval: Wilson's for shares, a seeded bootstrap for other scores.

A ratio of sums (a micro average) is bootstrapped over what was drawn: images or descriptions.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_ops.gate import bootstrap_interval
from schemas.records import Metric

CONFIDENCE = 0.95
_Z = 1.959963984540054
_NUM_BOOTSTRAPS = 10_000
_CELLS = 4_000_000
_SEED = 14_622


def metric_of(scores: Sequence[float], chance: float | None = None) -> Metric:
    """Mean with its interval: Wilson's for 0/1 scores, a seeded bootstrap's for others.

    Both take the scores for independent: of several questions about an image they are too narrow
    (the gate draws images instead).
    """
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


def resampled_sums(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Column sums of *counts* (units, columns): the observed ones first, then those of 10,000
    seeded resamples of the units; (1 + resamples, columns)."""
    rng = np.random.default_rng(_SEED)
    num = len(counts)
    rows = max(1, _CELLS // counts.size)
    drawn = [counts[rng.integers(0, num, (min(rows, _NUM_BOOTSTRAPS - start), num))].sum(axis=1)
             for start in range(0, _NUM_BOOTSTRAPS, rows)]
    return np.concatenate([counts.sum(axis=0, keepdims=True), *drawn])


def ratio_metric(
    part: NDArray[np.float64], whole: NDArray[np.float64], n: int, chance: float | None = None
) -> Metric:
    """part / whole of `resampled_sums`' columns, with the resamples' interval; nothing of nothing
    is 0."""
    values = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    low, high = np.quantile(values[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Metric(value=float(values[0]), low=float(low), high=float(high), n=n, chance=chance)
