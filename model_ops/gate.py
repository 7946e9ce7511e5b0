"""The gate: from two evaluations to promote or hold, with reasons in words.

Pure. Both models answered the same items, so gains are paired: the bootstrap draws items and
looks at the mean difference, which is far less noisy than the difference of two means. What is
drawn are clusters: several questions about one image are right or wrong together.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.config import GatePolicy
from schemas.records import Decision, Metric

Scores = Mapping[str, Mapping[str, float]]
"""Metric -> item row id -> score."""
Clusters = Mapping[str, str]
"""Item row id -> what the item is about; an item that is not in it is a cluster of its own."""

NUM_BOOTSTRAPS = 10_000
_CELLS = 4_000_000
_SEED = 20_25
_MAX_ENUMERATED = 13
_DIGITS = 9
_ALONE: Clusters = MappingProxyType({})


class _Verdict(NamedTuple):
    passed: bool
    reason: str


class _Gains(NamedTuple):
    """Gains over the common items, summed within each cluster, and how many items these are."""

    sums: NDArray[np.float64]
    sizes: NDArray[np.int64]


def decide(
    candidate: Scores, champion: Scores, policy: GatePolicy, base: Scores | None = None,
    clusters: Clusters = _ALONE,
) -> Decision:
    """Promote iff the primary metric surely rose and no guard surely fell too far.

    Primary: the lower end of the gain's interval (policy.confidence, two-sided) must exceed
    `min_gain`. Of few changed clusters the bootstrap alone is too sure, so an exact test must agree
    (`chance_of_gain`; not if `min_gain` allows a fall): where clusters are independent, noise alone
    promotes in at most (1 - confidence) / 2 of cases. Guards: the mean paired fall must be within
    its margin. A guard is judged by its point estimate, not by its interval: with the interval's
    upper end, a small benchmark could never break a guard, and with its lower end it could never
    pass one; give guards enough items for their margins. Base guards are the same against *base*
    (the champion if None). A metric that is missing, or shares no item, holds.
    """
    gains = _gains(candidate, champion, policy.primary, clusters)
    gain = None if gains is None else _metric(gains, policy.confidence)
    chance = 1.0 if gains is None else chance_of_gain(gains.sums)
    verdicts = [
        _judge_primary(gain, chance, policy),
        *_judge_guards("guard", policy.guards, policy.confidence, candidate, champion, clusters),
        *_judge_guards("base guard", policy.base_guards, policy.confidence, candidate,
                       base or champion, clusters),
    ]
    passed = all(verdict.passed for verdict in verdicts)
    return Decision(
        decision="promote" if passed else "hold",
        reasons=[verdict.reason for verdict in verdicts],
        gain=gain,
    )


def _gains(ours: Scores, theirs: Scores, metric: str, clusters: Clusters) -> _Gains | None:
    """Paired gains over the common items; None without any."""
    mine, other = ours.get(metric, {}), theirs.get(metric, {})
    common = sorted(mine.keys() & other.keys())
    if not common:
        return None
    gains = np.array([mine[item] - other[item] for item in common], dtype=np.float64)
    _, index = np.unique([clusters.get(item, item) for item in common], return_inverse=True)
    return _Gains(np.bincount(index, weights=gains).astype(np.float64), np.bincount(index))


def _metric(gains: _Gains, confidence: float) -> Metric:
    """Mean gain per item with its bootstrap interval."""
    num_items = int(gains.sizes.sum())
    low, high = bootstrap_interval(gains.sums, confidence, gains.sizes)
    return Metric(value=float(gains.sums.sum() / num_items), low=low, high=high, n=num_items)


def bootstrap_interval(
    values: NDArray[np.float64], confidence: float, sizes: NDArray[np.int64] | None = None
) -> tuple[float, float]:
    """Percentile interval of the mean over seeded resamples; the same values give the same.

    With *sizes* the values are sums over so many items, and the mean is that over items.
    """
    rng = np.random.default_rng(_SEED)
    rows = max(1, _CELLS // len(values))
    means: list[NDArray[np.float64]] = []
    for start in range(0, NUM_BOOTSTRAPS, rows):
        drawn = rng.integers(0, len(values), (min(rows, NUM_BOOTSTRAPS - start), len(values)))
        num_items = len(values) if sizes is None else sizes[drawn].sum(axis=1)
        means.append(values[drawn].sum(axis=1) / num_items)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def chance_of_gain(sums: NDArray[np.float64]) -> float:
    """How often chance alone gains as much: the one-sided sign-flip test of the clusters' gains.

    Between models that are equally good each gain could as well be a loss. Of few changed clusters
    all patterns of signs are counted (of 0/1 items alone: the sign test), of many 10,000 seeded
    ones and the observed one: p or less is given in at most a share p of such cases.
    """
    changed = np.round(sums, _DIGITS)
    changed = changed[changed != 0]
    observed, num = changed.sum() - 10.0 ** (3 - _DIGITS), len(changed)
    if num <= _MAX_ENUMERATED:
        signs = 1 - 2 * (np.arange(2**num)[:, None] >> np.arange(num) & 1)
        return float(np.mean(signs @ np.abs(changed) >= observed))
    rng = np.random.default_rng(_SEED)
    totals = np.zeros(NUM_BOOTSTRAPS)
    for amount, count in zip(*np.unique(np.abs(changed), return_counts=True), strict=True):
        totals += amount * (2 * rng.binomial(count, 0.5, NUM_BOOTSTRAPS) - count)
    return float((1 + np.sum(totals >= observed)) / (1 + NUM_BOOTSTRAPS))


def _judge_primary(gain: Metric | None, chance: float, policy: GatePolicy) -> _Verdict:
    if gain is None:
        return _Verdict(False, f"{policy.primary} was not measured on common items")
    exceeds = gain.low > policy.min_gain
    is_sure = policy.min_gain < 0 or chance <= (1 - policy.confidence) / 2
    change = f"{policy.primary} changed by {_points(gain.value)} {_interval(gain)}"
    bound = f"{_points(policy.min_gain)}" if policy.min_gain else "no gain"
    relation = "surely more than" if exceeds and is_sure else "not surely more than"
    doubt = f", chance alone gains as much in {100 * chance:.1f} % of cases"
    return _Verdict(exceeds and is_sure,
                    f"{change}: {relation} {bound}{doubt if exceeds and not is_sure else ''}")


def _judge_guards(
    name: str, margins: Mapping[str, float], confidence: float, candidate: Scores, rival: Scores,
    clusters: Clusters,
) -> Iterator[_Verdict]:
    for metric, margin in margins.items():
        gains = _gains(candidate, rival, metric, clusters)
        if gains is None:
            yield _Verdict(False, f"{name} {metric} was not measured on common items")
            continue
        change = _metric(gains, confidence)
        passed = change.value >= -margin
        allowed = f"a fall of {100 * margin:.1f} points is allowed"
        outcome = "kept" if passed else "broken"
        moved = f"{metric} changed by {_points(change.value)} {_interval(change)}"
        yield _Verdict(passed, f"{name} {outcome}: {moved}, {allowed}")


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"


def _interval(gain: Metric) -> str:
    return f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}] on {gain.n} items"
