"""PIE's metrics: the specification's test vector, intervals, what is lost, what a gate pairs."""

import pytest

from model_ops.benchmarks.pie_summary import (
    LOST,
    UNJUDGED,
    Counts,
    Judged,
    aar_metrics,
    count_labels,
    pie_metrics,
    pie_scores,
)
from schemas.config import BenchmarkConfig, ImagesConfig
from schemas.questions import ODD_TYPES

VECTOR = dict(zip(ODD_TYPES, (Counts(8, 0, 10), Counts(6, 0, 10), Counts(2, 3, 10),
                              Counts(1, 5, 10), Counts(4, 2, 10), Counts(5, 0, 10)), strict=True))
"""(True, Ambiguous, total) of methods/contrastive_macaroon.md, section 2."""


def items_of(counts: dict[str, Counts]) -> list[Judged]:
    return [
        Judged(f"{kind}/{number}", kind, label)
        for kind, (true, ambiguous, total) in counts.items()
        for number, label in enumerate(
            ["True"] * true + ["Ambiguous"] * ambiguous + ["False"] * (total - true - ambiguous))
    ]


@pytest.mark.parametrize(("name", "value"), [
    ("aar", 0.4333), ("aar_macro", 0.4333), ("aar_tier", 0.4778),
    ("aar_soft", 0.5167), ("aar_macro_soft", 0.5167), ("aar_tier_soft", 0.5333),
    ("false_premise", 0.8), ("subjective_interpretations", 0.1),
])
def test_the_test_vector_of_the_specification(name: str, value: float) -> None:
    items = items_of(VECTOR)
    assert count_labels(items) == VECTOR
    assert pie_metrics("field/pie", items)[f"field/pie_{name}"].value == pytest.approx(
        value, abs=5e-5)


def test_unequal_kinds_weigh_by_items_in_micro_and_alike_in_macro() -> None:
    counts = {"False Premise": Counts(30, 0, 30), "Subject Ambiguity": Counts(0, 10, 10)}
    metrics = aar_metrics("p", counts)
    assert metrics["p_aar"].value == pytest.approx(0.75)
    assert metrics["p_aar_macro"].value == metrics["p_aar_tier"].value == pytest.approx(0.5)
    assert metrics["p_aar_soft"].value == pytest.approx(35 / 40)
    assert metrics["p_aar"].n == 40


def test_intervals_are_seeded_and_shrink_with_the_items() -> None:
    small, again = aar_metrics("p", VECTOR), aar_metrics("p", VECTOR)
    large = aar_metrics("p", {kind: Counts(*(14 * n for n in each))
                              for kind, each in VECTOR.items()})
    assert small == again
    for name, metric in small.items():
        assert metric.low < metric.value < metric.high
        assert large[name].high - large[name].low < (metric.high - metric.low) / 3
    assert large["p_aar"].high - large["p_aar"].low == pytest.approx(0.06, abs=0.015)


def test_the_over_ask_rate_is_what_is_not_simply_answered() -> None:
    items = [Judged(str(n), "Clear", label) for n, label in enumerate(
        ["True"] * 16 + ["False", "Ambiguous", "ParseError", LOST])]
    metrics = pie_metrics("field/pie", items)
    clear, over = metrics["field/pie_clear"], metrics["field/pie_overask"]
    assert (clear.value, over.value, over.n) == (0.8, pytest.approx(0.2), 20)
    assert (over.low, over.high) == pytest.approx((1 - clear.high, 1 - clear.low))
    assert not any("aar" in name for name in metrics)


def test_what_is_lost_or_unreadable_is_not_engaged() -> None:
    labels = ["True", "ParseError", LOST, "Ambiguous"]
    items = [Judged(str(n), "Subject Ambiguity", label, "vlm") for n, label in enumerate(labels)]
    metrics = pie_metrics("p", items)
    assert metrics["p_aar"].value == 0.25 and metrics["p_aar_soft"].value == 0.375
    assert metrics["p_parse_error"].value == pytest.approx(1 / 3)
    assert "p_parse_error" not in pie_metrics("p", [item._replace(judge="rules")
                                                    for item in items])
    assert "p_overask" not in metrics and "p_false_premise" not in metrics


def test_a_reply_without_a_verdict_says_nothing_about_the_model() -> None:
    labels = ["True", UNJUDGED, "False", UNJUDGED]
    items = [Judged(str(n), "False Premise", label, "endpoint") for n, label in enumerate(labels)]
    metrics = pie_metrics("p", items)
    assert (metrics["p_aar"].value, metrics["p_aar"].n) == (0.5, 2)
    assert (metrics["p_unjudged"].value, metrics["p_unjudged"].n) == (0.5, 4)
    assert pie_scores("p", items)["p_aar"] == {"0": 1.0, "2": 0.0}
    assert set(pie_metrics("p", items[1:2])) == {"p_unjudged"}
    assert "p_unjudged" not in pie_metrics("p", items[::2])


def test_a_gate_pairs_item_by_item() -> None:
    items = [*items_of(VECTOR), Judged("c", "Clear", "True"), Judged("d", "Clear", LOST)]
    scores = pie_scores("field/pie", items)
    measured = BenchmarkConfig(kind="pie", images=ImagesConfig(limit=8))
    assert set(scores) == set(measured.gate_metrics) == {
        "field/pie_aar", "field/pie_aar_soft", "field/pie_clear", "field/pie_false_premise",
        "field/pie_unanswerable_questions", "field/pie_subject_ambiguity",
        "field/pie_subjective_interpretations", "field/pie_unclear_user_background",
        "field/pie_hidden_human_preferences"}
    assert scores["field/pie_clear"] == {"c": 1.0, "d": 0.0}
    assert len(scores["field/pie_aar"]) == 60 and sum(scores["field/pie_aar"].values()) == 26
    assert sum(scores["field/pie_aar_soft"].values()) == 31
