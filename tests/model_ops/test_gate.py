"""The gate: better, worse, equal, guard broken, few items, missing metrics."""

import random

import pytest

from model_ops.gate import bootstrap_interval, decide
from schemas.config import GatePolicy

PRIMARY = "field/game4_success"
GUARD = "home/vqa"
POLICY = GatePolicy(primary=PRIMARY, guards={GUARD: 0.01})


def scores(rate: float, num: int = 1000, seed: int = 0) -> dict[str, float]:
    """0/1 scores of items that two models share; a higher rate wins a superset of items."""
    rng = random.Random(seed)
    return {f"item{n}": float(rng.random() < rate) for n in range(num)}


def test_a_clear_gain_promotes_and_says_how_much() -> None:
    decision = decide(
        {PRIMARY: scores(0.7), GUARD: scores(0.8)},
        {PRIMARY: scores(0.6), GUARD: scores(0.8)},
        POLICY,
    )
    assert decision.decision == "promote"
    assert decision.gain is not None
    assert 0 < decision.gain.low < decision.gain.value < decision.gain.high
    assert decision.gain.value == pytest.approx(0.1, abs=0.02)
    assert "surely more than no gain" in decision.reasons[0]
    assert "points" in decision.reasons[0]
    assert "on 1000 items" in decision.reasons[0]
    assert decision.reasons[1].startswith("guard kept: home/vqa changed by +0.0 points")


def test_small_falls_may_not_add_up_below_the_base() -> None:
    policy = GatePolicy(primary=PRIMARY, guards={GUARD: 0.01}, base_guards={GUARD: 0.01})
    base, champion, candidate = ({PRIMARY: scores(won), GUARD: scores(kept, 4000)}
                                 for won, kept in ((0.5, 0.90), (0.6, 0.892), (0.7, 0.884)))
    assert decide(champion, base, policy, base).decision == "promote"
    held = decide(candidate, champion, policy, base)
    assert held.decision == "hold"
    assert held.reasons[1].startswith("guard kept: home/vqa")
    assert held.reasons[2].startswith("base guard broken: home/vqa")


@pytest.mark.parametrize("rate", [0.6, 0.5], ids=["equal", "worse"])
def test_no_gain_holds(rate: float) -> None:
    decision = decide({PRIMARY: scores(rate)}, {PRIMARY: scores(0.6)}, GatePolicy(primary=PRIMARY))
    assert decision.decision == "hold"
    assert "not surely more than" in decision.reasons[0]


def test_a_gain_on_few_items_is_not_sure() -> None:
    candidate, champion = scores(0.75, 20), scores(0.7, 20)
    decision = decide({PRIMARY: candidate}, {PRIMARY: champion}, GatePolicy(primary=PRIMARY))
    assert decision.decision == "hold"


def test_a_gain_below_the_wanted_one_holds() -> None:
    policy = GatePolicy(primary=PRIMARY, min_gain=0.2)
    decision = decide({PRIMARY: scores(0.7)}, {PRIMARY: scores(0.6)}, policy)
    assert decision.decision == "hold"
    assert "not surely more than +20.0 points" in decision.reasons[0]


def test_a_broken_guard_holds_in_spite_of_a_gain() -> None:
    decision = decide(
        {PRIMARY: scores(0.7), GUARD: scores(0.75)},
        {PRIMARY: scores(0.6), GUARD: scores(0.80)},
        POLICY,
    )
    assert decision.decision == "hold"
    assert decision.reasons[1].startswith("guard broken: home/vqa changed by -")
    assert "a fall of 1.0 points is allowed" in decision.reasons[1]


def test_a_small_fall_within_the_margin_is_tolerated() -> None:
    champion = scores(0.8)
    fallen = [item for item, score in champion.items() if score][:8]
    candidate = champion | dict.fromkeys(fallen, 0.0)
    decision = decide(
        {PRIMARY: scores(0.7), GUARD: candidate}, {PRIMARY: scores(0.6), GUARD: champion}, POLICY
    )
    assert decision.decision == "promote"


def test_a_missing_metric_holds_with_its_name() -> None:
    decision = decide({GUARD: scores(0.8)}, {GUARD: scores(0.8)}, POLICY)
    assert decision.decision == "hold"
    assert decision.gain is None
    assert decision.reasons[0] == f"{PRIMARY} was not measured on common items"
    decision = decide({PRIMARY: scores(0.7)}, {PRIMARY: scores(0.6)}, POLICY)
    assert decision.decision == "hold"
    assert decision.reasons[1] == f"guard {GUARD} was not measured on common items"


def test_only_common_items_are_paired() -> None:
    candidate = scores(0.9) | {"new": 1.0}
    champion = {f"item{n}": score for n, score in enumerate(scores(0.5).values()) if n < 500}
    decision = decide({PRIMARY: candidate}, {PRIMARY: champion}, GatePolicy(primary=PRIMARY))
    assert decision.gain is not None
    assert decision.gain.n == 500
    strangers = {f"other{n}": 1.0 for n in range(9)}
    assert decide({PRIMARY: strangers}, {PRIMARY: champion}, POLICY).gain is None


def test_noise_alone_rarely_promotes() -> None:
    policy = GatePolicy(primary=PRIMARY)
    promoted = sum(
        decide({PRIMARY: scores(0.5, 200, seed)}, {PRIMARY: scores(0.5, 200, 1000 + seed)}, policy)
        .decision == "promote"
        for seed in range(40)
    )
    assert promoted <= 4


def test_the_interval_is_reproducible_and_narrows_with_items() -> None:
    import numpy as np

    few, many = np.array([0.0, 1.0] * 10), np.array([0.0, 1.0] * 1000)
    assert bootstrap_interval(few, 0.95) == bootstrap_interval(few, 0.95)
    low, high = bootstrap_interval(many, 0.95)
    assert low < 0.5 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 2000**0.5, rel=0.1)
    wide = bootstrap_interval(few, 0.95)
    assert wide[1] - wide[0] > 3 * (high - low)
