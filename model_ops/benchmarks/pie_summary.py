"""From judged items of PIE to its metrics: engagement rates, their averages, the over-ask rate.

AR is the share of a kind's replies that the judge calls True. AAR averages it over all questions
(micro: True / all), over kinds (macro), or over tiers (tier: the mean of the tiers' mean ARs), each
strict or with Ambiguous = 0.5 (soft). The authors' own formula is not known, so all six are given,
and none belongs beside the paper's figures (methods/contrastive_macaroon.md, section 2). Intervals
of averages: a seeded bootstrap within kinds, whose numbers of questions are fixed by plan.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_ops.benchmarks.intervals import metric_of
from model_ops.benchmarks.pie import JUDGE_FAILED
from schemas.artifacts import read_quarantine, read_rows
from schemas.manifest import Manifest
from schemas.questions import CLEAR, ODD_TYPES, QUESTION_TYPES, TIERS, slug
from schemas.records import Metric
from schemas.rows import ItemRow, PieRow
from schemas.store import Store

LOST = "Lost"
"""The label of an item in quarantine: not engaged, or, if it is clear, over-asked."""
UNJUDGED = "Unjudged"
"""The label of a reply that the judge failed on, which says nothing about the model: it counts in
no rate, and their share is a metric of its own."""
NUM_BOOTSTRAPS = 10_000
CONFIDENCE = 0.95
_SEED = 14_137


class Judged(NamedTuple):
    """One item with its verdict; `label` is a `schemas.questions.Label`, `LOST` or `UNJUDGED`."""

    row_id: str
    kind: str
    label: str
    judge: str = "rules"

    @property
    def strict(self) -> float:
        """1 if the reply was as desired, else 0."""
        return float(self.label == "True")

    @property
    def soft(self) -> float:
        """The same, but 0.5 for a reply in between."""
        return 0.5 if self.label == "Ambiguous" else self.strict


class Counts(NamedTuple):
    """The verdicts on one kind's items."""

    true: int
    ambiguous: int
    total: int


def judged_items(store: Store, manifest: Manifest) -> Iterator[Judged]:
    """The items of an answered PIE benchmark, those in quarantine included."""
    for row in read_rows(store, manifest, ItemRow):
        detail = json.loads(row.detail or "{}")
        yield Judged(row.row_id, row.kind, detail["label"], detail["judge"])
    for dropped in read_quarantine(store, manifest):
        item = PieRow.model_validate_json(dropped.payload)
        label = UNJUDGED if dropped.reason.startswith(JUDGE_FAILED) else LOST
        yield Judged(item.row_id, item.question_type, label)


def pie_metrics(name: str, items: Sequence[Judged]) -> dict[str, Metric]:
    """All metrics of the benchmark *name*, such as `field/pie` or `field/pie-good`.

    A kind without items has no metric; without odd items there is no AAR.
    """
    metrics: dict[str, Metric] = {}
    if any(item.label == UNJUDGED for item in items):
        metrics[f"{name}_unjudged"] = metric_of([float(item.label == UNJUDGED) for item in items])
    items = _with_verdict(items)
    for kind in QUESTION_TYPES:
        if scores := [item.strict for item in items if item.kind == kind]:
            metrics[f"{name}_{slug(kind)}"] = metric_of(scores)
    if clear := metrics.get(f"{name}_{slug(CLEAR)}"):
        metrics[f"{name}_overask"] = Metric(value=1 - clear.value, low=1 - clear.high,
                                            high=1 - clear.low, n=clear.n)
    unread = [float(item.label == "ParseError") for item in items if item.label != LOST]
    if any(item.judge != "rules" for item in items) and unread:
        metrics[f"{name}_parse_error"] = metric_of(unread)
    return metrics | aar_metrics(name, count_labels(items))


def pie_scores(name: str, items: Sequence[Judged]) -> dict[str, dict[str, float]]:
    """Metric -> row id -> score, for the metrics that are means over items: what a gate pairs."""
    scores: dict[str, dict[str, float]] = {}
    for item in _with_verdict(items):
        scores.setdefault(f"{name}_{slug(item.kind)}", {})[item.row_id] = item.strict
        if item.kind != CLEAR:
            scores.setdefault(f"{name}_aar", {})[item.row_id] = item.strict
            scores.setdefault(f"{name}_aar_soft", {})[item.row_id] = item.soft
    return scores


def _with_verdict(items: Sequence[Judged]) -> list[Judged]:
    return [item for item in items if item.label != UNJUDGED]


def count_labels(items: Sequence[Judged]) -> dict[str, Counts]:
    """The verdicts by odd kind, kinds without items left out."""
    counts = {}
    for kind in ODD_TYPES:
        labels = [item.label for item in items if item.kind == kind]
        if labels:
            counts[kind] = Counts(labels.count("True"), labels.count("Ambiguous"), len(labels))
    return counts


def aar_metrics(name: str, counts: Mapping[str, Counts]) -> dict[str, Metric]:
    """`<name>_aar`, `_aar_macro`, `_aar_tier` and the same with `_soft`, intervals included."""
    if not counts:
        return {}
    rng = np.random.default_rng(_SEED)
    drawn = {kind: _draws(of_kind, rng) for kind, of_kind in counts.items()}
    totals = {kind: of_kind.total for kind, of_kind in counts.items()}
    metrics = {}
    for half, suffix in ((0.0, ""), (0.5, "_soft")):
        rates = {kind: (true + half * ambiguous) / totals[kind]
                 for kind, (true, ambiguous) in drawn.items()}
        for average, values in averages(rates, totals).items():
            low, high = np.quantile(values[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            metrics[f"{name}_aar{average}{suffix}"] = Metric(
                value=float(values[0]), low=float(low), high=float(high), n=sum(totals.values()))
    return metrics


def averages(
    rates: Mapping[str, NDArray[np.float64]], totals: Mapping[str, int]
) -> dict[str, NDArray[np.float64]]:
    """The averages of the kinds' *rates* (arrays of equal shape): "" micro, `_macro`, `_tier`."""
    hits = [rates[kind] * totals[kind] for kind in rates]
    tiers: dict[str, list[NDArray[np.float64]]] = {}
    for kind, rate in rates.items():
        tiers.setdefault(TIERS[kind], []).append(rate)
    return {
        "": np.sum(hits, axis=0) / sum(totals.values()),
        "_macro": np.mean(list(rates.values()), axis=0),
        "_tier": np.mean([np.mean(of_tier, axis=0) for of_tier in tiers.values()], axis=0),
    }


def _draws(
    counts: Counts, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numbers of True and of Ambiguous: the observed ones first, then those of the resamples
    (to draw items with replacement is to draw their verdicts from a multinomial)."""
    true, ambiguous, total = counts
    shares = np.array([true, ambiguous, total - true - ambiguous]) / total
    seen = np.array([[true, ambiguous, total - true - ambiguous]])
    drawn = np.concatenate([seen, rng.multinomial(total, shares, NUM_BOOTSTRAPS)])
    return drawn[:, 0].astype(np.float64), drawn[:, 1].astype(np.float64)
