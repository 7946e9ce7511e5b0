"""POPE's items (Li et al. 2023): is an object there? Asked of objects that are, and of as many that
are not.

The one idea: what is absent is chosen in three ways, the splits: at random; the objects that the
most images of the set have; those that most often stand beside what is there. The authors' files
are read as they are, a file a split; on the nursery the same recipe runs on facts, an object being
a colour and a shape. The program that answers is `vqa`'s.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

from model_ops.benchmarks.questions import (
    content_digest,
    find_image,
    image_rows,
    images_by_name,
    most_frequent,
    read_entries,
    unusable_entry,
)
from model_ops.benchmarks.shards import write_items
from model_ops.benchmarks.sights import Sight, nursery_sights
from schemas.artifacts import find_manifest, publish
from schemas.config import BenchmarkConfig
from schemas.config.measuring import POPE_SPLITS
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest, digest
from schemas.rows import ImageRef, QuarantineRow, QuestionRow, row_id
from schemas.store import Store

CODE_VERSION = 1
"""Raise it when planning changes."""
KIND = "pope"
"""Kind of the planned artifact, and name of the program that answers it."""
SPLITS = POPE_SPLITS
"""How absent objects are chosen; the `kind` of an item."""


class Plan(NamedTuple):
    """Items, entries of a file that cannot be used, and images that have too few objects."""

    rows: list[QuestionRow]
    unusable: list[QuarantineRow]
    num_poor: int


def plan_pope(
    store: Store, config: BenchmarkConfig, images: Manifest, seed: int, prefix: str, shard_size: int
) -> Manifest:
    """Plan at most `num_items` questions of each split, all about the same images.

    A file's bad entries go to quarantine (`bad_question`, `unknown_image`, `ambiguous_image`,
    `duplicate_question`). Raises `ConfigError` where there is nothing to ask.
    """
    settings = {"domain": config.domain, "num_items": config.num_items,
                "pope": config.pope.model_dump(mode="json")}
    contents = [content_digest(uri, f"pope.{split}_uri")
                for split, uri in sorted(config.pope.uris.items())]
    inputs = digest(["plan pope", CODE_VERSION, settings, contents, images.digest, seed,
                     shard_size])
    if (done := find_manifest(store, prefix, inputs)) is not None:
        return done
    planned = _from_files if config.pope.uris else _from_facts
    plan = planned(store, config, images, seed)
    asked, reasons = (Counter(row.kind for row in plan.rows),
                      Counter(row.reason for row in plan.unusable))
    return publish(store, Manifest(
        kind=KIND, prefix=prefix, inputs_digest=inputs, parents={"images": images.digest},
        shards=write_items(store, prefix, plan.rows, plan.unusable, shard_size, inputs),
        config=settings,
        funnel={**{split: asked[split] for split in SPLITS if asked[split]},
                "too_few_objects": plan.num_poor, "unusable": len(plan.unusable),
                **dict(sorted(reasons.items()))}))


def absent_objects(
    sights: Sequence[Sight], num: int, rng: random.Random
) -> Iterator[dict[str, list[str]]]:
    """For each sight, split by split, *num* objects of the set that are not on it.

    `popular` and `adversarial` count images: those with the object, and those in which it stands
    beside an object of the sight, summed over these. What is as frequent is drawn.
    """
    frequent = Counter(name for sight in sights for name in sight.objects)
    beside: dict[str, Counter[str]] = {name: Counter() for name in frequent}
    for sight in sights:
        for name, other in permutations(sight.objects, 2):
            beside[name][other] += 1
    for sight in sights:
        absent = sorted(frequent.keys() - set(sight.objects))
        rng.shuffle(absent)
        near = sum((beside[name] for name in sight.objects), Counter[str]())
        yield {"random": absent[:num],
               "popular": sorted(absent, key=lambda name: -frequent[name])[:num],
               "adversarial": sorted(absent, key=lambda name: -near[name])[:num]}


def _from_facts(store: Store, config: BenchmarkConfig, images: Manifest, seed: int) -> Plan:
    num = config.pope.num_objects
    sights = list(nursery_sights(store, images, ("colour", "shape")))
    rng = random.Random(f"{seed}/{config.domain}")
    rows: list[QuestionRow] = []
    usable = [(sight, absent)
              for sight, absent in zip(sights, absent_objects(sights, num, rng), strict=True)
              if len(sight.objects) >= num and len(absent["random"]) == num]
    rng.shuffle(usable)
    for sight, absent in usable[: config.num_items // (2 * num)]:
        present = rng.sample(sight.objects, num)
        for split in SPLITS:
            for there, not_there in zip(present, absent[split], strict=True):
                rows += [_row(sight.image, split, f"is there a {name} ?", said, config.domain, seed)
                         for name, said in ((there, "yes"), (not_there, "no"))]
    if not rows:
        raise ConfigError(
            f"pope on {config.images.uri} finds no image with {num} objects to ask about in "
            f"{len(sights)}, or num_items {config.num_items} is less than an image's {2 * num} "
            f"questions: raise images.limit or num_items, or lower pope.num_objects")
    return Plan(rows, [], len(sights) - len(usable))


def _from_files(store: Store, config: BenchmarkConfig, images: Manifest, seed: int) -> Plan:
    by_name = images_by_name(store, images)
    order = [ref.image_id for ref, _ in image_rows(store, images, ["image_id"])]
    random.Random(f"{seed}/{config.domain}").shuffle(order)
    places = {image_id: place for place, image_id in enumerate(order)}
    rows: dict[str, QuestionRow] = {}
    unusable: list[QuarantineRow] = []
    for split, uri in config.pope.uris.items():
        of_split: dict[str, QuestionRow] = {}
        for entry in read_entries(uri):
            try:
                row = _entry_row(entry, split, by_name, config.domain, seed)
                if row.row_id in of_split:
                    raise DropError("duplicate_question", row.question)
                of_split[row.row_id] = row
            except DropError as error:
                unusable.append(unusable_entry(entry, error, uri))
        if not of_split:
            raise ConfigError(f"pope.{split}_uri {uri}: none of its questions is about an image of "
                              f"{config.images.uri}{most_frequent(unusable)}")
        chosen = sorted(of_split.values(), key=lambda row: places[row.image.image_id])
        rows |= {row.row_id: row for row in chosen[: config.num_items]}
    return Plan(list(rows.values()), unusable, 0)


def _entry_row(
    entry: Any, split: str, by_name: Mapping[str, Mapping[str, ImageRef]], domain: str, seed: int
) -> QuestionRow:
    if not isinstance(entry, Mapping):
        raise DropError("bad_question", "not a record")
    question, label = entry.get("text"), str(entry.get("label")).strip().lower()
    if not isinstance(question, str) or not question.strip() or label not in ("yes", "no"):
        raise DropError("bad_question", "needs image, text, and label yes or no")
    ref = find_image(str(entry.get("image") or ""), by_name)
    return _row(ref, split, question.strip(), label, domain, seed)


def _row(
    ref: ImageRef, split: str, question: str, answer: str, domain: str, seed: int
) -> QuestionRow:
    return QuestionRow(
        row_id=row_id("pope", image=ref.image_id, question=question, split=split, domain=domain),
        image=ref, kind=split, question=question, answers=[answer], domain=domain, seed=seed)
