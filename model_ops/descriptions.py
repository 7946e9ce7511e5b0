"""What is asked about which image: the prompts of a calibrated stage, the same in every round.

methods/calibrated_csr.md, section 1.1. Its one idea: a round compares with the one before only if
it asks the same, so a plan depends on the images, the texts and the run's seed, never on the round.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from model_ops.benchmarks.questions import (
    find_image,
    image_rows,
    images_by_name,
    read_entries,
    unusable_entry,
)
from model_ops.benchmarks.shards import write_items
from model_ops.programs.describing import description_texts
from model_ops.prompts import Prompts
from schemas.artifacts import find_manifest, publish
from schemas.config import DescriptionPromptsConfig
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest, digest
from schemas.rows import ImageRef, QuarantineRow, row_id
from schemas.searches import DescriptionRow
from schemas.store import Store

CODE_VERSION = 1
"""Raise it when planning changes, so that prompts of older code are not reused."""
_PLACEHOLDER = "<image>"
_ON_DISK = "COCO_train2014_"
"""Before the authors' image names, where COCO lies as it is distributed."""


class _Planned(NamedTuple):
    """Prompts, the entries of a file that could not become one, and how many were not drawn."""

    rows: list[DescriptionRow]
    unusable: list[QuarantineRow]
    not_drawn: int


def plan_prompts(
    store: Store, images: Manifest, config: DescriptionPromptsConfig, prompts: Prompts, seed: int,
    prefix: str, shard_size: int,
) -> Manifest:
    """Plan a description of every image (one of the set's texts, by *seed*), or what
    `config.uri` asks, and publish the plan.

    Finished work for the same inputs is returned as it is. Entries of a file that cannot be used go
    to quarantine (`bad_prompt`, `unknown_image`, `ambiguous_image`). Counts add up: candidates =
    drops + not_drawn + planned. Raises `ConfigError` if nothing can be asked.
    """
    entries = read_entries(config.uri) if config.uri is not None else []
    texts = description_texts(prompts) if config.uri is None else []
    settings = config.model_dump(mode="json")
    inputs = digest(["plan prompts", CODE_VERSION, settings, json.dumps([entries, texts],
                     default=str), images.digest, seed, shard_size])
    if (done := find_manifest(store, prefix, inputs)) is not None:
        return done
    if config.uri is None:
        planned = _drawn(_of_images(store, images, texts, seed), [], config.limit, seed)
    else:
        planned = _drawn(*_of_file(store, images, entries, config.uri, seed), config.limit, seed)
    funnel = _funnel(planned)
    if not planned.rows:
        told = ", ".join(f"{name} {num}" for name, num in funnel.items())
        raise ConfigError(f"no description can be asked for: {config.uri or 'no prompt file'} with "
                          f"the {images.num_rows} images of {store.uri(images.prefix)} gives "
                          f"{told}; give images, or a file whose `image` names some of them")
    manifest = Manifest(
        kind="prompts", prefix=prefix, inputs_digest=inputs, parents={"images": images.digest},
        shards=write_items(store, prefix, planned.rows, planned.unusable, shard_size, inputs),
        funnel=funnel, config=settings)
    return publish(store, manifest)


def _of_images(
    store: Store, images: Manifest, texts: Sequence[str], seed: int
) -> list[DescriptionRow]:
    """One prompt an image; which text it is depends on the image, not on its place."""
    return [_prompt(ref, ref.image_id, random.Random(f"{seed}/{ref.image_id}").choice(texts), seed)
            for ref, _ in image_rows(store, images, ["image_id"])]


def _of_file(
    store: Store, images: Manifest, entries: Sequence[Any], uri: str, seed: int
) -> tuple[list[DescriptionRow], list[QuarantineRow]]:
    """The file's usable prompts in its order, and what cannot be used."""
    by_name = images_by_name(store, images)
    usable: dict[str, DescriptionRow] = {}
    unusable = []
    for entry in entries:
        try:
            found = read_entry(entry)
            if found.prompt_id in usable:
                raise DropError("bad_prompt", f"its id {found.prompt_id!r} was there before")
            ref = _find(found.image, by_name)
        except DropError as error:
            unusable.append(unusable_entry(entry, error, uri))
            continue
        usable[found.prompt_id] = _prompt(ref, found.prompt_id, found.question, seed)
    return list(usable.values()), unusable


class Entry(NamedTuple):
    """A prompt of a file, as far as the file goes."""

    prompt_id: str
    image: str
    question: str


def read_entry(entry: Any) -> Entry:
    """A record of the authors' layout: `id`, `image`, `input`, the last without its `<image>`.

    `DropError` (`bad_prompt`) if it cannot be used.
    """
    if not isinstance(entry, Mapping):
        raise DropError("bad_prompt", "not a record")
    prompt_id, image, question = (entry.get(name) for name in ("id", "image", "input"))
    if isinstance(question, str):
        question = question.replace(_PLACEHOLDER, " ").strip()
    if not isinstance(question, str) or not question or not isinstance(image, str) or not image:
        raise DropError("bad_prompt", "needs id, image and input")
    if prompt_id is None or not str(prompt_id):
        raise DropError("bad_prompt", "needs an id of its own")
    return Entry(str(prompt_id), image, question)


def _find(name: str, by_name: Mapping[str, Mapping[str, ImageRef]]) -> ImageRef:
    """The image of a name, or of that name as COCO's files have it."""
    try:
        return find_image(name, by_name)
    except DropError as error:
        if error.reason != "unknown_image":
            raise
    folder, slash, file = name.rpartition("/")
    try:
        return find_image(f"{folder}{slash}{_ON_DISK}{file}", by_name)
    except DropError as error:
        raise DropError(error.reason, name) from None


def _drawn(
    usable: list[DescriptionRow], unusable: list[QuarantineRow], limit: int | None, seed: int
) -> _Planned:
    """At most *limit* of the usable prompts, drawn by seed, in their order."""
    if limit is None or len(usable) <= limit:
        return _Planned(usable, unusable, 0)
    places = sorted(random.Random(f"{seed}/limit").sample(range(len(usable)), limit))
    return _Planned([usable[place] for place in places], unusable, len(usable) - limit)


def _prompt(ref: ImageRef, prompt_id: str, question: str, seed: int) -> DescriptionRow:
    return DescriptionRow(
        row_id=row_id("prompt", prompt_id=prompt_id, image=ref.image_id, question=question,
                      seed=seed),
        prompt_id=prompt_id, image=ref, question=question, seed=seed)


def _funnel(planned: _Planned) -> dict[str, int]:
    drops = Counter(row.reason for row in planned.unusable)
    total = len(planned.rows) + drops.total() + planned.not_drawn
    not_drawn = {"not_drawn": planned.not_drawn} if planned.not_drawn else {}
    return {"candidates": total, **dict(sorted(drops.items())), **not_drawn,
            "planned": len(planned.rows)}
