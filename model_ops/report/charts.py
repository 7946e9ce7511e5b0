"""Small SVG drawings: a metric over rounds, and an interval on a common axis.

Plain strings with CSS classes instead of colours, so that the page's light and dark themes apply.
Only numbers and our own decision names are written into the markup; nothing that a model said.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from schemas.records import Metric

WIDTH, HEIGHT = 320, 176
LEFT, RIGHT, TOP, BOTTOM = 38, 14, 12, 26
STRIP_WIDTH, STRIP_HEIGHT = 240, 20
MAX_ROUND_LABELS = 9


class Point(NamedTuple):
    """A metric in one round, and what the gate made of that round."""

    round: int
    metric: Metric
    decision: str


class Rewards(NamedTuple):
    """Mean rewards of the chosen and the rejected replies of one round."""

    round: int
    chosen: float
    rejected: float


class Steps(NamedTuple):
    """A quantity over the optimizer steps of one round: (step, value), in order."""

    round: int
    points: Sequence[tuple[int, float]]


class Scale(NamedTuple):
    """A linear map from [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low or 1)
        return round(self.start + share * (self.end - self.start), 1)


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers that cover [low, high] in about *wanted* steps of 1, 2 or 5 times 10^k."""
    span = max(high - low, 1e-3)
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * wanted >= span * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(index * step, 10) for index in range(first, last + 1)]


def line_chart(points: Sequence[Point]) -> Markup:
    """A metric over rounds: line, interval band, chance line, a marker per decision."""
    bounds = [bound for p in points for bound in (p.metric.low, p.metric.high)]
    chances = [p.metric.chance for p in points if p.metric.chance is not None]
    levels = ticks(min(bounds + chances), max(bounds + chances))
    y = Scale(levels[0], levels[-1], HEIGHT - BOTTOM, TOP)
    x = _round_scale(points)
    parts = [*_grid(levels, y), *_round_labels(points, x)]
    if chances:
        parts.append(_chance_line(chances[-1], y))
    parts += [_band(points, x, y), _line(points, x, y)]
    parts += [_marker(p, x(p.round), y(p.metric.value)) for p in points]
    return _svg(WIDTH, HEIGHT, "chart", parts)


def reward_chart(rewards: Sequence[Rewards]) -> Markup:
    """Two lines over rounds: what the chosen and what the rejected replies were worth."""
    values = [value for each in rewards for value in (each.chosen, each.rejected)]
    levels = ticks(min(values), max(values))
    y, x = Scale(levels[0], levels[-1], HEIGHT - BOTTOM, TOP), _round_scale(rewards)
    parts = [*_grid(levels, y), *_round_labels(rewards, x)]
    for side in ("chosen", "rejected"):
        marks = [(each.round, getattr(each, side)) for each in rewards]
        at = " ".join(f"{x(number)},{y(value)}" for number, value in marks)
        parts.append(f'<polyline class="line {side}" points="{at}"/>')
        parts += [f"<g><title>round {number}, {side}: {value:.4f}</title>"
                  f'<circle class="dot {side}" cx="{x(number)}" cy="{y(value)}" r="4.2"/></g>'
                  for number, value in marks]
    return _svg(WIDTH, HEIGHT, "chart", parts)


def step_chart(lines: Sequence[Steps]) -> Markup:
    """A line a round over optimizer steps; the older the round, the paler its line."""
    values = [value for line in lines for _, value in line.points]
    last = max(line.points[-1][0] for line in lines)
    levels = ticks(min(values), max(values))
    y = Scale(levels[0], levels[-1], HEIGHT - BOTTOM, TOP)
    x = Scale(0, last, LEFT + 12, WIDTH - RIGHT - 12)
    ends = ((0, "step 0"), (last, str(last)))
    parts = [*_grid(levels, y), *(
        f'<text class="tick mid" x="{x(step)}" y="{HEIGHT - 8}">{label}</text>'
        for step, label in ends)]
    for age, line in enumerate(reversed(lines)):
        at = " ".join(f"{x(step)},{y(value)}" for step, value in line.points)
        opacity = max(0.25, 1 - 0.3 * age)
        parts.append(f'<g opacity="{opacity:.2f}"><title>round {line.round}</title>'
                     f'<polyline class="line" points="{at}"/></g>')
    return _svg(WIDTH, HEIGHT, "chart", parts)


def interval_strip(metric: Metric, low: float, high: float, decision: str) -> Markup:
    """One figure with its interval on the axis [low, high], which a whole column shares."""
    x = Scale(low, high, 6, STRIP_WIDTH - 6)
    middle = STRIP_HEIGHT / 2
    parts = [f'<line class="axis" x1="6" x2="{STRIP_WIDTH - 6}" y1="{middle}" y2="{middle}"/>']
    if metric.chance is not None:
        at = x(metric.chance)
        parts.append(f'<line class="chance" x1="{at}" x2="{at}" y1="1" y2="{STRIP_HEIGHT - 1}"/>')
    left, right = x(metric.low), x(metric.high)
    parts.append(
        f'<rect class="whisker" x="{left}" width="{max(right - left, 1):.1f}" y="{middle - 5}"'
        f' height="10" rx="4"/>'
    )
    parts.append(_dot(decision, x(metric.value), middle, 3.4))
    return _svg(STRIP_WIDTH, STRIP_HEIGHT, "strip", parts)


def _svg(width: int, height: int, name: str, parts: Sequence[str]) -> Markup:
    body = "".join(parts)
    return Markup(f'<svg class="{name}" viewBox="0 0 {width} {height}" role="img">{body}</svg>')


def _round_scale(points: Sequence[Point] | Sequence[Rewards]) -> Scale:
    first = points[0].round if len(points) > 1 else 0
    return Scale(first, max(points[-1].round, 1), LEFT + 12, WIDTH - RIGHT - 12)


def _grid(levels: Sequence[float], y: Scale) -> list[str]:
    digits = 2 if levels[1] - levels[0] >= 0.00999 else 3
    parts = []
    for level in levels:
        at = y(level)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        label = f"{level:.{digits}f}"
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{at + 3.5}">{label}</text>')
    return parts


def _round_labels(points: Sequence[Point] | Sequence[Rewards], x: Scale) -> list[str]:
    every = math.ceil(len(points) / MAX_ROUND_LABELS)
    at = HEIGHT - 8
    shown = points[::every]
    return [f'<text class="tick mid" x="{x(p.round)}" y="{at}">{p.round}</text>' for p in shown]


def _chance_line(chance: float, y: Scale) -> str:
    at = y(chance)
    end = WIDTH - RIGHT
    return (
        f'<line class="chance" x1="{LEFT}" x2="{end}" y1="{at}" y2="{at}"/>'
        f'<text class="tick end" x="{end}" y="{at - 4}">chance {chance:.2f}</text>'
    )


def _band(points: Sequence[Point], x: Scale, y: Scale) -> str:
    if len(points) == 1:
        at, metric = x(points[0].round), points[0].metric
        ends = f'y1="{y(metric.low)}" y2="{y(metric.high)}"'
        return f'<line class="error" x1="{at}" x2="{at}" {ends}/>'
    upper = [f"{x(p.round)},{y(p.metric.high)}" for p in points]
    lower = [f"{x(p.round)},{y(p.metric.low)}" for p in reversed(points)]
    return f'<polygon class="band" points="{" ".join(upper + lower)}"/>'


def _line(points: Sequence[Point], x: Scale, y: Scale) -> str:
    path = " ".join(f"{x(p.round)},{y(p.metric.value)}" for p in points)
    return f'<polyline class="line" points="{path}"/>'


def _marker(point: Point, x: float, y: float) -> str:
    metric = point.metric
    title = f"round {point.round}: {metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"
    return f"<g><title>{title}, n = {metric.n}</title>{_dot(point.decision, x, y)}</g>"


def _dot(decision: str, x: float, y: float, radius: float = 4.2) -> str:
    """Base: grey disc; promoted: filled; held: hollow, so that colour alone tells nothing."""
    name = decision if decision in ("base", "promote", "hold") else "base"
    return f'<circle class="dot {name}" cx="{x}" cy="{y}" r="{radius}"/>'
