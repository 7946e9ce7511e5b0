"""The gate: better, worse, equal, guard broken, few items, missing metrics."""

import math
import random

import numpy as np
import pytest

from model_ops.gate import bootstrap_interval, chance_of_gain, decide
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


@pytest.mark.slow
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


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.slow
def test_noise_alone_promotes_no_more_often_than_claimed(share: float) -> None:
    """Equals that answer all five questions about an image alike, *share* of images differently."""
    policy = GatePolicy(primary=PRIMARY)
    clusters = {f"image{n}/{q}": f"image{n}" for n in range(40) for q in range(5)}
    rng, trials = random.Random(1), 300

    def promotes() -> bool:
        won = {f"image{n}": rng.choice([0, 1]) for n in range(40) if rng.random() < share}
        ours = {item: float(won.get(image, 1)) for item, image in clusters.items()}
        theirs = {item: float(1 - won[image]) if image in won else 1.0
                  for item, image in clusters.items()}
        decision = decide({PRIMARY: ours}, {PRIMARY: theirs}, policy, clusters=clusters)
        return decision.decision == "promote"

    claimed = trials * (1 - policy.confidence) / 2
    assert sum(promotes() for _ in range(trials)) <= claimed + 2 * claimed**0.5


@pytest.mark.parametrize(("num_better", "decided"), [(4, "hold"), (5, "hold"), (6, "promote")])
def test_few_changed_items_are_judged_by_the_sign_test(num_better: int, decided: str) -> None:
    champion = {f"item{n}": 0.0 for n in range(1000)}
    better = champion | {f"item{n}": 1.0 for n in range(num_better)}
    decision = decide({PRIMARY: better}, {PRIMARY: champion}, GatePolicy(primary=PRIMARY))
    assert decision.gain is not None and decision.gain.low > 0, "the bootstrap alone is sure"
    assert decision.decision == decided
    chance = f"chance alone gains as much in {100 / 2**num_better:.1f} % of cases"
    assert decision.reasons[0].endswith(chance) == (decided == "hold")


def test_a_tolerated_fall_needs_no_gain() -> None:
    same = scores(0.6)
    policy = GatePolicy(primary=PRIMARY, min_gain=-0.01)
    assert decide({PRIMARY: same}, {PRIMARY: same}, policy).decision == "promote"


def test_questions_about_one_image_count_as_one() -> None:
    items = {f"image{n}/{q}": f"image{n}" for n in range(20) for q in range(10)}
    champion = dict.fromkeys(items, 0.0)
    better = {item: float(image in {"image1", "image2", "image3"})
              for item, image in items.items()}
    alone = decide({PRIMARY: better}, {PRIMARY: champion}, GatePolicy(primary=PRIMARY))
    assert alone.decision == "promote"
    drawn = decide({PRIMARY: better}, {PRIMARY: champion}, GatePolicy(primary=PRIMARY),
                   clusters=items)
    assert drawn.decision == "hold"
    assert alone.gain is not None and drawn.gain is not None
    assert (drawn.gain.value, drawn.gain.n) == (alone.gain.value, alone.gain.n) == (0.15, 200)
    assert drawn.gain.low < alone.gain.low


def test_chance_is_exact_for_few_and_close_for_many() -> None:
    assert chance_of_gain(np.array([])) == chance_of_gain(np.zeros(9)) == 1.0
    assert chance_of_gain(np.array([0.3, -0.1, 0.1, 0.0])) == 3 / 8
    many = np.array([1.0] * 9 + [-1.0] * 5)
    exact = sum(math.comb(14, wins) for wins in range(9, 15)) / 2**14
    assert chance_of_gain(many) == pytest.approx(exact, abs=0.015)


def test_the_interval_is_reproducible_and_narrows_with_items() -> None:
    few, many = np.array([0.0, 1.0] * 10), np.array([0.0, 1.0] * 1000)
    assert bootstrap_interval(few, 0.95) == bootstrap_interval(few, 0.95)
    low, high = bootstrap_interval(many, 0.95)
    assert low < 0.5 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 2000**0.5, rel=0.1)
    wide = bootstrap_interval(few, 0.95)
    assert wide[1] - wide[0] > 3 * (high - low)
