"""From answered items of POPE and CHAIR to their metrics, and to the scores that a gate pairs.

POPE (Li et al. 2023): "yes" is the positive answer. A reply that is neither yes nor no is wrong,
and a missed yes if yes was right; how many there are is `_parse_error`. CHAIR (Rohrbach et al.
2018): CHAIR_S is the share of descriptions with an object that is not there, CHAIR_I the share of
mentions (micro); `chair_clean` is 1 - CHAIR_S. An unanswered item is as bad as can be: a wrong
reply, or a description with one mention, of what is not there. The bootstrap draws images, since
POPE asks several questions about each, and what is there once in every split.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from model_ops.benchmarks.intervals import metric_of, ratio_metric, resampled_sums
from model_ops.benchmarks.vqa_score import said_yes_or_no
from schemas.artifacts import read_quarantine, read_rows
from schemas.manifest import Manifest
from schemas.records import Metric
from schemas.rows import CaptionItemRow, ItemRow, QuestionRow
from schemas.store import Store

Scores = dict[str, dict[str, float]]
"""Metric -> item row id -> score."""


class Asked(NamedTuple):
    """One question of POPE; `said` is None for a reply that is neither yes nor no."""

    row_id: str
    image_id: str
    split: str
    expected: str
    said: str | None
    is_lost: bool = False
    """It was not answered at all."""

    @property
    def counts(self) -> tuple[bool, bool, bool, bool, bool, bool]:
        """Right, said yes, rightly so, is yes, unreadable, answered."""
        yes = self.said == "yes"
        return (self.said == self.expected, yes, yes and self.expected == "yes",
                self.expected == "yes", self.said is None and not self.is_lost, not self.is_lost)


class Described(NamedTuple):
    """One description's counts."""

    row_id: str
    num_hallucinated: int
    num_mentions: int
    num_found: int
    """Objects that are there and are mentioned."""
    num_objects: int
    """Objects that are there."""
    num_words: int | None
    """None where nothing was answered."""

    @property
    def is_clean(self) -> bool:
        """Whether it names nothing that is not there."""
        return self.num_hallucinated == 0


def asked_items(store: Store, manifest: Manifest) -> Iterator[Asked]:
    """The questions of an answered POPE benchmark, those in quarantine included."""
    for row in read_rows(store, manifest, ItemRow):
        yield Asked(row.row_id, row.image_ids[0], row.kind, row.expected,
                    said_yes_or_no(row.reply))
    for dropped in read_quarantine(store, manifest):
        item = QuestionRow.model_validate_json(dropped.payload)
        yield Asked(item.row_id, item.image.image_id, item.kind, item.answers[0], None, True)


def pope_metrics(name: str, items: Sequence[Asked]) -> dict[str, Metric]:
    """All metrics of the benchmark *name*, such as `field/pope`, and of each split."""
    metrics = _answer_metrics(name, items)
    for split in dict.fromkeys(item.split for item in items):
        of_split = [item for item in items if item.split == split]
        metrics |= _answer_metrics(f"{name}_{split}", of_split)
    return metrics


def pope_scores(name: str, items: Sequence[Asked]) -> Scores:
    """Accuracy question by question, of all and of each split."""
    scores: Scores = {}
    for item in items:
        for metric in (name, f"{name}_{item.split}"):
            scores.setdefault(metric, {})[item.row_id] = float(item.said == item.expected)
    return scores


def _answer_metrics(name: str, items: Sequence[Asked]) -> dict[str, Metric]:
    if not items:
        return {}
    by_image: dict[str, list[tuple[int, ...]]] = {}
    for item in items:
        by_image.setdefault(item.image_id, []).append((*item.counts, 1))
    counts = np.array([np.sum(rows, axis=0) for rows in by_image.values()], dtype=np.float64)
    right, said_yes, hits, is_yes, unread, answered, asked = resampled_sums(counts).T
    parts = {"_precision": (hits, said_yes), "_recall": (hits, is_yes),
             "_f1": (2 * hits, said_yes + is_yes), "_yes_rate": (said_yes, asked),
             "_parse_error": (unread, answered)}
    return {name: ratio_metric(right, asked, len(items), chance=0.5)} | {
        f"{name}{suffix}": ratio_metric(part, whole, len(items))
        for suffix, (part, whole) in parts.items()}


def described_items(store: Store, manifest: Manifest) -> Iterator[Described]:
    """The descriptions of an answered CHAIR benchmark, those in quarantine included."""
    for row in read_rows(store, manifest, ItemRow):
        detail = json.loads(row.detail or "{}")
        found = set(detail["mentioned"]) - set(detail["hallucinated"])
        yield Described(row.row_id, len(detail["hallucinated"]), len(detail["mentioned"]),
                        len(found), len(found) + len(detail["missed"]), detail["words"])
    for dropped in read_quarantine(store, manifest):
        item = CaptionItemRow.model_validate_json(dropped.payload)
        yield Described(item.row_id, 1, 1, 0, len(item.objects), None)


def chair_metrics(name: str, items: Sequence[Described]) -> dict[str, Metric]:
    """All metrics of the benchmark *name*, such as `field/chair`, and `<domain>/caption_words`.

    Without any mention there is no CHAIR_I, without any object no recall, without any answer no
    number of words.
    """
    if not items:
        return {}
    clean = metric_of([float(item.is_clean) for item in items])
    metrics = {f"{name}_clean": clean,
               f"{name}_s": clean.model_copy(update={
                   "value": 1 - clean.value, "low": 1 - clean.high, "high": 1 - clean.low})}
    counts = np.array([(item.num_hallucinated, item.num_mentions, item.num_found, item.num_objects)
                       for item in items], dtype=np.float64)
    hallucinated, mentions, found, objects = resampled_sums(counts).T
    if mentions[0]:
        metrics[f"{name}_i"] = ratio_metric(hallucinated, mentions, len(items))
    if objects[0]:
        metrics[f"{name}_recall"] = ratio_metric(found, objects, len(items))
    if words := [float(item.num_words) for item in items if item.num_words is not None]:
        metrics[f"{name.removesuffix('chair')}caption_words"] = metric_of(words)
    return metrics


def chair_scores(name: str, items: Sequence[Described]) -> Scores:
    """Image by image: whether the description is clean, and which share of the objects it names.

    The latter's mean weighs images alike; the metric weighs objects alike.
    """
    return {f"{name}_clean": {item.row_id: float(item.is_clean) for item in items},
            f"{name}_recall": {item.row_id: item.num_found / item.num_objects
                               for item in items if item.num_objects}}


def pope_of(store: Store, manifest: Manifest) -> tuple[str, list[Asked]]:
    """The name in metrics (`field/pope`) of an answered benchmark, and its items."""
    return _metric(manifest), list(asked_items(store, manifest))


def chair_of(store: Store, manifest: Manifest) -> tuple[str, list[Described]]:
    """The name in metrics (`field/chair`) of an answered benchmark, and its items."""
    return _metric(manifest).removesuffix("_clean"), list(described_items(store, manifest))


def _metric(manifest: Manifest) -> str:
    settings: Mapping[str, str] = manifest.config["settings"]
    return settings["metric"]
