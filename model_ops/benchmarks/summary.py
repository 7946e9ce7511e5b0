"""From answered items to metrics with intervals, and to the scores that the gate pairs.

A game benchmark gives its success and how far it depends on the image order; a VQA benchmark
gives all questions together and each kind; PIE's are `pie_summary`'s, POPE's and CHAIR's
`hallucination_summary`'s. Nothing is pooled across benchmarks. An item that ended in quarantine
scores 0: a model gains nothing by failing to answer.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from model_ops.benchmarks.hallucination_summary import (
    chair_metrics,
    chair_of,
    chair_scores,
    pope_metrics,
    pope_of,
    pope_scores,
)
from model_ops.benchmarks.intervals import metric_of
from model_ops.benchmarks.pie_summary import Judged, judged_items, pie_metrics, pie_scores
from schemas.artifacts import read_quarantine, read_rows
from schemas.manifest import Manifest
from schemas.records import Metric
from schemas.rows import GameRow, ItemRow, QuarantineRow, QuestionRow
from schemas.store import Store


class Scored(NamedTuple):
    """One item's contribution to one metric."""

    metric: str
    row_id: str
    score: float
    chance: float | None


def summarise(store: Store, answered: Mapping[str, Manifest]) -> dict[str, Metric]:
    """The metrics of all benchmarks (slug -> answered items), 95 % intervals included."""
    scores: dict[str, list[float]] = {}
    chances: dict[str, list[float | None]] = {}
    for scored in _all_scores(store, answered):
        scores.setdefault(scored.metric, []).append(scored.score)
        chances.setdefault(scored.metric, []).append(scored.chance)
    metrics = {name: metric_of(scores[name], _mean(chances[name])) for name in scores}
    for manifest in answered.values():
        if own := _OWN.get(_program(manifest)):
            metrics |= own.metrics(*own.read(store, manifest))
    return {name: metrics[name] for name in sorted(metrics)}


def item_scores(store: Store, answered: Mapping[str, Manifest]) -> dict[str, dict[str, float]]:
    """Metric -> item row id -> score: what the gate compares item by item."""
    scores: dict[str, dict[str, float]] = {}
    for scored in _all_scores(store, answered):
        scores.setdefault(scored.metric, {})[scored.row_id] = scored.score
    for manifest in answered.values():
        if own := _OWN.get(_program(manifest)):
            scores |= own.scores(*own.read(store, manifest))
    return scores


def item_clusters(store: Store, answered: Mapping[str, Manifest]) -> dict[str, str]:
    """Item row id -> its images: what the gate draws together.

    Questions about one image stand or fall together; so do games of the same images.
    """
    clusters: dict[str, str] = {}
    for manifest in answered.values():
        for row in read_rows(store, manifest, ItemRow, ["row_id", "image_ids"]):
            clusters[row.row_id] = _cluster(row.image_ids) or row.row_id
        for dropped in read_quarantine(store, manifest):
            planned = json.loads(dropped.payload)
            shown = planned.get("images") or [planned["image"]]
            clusters[planned["row_id"]] = _cluster([ref["image_id"] for ref in shown])
    return clusters


def _cluster(image_ids: Sequence[str]) -> str:
    return " ".join(sorted(image_ids))


def _program(manifest: Manifest) -> str:
    return str(manifest.config.get("program"))


def _pie_of(store: Store, manifest: Manifest) -> tuple[str, list[Judged]]:
    """PIE's name in metrics (`field/pie`, `field/pie-good`), and its answered items."""
    name = manifest.config["settings"]["metric"].removesuffix("_aar")
    return name, list(judged_items(store, manifest))


class _Own(NamedTuple):
    """How a benchmark whose items make more than means is read and summarised."""

    read: Callable[[Store, Manifest], tuple[str, list[Any]]]
    metrics: Callable[[str, list[Any]], dict[str, Metric]]
    scores: Callable[[str, list[Any]], dict[str, dict[str, float]]]


_OWN: Mapping[str, _Own] = {
    "pie": _Own(_pie_of, pie_metrics, pie_scores),
    "pope": _Own(pope_of, pope_metrics, pope_scores),
    "chair": _Own(chair_of, chair_metrics, chair_scores),
}

def _all_scores(store: Store, answered: Mapping[str, Manifest]) -> Iterator[Scored]:
    for manifest in answered.values():
        if _program(manifest) in _OWN:
            continue
        for row in read_rows(store, manifest, ItemRow):
            yield from scores_of(row)
        for dropped in read_quarantine(store, manifest):
            yield from _lost_scores(dropped, manifest.config["settings"]["metric"])


def scores_of(row: ItemRow) -> Iterator[Scored]:
    """All metrics that an item counts for."""
    if not row.kind.startswith("game"):
        yield from _question_scores(row.benchmark, row.kind, row.row_id, row.score)
        return
    yield Scored(row.benchmark, row.row_id, row.score, 1 / len(row.image_ids))
    rotation_pass = json.loads(row.detail or "{}").get("rotation_pass")
    if rotation_pass is not None and row.benchmark.endswith("_success"):
        name = row.benchmark.removesuffix("success") + "rotation"
        yield Scored(name, row.row_id, rotation_pass, 1 / len(row.image_ids))


def _lost_scores(dropped: QuarantineRow, metric: str) -> Iterator[Scored]:
    """The scores of an unanswered item; the quarantined payload is the planned item."""
    if dropped.kind == "questions":
        question = QuestionRow.model_validate_json(dropped.payload)
        yield from _question_scores(metric, question.kind, question.row_id, 0.0)
    else:
        game = GameRow.model_validate_json(dropped.payload)
        yield Scored(metric, game.row_id, 0.0, 1 / len(game.images))


def _question_scores(metric: str, kind: str, row_id: str, score: float) -> Iterator[Scored]:
    yield Scored(metric, row_id, score, None)
    yield Scored(f"{metric}_{kind}", row_id, score, 0.5 if kind == "yesno" else None)


def _mean(chances: Sequence[float | None]) -> float | None:
    known = [chance for chance in chances if chance is not None]
    return math.fsum(known) / len(known) if len(known) == len(chances) else None
