"""The gate: from two evaluations to promote or hold, with reasons in words.

Pure. Both models answered the same items, so gains are paired: the bootstrap draws items and
looks at the mean difference, which is far less noisy than the difference of two means.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.config import GatePolicy
from schemas.records import Decision, Metric

Scores = Mapping[str, Mapping[str, float]]
"""Metric -> item row id -> score."""

NUM_BOOTSTRAPS = 10_000
_CELLS = 4_000_000
_SEED = 20_25


class _Verdict(NamedTuple):
    passed: bool
    reason: str


def decide(
    candidate: Scores, champion: Scores, policy: GatePolicy, base: Scores | None = None
) -> Decision:
    """Promote iff the primary metric surely rose and no guard surely fell too far.

    Primary: the lower end of the gain's interval (policy.confidence, two-sided) must exceed
    `min_gain`, so noise alone promotes in at most (1 - confidence) / 2 of cases. Guards: the mean
    paired fall must be within its margin. A guard is judged by its point estimate, not by its
    interval: with the interval's upper end, a small benchmark could never break a guard, and with
    its lower end it could never pass one; give guards enough items for their margins. Base guards
    are the same against *base* (the champion if None). A metric that is missing, or shares no
    item, holds.
    """
    gain = paired_gain(candidate, champion, policy.primary, policy.confidence)
    verdicts = [
        _judge_primary(gain, policy),
        *_judge_guards("guard", candidate, champion, policy.guards, policy.confidence),
        *_judge_guards("base guard", candidate, base or champion, policy.base_guards,
                       policy.confidence),
    ]
    passed = all(verdict.passed for verdict in verdicts)
    return Decision(
        decision="promote" if passed else "hold",
        reasons=[verdict.reason for verdict in verdicts],
        gain=gain,
    )


def paired_gain(
    candidate: Scores, champion: Scores, metric: str, confidence: float
) -> Metric | None:
    """Mean gain over the common items with its bootstrap interval; None without common items."""
    ours, theirs = candidate.get(metric, {}), champion.get(metric, {})
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None
    gains = np.array([ours[item] - theirs[item] for item in common], dtype=np.float64)
    low, high = bootstrap_interval(gains, confidence)
    return Metric(value=float(gains.mean()), low=low, high=high, n=len(common))


def bootstrap_interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Percentile interval of the mean over seeded resamples; the same values give the same."""
    rng = np.random.default_rng(_SEED)
    rows = max(1, _CELLS // len(values))
    means = np.concatenate(
        [
            values[rng.integers(0, len(values), (min(rows, NUM_BOOTSTRAPS - start), len(values)))]
            .mean(axis=1)
            for start in range(0, NUM_BOOTSTRAPS, rows)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _judge_primary(gain: Metric | None, policy: GatePolicy) -> _Verdict:
    if gain is None:
        return _Verdict(False, f"{policy.primary} was not measured on common items")
    passed = gain.low > policy.min_gain
    change = f"{policy.primary} changed by {_points(gain.value)} {_interval(gain)}"
    bound = f"{_points(policy.min_gain)}" if policy.min_gain else "no gain"
    relation = "surely more than" if passed else "not surely more than"
    return _Verdict(passed, f"{change}: {relation} {bound}")


def _judge_guards(
    name: str, candidate: Scores, rival: Scores, margins: Mapping[str, float], confidence: float
) -> Iterator[_Verdict]:
    for metric, margin in margins.items():
        change = paired_gain(candidate, rival, metric, confidence)
        if change is None:
            yield _Verdict(False, f"{name} {metric} was not measured on common items")
            continue
        passed = change.value >= -margin
        allowed = f"a fall of {100 * margin:.1f} points is allowed"
        outcome = "kept" if passed else "broken"
        moved = f"{metric} changed by {_points(change.value)} {_interval(change)}"
        yield _Verdict(passed, f"{name} {outcome}: {moved}, {allowed}")


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"


def _interval(gain: Metric) -> str:
    return f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}] on {gain.n} items"
