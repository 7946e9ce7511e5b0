"""Which kind of question is to be asked about which image: the slots of a contrastive stage.

methods/contrastive_macaroon.md, section 3, step 2. One idea: a slot is a place for a question. The
model fills it later (`source: model`), or it is filled here, from a file or from the nursery's
grammar; everything after that is the same. Labels and facts of images are looked at only by the
grammar, which stands for a person who looks at the picture.
"""

import inspect
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from model_ops.benchmarks.questions import (
    find_image,
    image_name,
    image_rows,
    images_by_name,
    read_entries,
    scene_of,
    unusable_entry,
)
from model_ops.benchmarks.shards import write_items
from schemas.artifacts import find_manifest, publish
from schemas.config import QuestionsConfig
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest, digest
from schemas.questions import QUESTION_TYPES, type_named
from schemas.rows import ImageRef, QuarantineRow, SlotRow, row_id
from schemas.store import Store

CODE_VERSION = 1
"""Raise it when planning changes, so that slots of older code are not reused."""
TRIES_PER_IMAGE = 5
MAX_IMAGES_TRIED = 100
_PLACEHOLDER = "<image>"
"""Stands before the question in many LLaVA-style files; it is no word of it."""


class _Planned(NamedTuple):
    """Slots, what could not become one, and how many usable candidates were not needed."""

    rows: list[SlotRow]
    unusable: list[QuarantineRow]
    not_drawn: int = 0


def plan_slots(
    store: Store, images: Manifest, config: QuestionsConfig, seed: int, prefix: str, shard_size: int
) -> Manifest:
    """Plan `config.per_type` questions over *images* and publish them.

    Finished work for the same inputs is returned as it is. Bad entries of a file go to quarantine
    (`unknown_image`, `ambiguous_image`, `unknown_type`, `bad_question`), and so do slots for which
    the grammar has no (further) question (`none_left`). Counts add up: candidates = drops +
    not_drawn + planned. Raises `ConfigError` if nothing can be asked.
    """
    settings = config.model_dump(mode="json", include={"source", "uri", "per_type"})
    entries = read_entries(config.uri) if config.uri is not None else []
    inputs = digest(["plan slots", CODE_VERSION, settings, _content(config, entries),
                     images.digest, seed, shard_size])
    if (done := find_manifest(store, prefix, inputs)) is not None:
        return done
    _check(images, config)
    planned = _plan(store, images, config, entries, seed)
    if not planned.rows:
        raise ConfigError(f"no question can be asked about {store.uri(images.prefix)}: "
                          f"{_told(planned)}")
    manifest = Manifest(
        kind="slots", prefix=prefix, inputs_digest=inputs, parents={"images": images.digest},
        shards=write_items(store, prefix, planned.rows, planned.unusable, shard_size, inputs),
        funnel=_funnel(planned), config=settings)
    return publish(store, manifest)


def _content(config: QuestionsConfig, entries: list[Any]) -> str:
    """What the plan depends on beside the configuration: the file's entries, the grammar."""
    if config.source != "grammar":
        return json.dumps(entries, default=str)
    from model_ops.nursery import grammar, odd

    return inspect.getsource(odd) + inspect.getsource(grammar)


def _check(images: Manifest, config: QuestionsConfig) -> None:
    if not images.num_rows:
        raise ConfigError(f"{images.prefix} holds no image to ask about: import some, or look into "
                          f"its quarantine for the reasons")
    if not any(num > 0 for num in config.per_type.values()):
        raise ConfigError("questions.per_type asks for no question of any kind: give at least one "
                          "kind a number")


def _plan(
    store: Store, images: Manifest, config: QuestionsConfig, entries: list[Any], seed: int
) -> _Planned:
    if config.source == "file":
        return _from_file(store, images, config, entries, seed)
    if config.source == "grammar":
        return _from_grammar(store, images, config, seed)
    refs = [ref for ref, _ in image_rows(store, images, ["image_id"])]
    wanted = spread(config.per_type, len(refs), seed)
    return _Planned([_slot(refs[w.place], w.question_type, None, w.number, seed) for w in wanted],
                    [])


class Wanted(NamedTuple):
    """A question that is to be asked: its number, the place of its image, its kind."""

    number: int
    place: int
    question_type: str


def spread(per_type: Mapping[Any, int], num_images: int, seed: int) -> list[Wanted]:
    """The wanted questions, image by image in a seeded order; every kind, and all together, are
    spread over the images as evenly as can be (no two images differ by more than one)."""
    order = list(range(num_images))
    random.Random(f"{seed}/images").shuffle(order)
    kinds = [kind for kind in QUESTION_TYPES for _ in range(per_type.get(kind, 0))]
    numbers = sorted(range(len(kinds)), key=lambda number: (number % num_images, number))
    return [Wanted(number, order[number % num_images], kinds[number]) for number in numbers]


def _slot(ref: ImageRef, question_type: str, question: str | None, number: int, seed: int
          ) -> SlotRow:
    return SlotRow(
        row_id=row_id("slot", image=ref.image_id, question_type=question_type, question=question,
                      number=number, seed=seed),
        image=ref, question_type=question_type, question=question, seed=seed)


