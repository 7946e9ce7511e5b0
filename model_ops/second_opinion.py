"""A second opinion on what a root has measured: `flywheel agree`.

The one idea: a root says by itself which replies there are and how they were judged, so no
configuration is needed to let the rules, or a person, judge them again; for a model it says which.
"""

import json
from typing import NamedTuple

import fsspec

from model_ops.agreement import (
    Agreement,
    compare_judges,
    compare_with_file,
    compare_with_rules,
    sample_replies,
)
from model_ops.rounds import read_rounds
from schemas.artifacts import read_manifest, read_rows
from schemas.config import RunConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.rows import PieReplyRow
from schemas.store import Store


class Answers(NamedTuple):
    """A PIE benchmark of a root: its items, and a model's replies to them."""

    planned: Manifest
    answered: Manifest


def find_answers(store: Store, slug: str, number: int | None = None) -> Answers:
    """The replies of round *number* (the last one's if None) to the benchmark *slug*.

    Raises `ConfigError` that names the benchmarks which are there.
    """
    records = read_rounds(store)
    if not records or (number is not None and not 0 <= number < len(records)):
        raise ConfigError(f"{store.root} has {len(records)} finished rounds: no round "
                          f"{len(records) if number is None else number} to look at")
    items = records[-1 if number is None else number].evaluation.items
    pies = [name for name in items if _is_pie(store, name)]
    if slug not in pies:
        raise ConfigError(f"{slug!r} is no PIE benchmark of {store.root}: it has "
                          f"{', '.join(pies) or 'none'}")
    return Answers(read_manifest(store, f"benchmarks/{slug}/items"),
                   read_manifest(store, items[slug]))


def _is_pie(store: Store, slug: str) -> bool:
    prefix = f"benchmarks/{slug}/items"
    return store.exists(f"{prefix}/manifest.json") and read_manifest(store, prefix).kind == "pie"


def agree(
    store: Store, slug: str, judge: str | RunConfig, num: int = 200, seed: int = 0,
    number: int | None = None,
) -> Agreement:
    """Compare the verdicts with those of *judge*: `rules` or the judge of a configuration's
    benchmark *slug* (on *num* replies, drawn by seed), or a file with a person's labels (on all
    that it has).

    What was drawn stays in the root, at `<replies>-<judge>/sample`.
    """
    answers = find_answers(store, slug, number)
    if isinstance(judge, RunConfig):
        config = judge.model_copy(update={"root": store.root})
        same = [each for each in config.evaluation.benchmarks if each.slug == slug]
        if not same:
            raise ConfigError(f"the judge's configuration has no benchmark {slug!r}: give it the "
                              f"one of {store.root}, with another pie.judge")
        return compare_judges(store, config, same[0], answers.answered.prefix, same[0].pie.judge,
                              num, seed)
    if judge == "rules":
        return compare_with_rules(store, _sample(store, answers, "rules", num, seed))
    everything = answers.answered.num_rows
    return compare_with_file(store, _sample(store, answers, "file", everything, seed), judge)


class Written(NamedTuple):
    """Replies to be labelled: how many, and the artifact that has them with their images."""

    num: int
    uri: str


def write_sample(
    store: Store, slug: str, out: str, num: int = 200, seed: int = 0, number: int | None = None
) -> Written:
    """Write *num* replies for a person to label, as JSONL without the judge's verdict. Raises
    `ConfigError` if *out* is there already."""
    files, path = fsspec.url_to_fs(out)
    if files.exists(path):
        raise ConfigError(f"{out} is there already: delete it, or choose another name")
    sample = _sample(store, find_answers(store, slug, number), "file", num, seed)
    lines = [json.dumps(_to_label(row), ensure_ascii=False)
             for row in read_rows(store, sample, PieReplyRow)]
    files.pipe_file(path, "".join(f"{line}\n" for line in lines).encode())
    return Written(len(lines), store.uri(sample.prefix))


def _to_label(row: PieReplyRow) -> dict[str, str | None]:
    return {"row_id": row.row_id, "image_id": row.image.image_id, "label": None,
            "question_type": row.question_type, "question": row.question, "reply": row.reply}


def _sample(store: Store, answers: Answers, judge: str, num: int, seed: int) -> Manifest:
    prefix = f"{answers.answered.prefix}-{judge}/sample"
    return sample_replies(store, answers.planned, answers.answered, num, seed, prefix)
