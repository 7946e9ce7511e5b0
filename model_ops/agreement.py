"""How far two judges agree: on the same replies, or one of them with a person's labels.

Its one idea: replies are kept, so another judge can be asked about them later, through the same
programs and pool, without asking the model again. Agreement is the share of equal labels and
Cohen's kappa, which takes off what chance alone would give.
"""

import json
import random
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from model_ops.benchmarks.items import metric_name
from model_ops.benchmarks.pie import JUDGE, by_rules
from model_ops.benchmarks.pie_items import pie_settings
from model_ops.benchmarks.questions import read_entries
from model_ops.benchmarks.shards import write_items
from model_ops.engines.pool import PoolWork, ProgramJob, run_all
from model_ops.judges import judge_seats
from schemas.artifacts import publish, read_manifest, read_rows
from schemas.config import BenchmarkConfig, JudgeConfig, RunConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest, digest
from schemas.questions import Label
from schemas.rows import ItemRow, PieReplyRow, PieRow
from schemas.store import Store

RULES = JudgeConfig(kind="rules")


class Agreement(NamedTuple):
    """Of *n* replies, the share with equal labels, and Cohen's kappa (at most 1; 0: chance)."""

    share: float
    kappa: float
    n: int


def agreement(labels_a: Sequence[str], labels_b: Sequence[str]) -> Agreement:
    """Compare two judges' labels of the same replies (J. Cohen 1960).

    kappa = (p - c) / (1 - c), p the share of equal labels, c the share that two judges with these
    label frequencies share by chance; where both use one and the same label throughout, kappa is 1.
    Raises `ValueError` for sequences that are empty or differ in length.
    """
    if not labels_a or len(labels_a) != len(labels_b):
        raise ValueError(f"{len(labels_a)} and {len(labels_b)} labels cannot be compared")
    n = len(labels_a)
    share = sum(a == b for a, b in zip(labels_a, labels_b, strict=True)) / n
    ours, theirs = Counter(labels_a), Counter(labels_b)
    chance = sum(ours[label] * theirs[label] for label in ours) / n**2
    return Agreement(share, 1.0 if chance == 1 else (share - chance) / (1 - chance), n)


def compare_judges(
    store: Store, config: RunConfig, benchmark: BenchmarkConfig, answered: str,
    judge: JudgeConfig = RULES, num: int = 200, seed: int = 0,
) -> Agreement:
    """Judge a sample of an answered PIE benchmark again by *judge*, and compare.

    *answered* is the prefix of its items, such as `rounds/round=0001/evaluation/field-pie`; the
    second verdicts stay beside it under `<answered>-<kind>/`. Replies that the second judge
    fails on are left out. Raises `ConfigError` if nothing is left, and what the pool raises.
    """
    planned = read_manifest(store, f"benchmarks/{benchmark.slug}/items")
    again = f"{answered}-{judge.kind}"
    replies = sample_replies(store, planned, read_manifest(store, answered), num, seed,
                             f"{again}/sample", config.shard_size)
    if judge.kind == "rules":
        return compare_with_rules(store, replies)
    labels = _judged(store, config, benchmark, judge, replies, f"{again}/items", seed)
    return compare_labels(store, replies, labels)


def compare_with_rules(store: Store, replies: Manifest) -> Agreement:
    """Compare the verdicts of *replies* with those that the nursery's facts give."""
    rows = read_rows(store, replies, PieReplyRow)
    labels = {row.row_id: str(by_rules(row, row.reply).label) for row in rows}
    return compare_labels(store, replies, labels)


def compare_with_file(store: Store, replies: Manifest, uri: str) -> Agreement:
    """Compare the verdicts of *replies* with a person's: JSONL or Parquet of `row_id`, `label`.

    Entries without a label (null or empty) are left out. Raises `ConfigError` for other labels than
    those of `schemas.questions.Label`.
    """
    known = typing.get_args(Label)
    labels = {}
    for number, entry in enumerate(read_entries(uri)):
        if not isinstance(entry, Mapping) or "row_id" not in entry:
            raise ConfigError(f"{uri}, entry {number}: needs row_id and label")
        label = entry.get("label")
        if label in (None, ""):
            continue
        label = str(label) if isinstance(label, bool) else label  # JSON's true for True
        if label not in known:
            raise ConfigError(f"{uri}, entry {number}: label {label!r} is none of "
                              f"{', '.join(known)}")
        labels[str(entry["row_id"])] = str(label)
    return compare_labels(store, replies, labels)


def compare_labels(store: Store, replies: Manifest, labels: Mapping[str, str]) -> Agreement:
    """Compare the verdicts of *replies* with other *labels* (by row id), where there are both."""
    both = [(row.label, labels[row.row_id])
            for row in read_rows(store, replies, PieReplyRow) if row.row_id in labels]
    if not both:
        raise ConfigError(f"no reply of {replies.prefix} has a second label: look for the reasons "
                          f"in the quarantine, or check the row ids of the labels")
    return agreement(*zip(*both, strict=True))


def sample_replies(
    store: Store, planned: Manifest, answered: Manifest, num: int, seed: int, prefix: str,
    shard_size: int = 128,
) -> Manifest:
    """Publish *num* replies, drawn by seed, each with its item and its verdict."""
    questions = {row.row_id: row for row in read_rows(store, planned, PieRow)}
    items = [row for row in read_rows(store, answered, ItemRow) if row.row_id in questions]
    drawn = random.Random(seed).sample(items, min(num, len(items)))
    if not drawn:
        raise ConfigError(f"{answered.prefix} has no reply to an item of {planned.prefix}: give "
                          f"the answered items of this benchmark")
    rows = [PieReplyRow(**questions[item.row_id].model_dump(), reply=item.reply,
                        label=json.loads(item.detail or "{}")["label"]) for item in drawn]
    inputs = digest(["sample replies", planned.digest, answered.digest, num, seed, shard_size])
    return publish(store, Manifest(
        kind="pie_replies", prefix=prefix, inputs_digest=inputs,
        parents={"items": planned.digest, "answered": answered.digest},
        shards=write_items(store, prefix, rows, [], shard_size, inputs)))


def _judged(
    store: Store, config: RunConfig, benchmark: BenchmarkConfig, judge: JudgeConfig,
    replies: Manifest, prefix: str, seed: int,
) -> dict[str, str]:
    """Labels by row id, from a judge that has to be asked."""
    pie = benchmark.pie.model_copy(update={"judge": judge})
    settings = pie_settings(benchmark.model_copy(update={"pie": pie}), metric_name(benchmark))
    seats = judge_seats(store, config, judge)
    job = ProgramJob(
        program="pie_judge", settings=settings.model_dump(mode="json"), stage="agreement", round=0,
        prompts=config.model.prompts, seed=seed, models={"": seats[JUDGE], **seats})
    images = read_manifest(store, f"benchmarks/{benchmark.slug}/images")
    [judged] = run_all(store, [PoolWork(replies, images, job, prefix)], config.engine)
    return {row.row_id: json.loads(row.detail or "{}")["label"]
            for row in read_rows(store, judged, ItemRow)}