def _from_grammar(
    store: Store, images: Manifest, config: QuestionsConfig, seed: int
) -> _Planned:
    scenes = list(_scenes(store, images))
    asked: set[tuple[str, str]] = set()
    planned = _Planned([], [])
    for wanted in spread(config.per_type, len(scenes), seed):
        rng = random.Random(f"{seed}/{wanted.question_type}/{wanted.number}")
        found = _write(scenes, wanted, asked, rng)
        if found is None:
            planned.unusable.append(_unwritten(wanted, images, seed))
            continue
        ref, question = found
        asked.add((ref.image_id, question))
        planned.rows.append(_slot(ref, wanted.question_type, question, wanted.number, seed))
    return planned


def _scenes(store: Store, images: Manifest) -> Iterator[tuple[ImageRef, Any]]:
    for ref, row in image_rows(store, images, ["image_id", "facts"]):
        if row.facts is None:
            raise ConfigError(f"image {row.image_id} has no facts: questions.source 'grammar' is "
                              f"for nursery images; use 'model' or 'file' for others")
        yield ref, scene_of(json.loads(row.facts))


def _write(
    scenes: list[tuple[ImageRef, Any]], wanted: Wanted, asked: set[tuple[str, str]],
    rng: random.Random,
) -> tuple[ImageRef, str] | None:
    """A question of the wanted kind about its image or, where the grammar has none about it, about
    a following one; None if there is none about many of them."""
    from model_ops.nursery import odd

    for ahead in range(min(len(scenes), MAX_IMAGES_TRIED)):
        ref, scene = scenes[(wanted.place + ahead) % len(scenes)]
        for _ in range(TRIES_PER_IMAGE):
            question = odd.write_question(wanted.question_type, scene, rng)
            if question is None:
                break
            if (ref.image_id, question) not in asked:
                return ref, question
    return None


def _unwritten(wanted: Wanted, images: Manifest, seed: int) -> QuarantineRow:
    return QuarantineRow(
        row_id=row_id("slot", question_type=wanted.question_type, number=wanted.number, seed=seed),
        kind="slots", reason="none_left", detail="the grammar has no further question of this kind",
        source=images.prefix, payload=json.dumps({"question_type": wanted.question_type}))


def _from_file(
    store: Store, images: Manifest, config: QuestionsConfig, entries: list[Any], seed: int
) -> _Planned:
    """The file's usable questions in its order; of a kind that has too many, a seeded draw."""
    by_name, uri = images_by_name(store, images), config.uri or ""
    usable: list[SlotRow] = []
    unusable: list[QuarantineRow] = []
    for number, entry in enumerate(entries):
        try:
            found = read_entry(entry)
            ref = find_image(found.image, by_name)
        except DropError as error:
            unusable.append(unusable_entry(entry, error, uri))
            continue
        usable.append(_slot(ref, found.question_type, found.question, number, seed))
    drawn = _draw(usable, config.per_type, seed)
    rows = [slot for slot in usable if slot.row_id in drawn]
    return _Planned(rows, unusable, len(usable) - len(rows))


def _draw(slots: list[SlotRow], per_type: Mapping[Any, int], seed: int) -> set[str]:
    """Ids of the slots that are taken: of every kind as many as are wanted."""
    drawn: set[str] = set()
    for kind, num in per_type.items():
        of_kind = [slot.row_id for slot in slots if slot.question_type == kind]
        drawn |= set(random.Random(f"{seed}/file").sample(of_kind, min(max(num, 0), len(of_kind))))
    return drawn


class Entry(NamedTuple):
    """A question of a file, as far as the file goes."""

    image: str
    question: str
    question_type: str


def read_entry(entry: Any) -> Entry:
    """A record with `image`, `question` and `question_type`, or with the authors' `Image ID` (the
    file name without `.jpg`), `Question` and `Question Type`.

    `DropError` (`bad_question`, `unknown_type`) if it cannot be used.
    """
    if not isinstance(entry, Mapping):
        raise DropError("bad_question", "not a record")
    question = entry.get("Question", entry.get("question"))
    if isinstance(question, str):
        question = " ".join(question.replace(_PLACEHOLDER, " ").split())
    if not isinstance(question, str) or not question:
        raise DropError("bad_question", "needs image, question and question type")
    given = entry.get("Question Type", entry.get("question_type"))
    kind = type_named(given)
    if kind is None:
        raise DropError("unknown_type", f"{given!r} is none of {', '.join(QUESTION_TYPES)}")
    return Entry(image_name(entry), question, kind)


def _funnel(planned: _Planned) -> dict[str, int]:
    drops = Counter(row.reason for row in planned.unusable)
    total = len(planned.rows) + drops.total() + planned.not_drawn
    not_drawn = {"not_drawn": planned.not_drawn} if planned.not_drawn else {}
    return {"candidates": total, **dict(sorted(drops.items())), **not_drawn,
            "planned": len(planned.rows)}


def _told(planned: _Planned) -> str:
    """Why nothing is left, in words."""
    counts = {name: num for name, num in _funnel(planned).items() if name != "planned"}
    return ", ".join(f"{name} {num}" for name, num in counts.items())
