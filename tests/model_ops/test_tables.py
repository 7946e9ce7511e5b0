"""Tables of rounds: what they show of many figures, and which of them should fall."""

from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from model_ops.pie_names import PieName, is_headline, is_of_variant, parse_name
from model_ops.tables import (
    evaluation_rows,
    metrics_table,
    round_table,
    rounds_markdown,
    rounds_table,
)
from schemas.records import Champion, Evaluation, Metric, RoundRecord

FIGURES = {"field/pie_aar": 0.8, "field/pie_aar_tier": 0.7, "field/pie_overask": 0.02,
           "field/pie-bad_aar": 0.1, "field/pie-bad_false_premise": 0.2, "field/vqa": 0.9}


def record(number: int) -> RoundRecord:
    metrics = {name: Metric(value=value, low=value - 0.01, high=value + 0.01, n=100)
               for name, value in FIGURES.items()}
    measured = Evaluation(model_digest="m", metrics=metrics, items={}, inputs_digest="")
    return RoundRecord(round=number, model=f"model{number}", model_prefix="p", trained_from=None,
                       decision="promote" if number else "base", reasons=[], evaluation=measured)


CHAMPION = Champion(digest="model1", prefix="p", round=1, decision="promote")


def drawn(table: Table) -> str:
    buffer = StringIO()
    Console(file=buffer, width=140).print(table)
    return buffer.getvalue()


@pytest.mark.parametrize("table", [
    round_table(record(1), record(0), record(0)), rounds_table([record(0), record(1)], CHAMPION)])
def test_a_round_says_which_figure_should_fall_and_leaves_details_out(table: Table) -> None:
    text = drawn(table)
    assert "field/pie_overask ↓" in text and "↓ lower is better" in text
    assert "field/pie-bad_aar" in text and "field/pie-bad_false_premise" not in text
    assert "2 more figures are in the report" in text
    assert "field/vqa ↓" not in text


def test_a_model_by_itself_is_shown_whole() -> None:
    text = drawn(metrics_table("model", record(0).evaluation))
    assert all(name in text for name in FIGURES) and "more figures" not in text
    assert "↓ lower is better" in text


def test_rows_of_the_ui_hold_every_figure() -> None:
    rows = evaluation_rows(record(1), record(0), record(0))
    assert len(rows) == len(FIGURES)
    assert "field/pie_overask (lower is better)" in [row["metric"] for row in rows]
    [head, *_] = rounds_markdown([record(0), record(1)], CHAMPION).splitlines()
    assert "field/pie_overask ↓" in head and "pie-bad_false_premise" not in head


def test_without_such_figures_nothing_is_marked() -> None:
    plain = record(0).evaluation.model_copy(update={
        "metrics": {"field/vqa": record(0).evaluation.metrics["field/vqa"]}})
    assert "↓" not in drawn(metrics_table("model", plain))


@pytest.mark.parametrize(("metric", "parts"), [
    ("field/pie_aar", ("field", "", "aar")),
    ("my/photos/pie-none-prompted_subject_ambiguity",
     ("my/photos", "none-prompted", "subject_ambiguity")),
    ("field/pie-very_bad_aar_soft", ("field", "very_bad", "aar_soft")),
    ("field/pie-Good2_false_premise", ("field", "Good2", "false_premise")),
    ("field/vqa", None), ("field/game4_success", None), ("pie_aar", None)])
def test_names_of_pie_are_taken_apart(metric: str, parts: tuple[str, str, str] | None) -> None:
    name = parse_name(metric)
    assert name == (PieName(*parts) if parts else None)
    assert name is None or name.metric == metric


def test_headlines_of_pie_are_its_average_and_the_over_ask_rate() -> None:
    assert [name for name in FIGURES if is_headline(name)] == [
        "field/pie_aar", "field/pie_overask", "field/pie-bad_aar", "field/vqa"]
    assert [name for name in FIGURES if is_of_variant(name)] == [
        "field/pie-bad_aar", "field/pie-bad_false_premise"]
