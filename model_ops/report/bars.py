"""Grouped bars as SVG: a row per kind of question or variant, a bar per model, with its interval.

As in `charts`, only numbers and our own names are written into the markup, with CSS classes instead
of colours.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from model_ops.report.charts import Scale
from schemas.records import Metric

WIDTH, LABELS, RIGHT = 560, 196, 44
BAR, GAP, BETWEEN, AXIS = 11, 3, 11, 20
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


class BarRow(NamedTuple):
    """A row of the chart: its label, the figure of each model (None: not measured), and what may
    stand below the label."""

    label: str
    metrics: Sequence[Metric | None]
    note: str = ""


def bar_chart(rows: Sequence[BarRow], models: Sequence[str]) -> Markup:
    """Shares in [0, 1], row by row; *models* are CSS classes, one for each metric of a row."""
    step = len(models) * (BAR + GAP) + BETWEEN
    height = len(rows) * step + AXIS
    x = Scale(0.0, 1.0, LABELS, WIDTH - RIGHT)
    parts = [*_grid(x, height)]
    for number, row in enumerate(rows):
        parts += _row(row, models, x, number * step + BETWEEN / 2)
    body = Markup("").join(parts)
    return Markup('<svg class="barchart" viewBox="0 0 {} {}" role="img">{}</svg>').format(
        WIDTH, height, body)


def _grid(x: Scale, height: int) -> Iterator[Markup]:
    for level in LEVELS:
        at = x(level)
        yield Markup('<line class="grid" x1="{0}" x2="{0}" y1="0" y2="{1}"/>').format(
            at, height - AXIS)
        yield Markup('<text class="tick mid" x="{}" y="{}">{:.2f}</text>').format(
            at, height - 6, level)


def _row(row: BarRow, models: Sequence[str], x: Scale, top: float) -> Iterator[Markup]:
    middle = top + len(models) * (BAR + GAP) / 2 + (-2 if row.note else 3)
    yield Markup('<text class="barlabel" x="{}" y="{:.1f}">{}</text>').format(
        LABELS - 8, middle, row.label)
    yield Markup('<text class="tick end" x="{}" y="{:.1f}">{}</text>').format(
        LABELS - 8, middle + 12, row.note)
    for place, (name, metric) in enumerate(zip(models, row.metrics, strict=True)):
        yield _bar(row.label, name, metric, x, top + place * (BAR + GAP))


def _bar(label: str, name: str, metric: Metric | None, x: Scale, top: float) -> Markup:
    if metric is None:
        return Markup('<text class="tick" x="{}" y="{:.1f}">not measured</text>').format(
            x(0.0) + 3, top + BAR - 2)
    middle = top + BAR / 2
    title = f"{label}, {name}: {metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"
    end = max(x(metric.high), x(metric.value)) + 5
    return Markup(
        '<g><title>{title}, n = {n}</title>'
        '<rect class="bar {name}" x="{left}" y="{top:.1f}" width="{width:.1f}" height="{bar}"/>'
        '<line class="reach" x1="{low}" x2="{high}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
        '<text class="tick" x="{end}" y="{base:.1f}">{value:.2f}</text></g>'
    ).format(title=escape(title), n=metric.n, name=name, left=x(0.0), top=top, bar=BAR,
             width=max(x(metric.value) - x(0.0), 0.6), low=x(metric.low), high=x(metric.high),
             middle=middle, end=end, base=top + BAR - 2, value=metric.value)
