"""Puts the page together: records and samples in, one self-contained HTML file out.

Jinja2 escapes everything that is not a drawing of ours, and the page's content security policy
forbids scripts and foreign requests, so that text written by a model stays text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from model_ops.pie_names import is_headline, is_of_variant, parse_name
from model_ops.report import wording
from model_ops.report.charts import Point, interval_strip, line_chart
from model_ops.report.engagement import pie_views
from model_ops.report.history import History, read_history
from model_ops.report.learning import training_curves
from model_ops.report.pairs import PairStage, pair_stages
from model_ops.report.samples import StageSample, collect
from model_ops.report.search_tree import SearchStage, iterations, search_stages
from model_ops.report.yields import Funnel, Production, funnel, production, times
from schemas.records import Metric, is_lower_better, is_word_count
from schemas.store import Store

PATH = "report/index.html"
TEMPLATES = Path(__file__).parent / "templates"
DETERMINISM = {
    "inputs": "the same bytes",
    "call": "the same rows (seeded per call)",
    "engine": "similar rows (calls not surely seeded)",
}
FORMATS = ("number", "words", "signed", "interval", "count", "percent", "duration", "short",
           "spaced")


@dataclass(frozen=True, slots=True)
class Curve:
    """One small multiple: a metric over rounds."""

    metric: str
    drawing: Markup
    latest: float
    is_primary: bool


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A metric of the evaluation table, with a cell per round (`None`: not measured)."""

    metric: str
    cells: list[Metric | None]
    words: list[Metric | None]
    """Beside a CHAIR figure: mean words of the captions that it was measured on."""

    @property
    def known(self) -> list[Metric]:
        """The cells that were measured, oldest first."""
        return [cell for cell in self.cells if cell]


@dataclass(frozen=True, slots=True)
class MetricGroup:
    """The metrics of one domain (`field`, `home`), or of one of its PIE benchmarks, for the
    evaluation table."""

    name: str
    rows: list[MetricRow]


def write_report(store: Store) -> str:
    """Write `report/index.html` of a root from what has finished so far; returns its uri."""
    store.write_bytes(PATH, render(store).encode())
    return store.uri(PATH)


def render(store: Store) -> str:
    """The page as text. Reads records, manifests and a few shards; writes nothing."""
    history = read_history(store)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(wording, name) for name in FORMATS})
    environment.filters.update(is_lower_better=is_lower_better, is_word_count=is_word_count)
    style = Markup((TEMPLATES / "style.css").read_text())
    return environment.get_template("page.html.j2").render(
        style=style, history=history, verdict=wording.verdict(history), **_sections(store, history)
    )


def _sections(store: Store, history: History) -> dict[str, Any]:
    productions = [production(view, stage) for view in history.rounds for stage in view.stages]
    bars = [bar for view in history.rounds for bar in times(view)]
    samples, pairs = collect(store, history), pair_stages(store, history)
    searches, rounds = search_stages(store, history), iterations(history)
    elsewhere = rounds.curves if rounds else []
    return {
        "curves": [_curve(history, name) for name in history.metrics
                   if name == history.primary
                   or (is_headline(name) and not is_of_variant(name) and name not in elsewhere)],
        "groups": _groups(history, [n for n in history.metrics if is_headline(n)]),
        "details": _groups(history, [n for n in history.metrics if not is_headline(n)]),
        "strip": partial(_strip, *_primary_range(history)),
        "funnels": _funnels(history),
        "productions": productions,
        "started": _started(productions),
        "training": training_curves(store, history),
        "engagement": pie_views(store, history),
        "bars": bars,
        "steps": list(dict.fromkeys(step for bar in bars for step in bar.seconds)),
        "samples": samples,
        "pair_stages": pairs,
        "search_stages": searches,
        "iterations": rounds,
        "iteration_curves": [_curve(history, name) for name in elsewhere],
        "versions": _prompt_versions(samples, [*pairs, *searches]),
        "determinism": DETERMINISM.get,
        "pretty": _pretty,
    }


def _curve(history: History, name: str) -> Curve:
    points = [
        Point(view.record.round, metric, view.record.decision)
        for view in history.rounds
        if (metric := view.metric(name))
    ]
    return Curve(name, line_chart(points), points[-1].metric.value, name == history.primary)


def _groups(history: History, names: list[str]) -> list[MetricGroup]:
    rows = [MetricRow(name, [view.metric(name) for view in history.rounds],
                      [view.words_beside(name) for view in history.rounds])
            for name in sorted(names)]
    rows.sort(key=lambda row: (row.metric.split("/")[0], _benchmark(row.metric)))
    return [MetricGroup(name, list(group))
            for name, group in groupby(rows, lambda row: _benchmark(row.metric))]


def _benchmark(metric: str) -> str:
    """The group of a metric: its domain; the metrics of PIE, which are many, by variant."""
    name = parse_name(metric)
    return name.benchmark if name else metric.split("/")[0]


def _started(productions: list[Production]) -> dict[str, int]:
    """Games, questions and searches that were started with; games where nothing was."""
    totals: dict[str, int] = {} if productions else {"games": 0}
    for each in productions:
        totals[each.unit] = totals.get(each.unit, 0) + each.num_started
    return totals


def _primary_range(history: History) -> tuple[float, float]:
    """The axis that all interval strips share: from the least bound (or chance) to the greatest."""
    metrics = [view.metric(history.primary) for view in history.rounds if history.primary]
    present = [metric for metric in metrics if metric]
    lows = [min(m.low, m.low if m.chance is None else m.chance) for m in present]
    return min(lows, default=0.0), max((m.high for m in present), default=1.0)


def _strip(low: float, high: float, metric: Metric, decision: str) -> Markup:
    return interval_strip(metric, low, high, decision)


def _funnels(history: History) -> list[Funnel]:
    return [
        funnel(view.record.round, stage.record.name, stage.record.funnel)
        for view in history.rounds
        for stage in view.stages
        if stage.record.funnel
    ]


def _prompt_versions(
    samples: list[StageSample], pairs: Sequence[PairStage | SearchStage]
) -> dict[int, list[str]]:
    """Prompt versions by round, as the sampled rows name them."""
    seen: dict[int, set[str]] = {}
    for sample in samples:
        rows = [*(g.row for g in (*sample.won, *sample.lost)), *(r.row for r in sample.rows)]
        seen.setdefault(sample.round, set()).update(row.prompt_version for row in rows)
    for stage in pairs:
        versions = (pair.prompt_version for pair in (*stage.kept, *stage.dropped))
        seen.setdefault(stage.round, set()).update(filter(None, versions))
    return {number: sorted(versions) for number, versions in seen.items()}


def _pretty(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True)
