"""Where VQA items come from: the nursery's facts, or a file of questions about real pictures.

Ground truth is read here and nowhere else: items are for measuring, never for a method.
"""

import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import fsspec
import pyarrow.parquet as pq

from schemas.artifacts import read_rows
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest
from schemas.rows import ImageRef, ImageRow, QuarantineRow, QuestionRow, row_id
from schemas.store import Store

NURSERY_KINDS = {"yesno": 0.5, "attribute": 0.2, "count": 0.1, "position": 0.2}
"""Shares of the kinds: half yes/no (half of them yes), so that their interval is tight."""
MAX_TRIES = 200
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm",
                      ".avif"})
"""Suffixes by which a picture's file is told from an id that has a full stop in it."""


def nursery_questions(
    store: Store, images: Manifest, num_items: int, domain: str, seed: int
) -> Iterator[QuestionRow]:
    """*num_items* questions with known answers, kinds in fixed shares, yes as often as no, spread
    evenly over the images; no question twice about an image."""
    scenes = list(_scenes(store, images))
    wanted = _wanted(num_items)
    random.Random(f"{seed}/kinds").shuffle(wanted)
    asked: set[tuple[str, str]] = set()
    for number, (kind, answer) in enumerate(wanted):
        rng = random.Random(f"{seed}/{domain}/{number}")
        ref, question, said = _one_question(scenes, number, kind, answer, asked, rng)
        asked.add((ref.image_id, question))
        yield _question_row(ref, kind, question, [said], domain, seed)


def _wanted(num_items: int) -> list[tuple[str, str | None]]:
    """Kind (and, for yes/no, answer) of every item; what rounding leaves over is yes/no."""
    counts = {kind: int(num_items * share) for kind, share in NURSERY_KINDS.items()}
    counts["yesno"] += num_items - sum(counts.values())
    return [
        (kind, ("yes", "no")[number % 2] if kind == "yesno" else None)
        for kind, count in counts.items()
        for number in range(count)
    ]


def _one_question(
    scenes: list[tuple[ImageRef, Any]],
    number: int,
    kind: str,
    answer: str | None,
    asked: set[tuple[str, str]],
    rng: random.Random,
) -> tuple[ImageRef, str, str]:
    from model_ops.nursery.grammar import sample_question

    for attempt in range(MAX_TRIES):
        ref, scene = scenes[(number + attempt // 20) % len(scenes)]
        found = sample_question(scene, rng, kind)
        fresh = found is not None and (ref.image_id, found.text) not in asked
        if found is not None and fresh and answer in (None, found.answer):
            return ref, found.text, found.answer
    raise ConfigError(
        f"no further {kind} question about {len(scenes)} images after {MAX_TRIES} tries: raise the "
        "benchmark's images.limit or lower its num_items"
    )


def _scenes(store: Store, images: Manifest) -> Iterator[tuple[ImageRef, Any]]:
    """Every image with its scene rebuilt from facts."""
    for ref, row in image_rows(store, images, ["image_id", "facts"]):
        if row.facts is None:
            raise ConfigError(
                f"image {row.image_id} has no facts: VQA without questions_uri needs nursery images"
            )
        yield ref, scene_of(json.loads(row.facts))


def scene_of(facts: Mapping[str, Any]) -> Any:
    """A nursery scene with the things that *facts* lists (how they were drawn is not known)."""
    from dataclasses import replace

    from model_ops.nursery.world import POSITIONS, Thing, sample_scene

    things = tuple(
        Thing(t["shape"], t["colour"], t["size"], POSITIONS.index(t["position"]))
        for t in facts["things"]
    )
    return replace(sample_scene(facts["seed"], facts["domain"]), things=things)


def file_questions(
    store: Store, images: Manifest, uri: str, num_items: int, domain: str, seed: int
) -> tuple[list[QuestionRow], list[QuarantineRow]]:
    """Up to *num_items* questions of the file, drawn by seed; those whose picture is not in
    *images* (it may have been quarantined there), or may be one of several, go to quarantine."""
    by_name = images_by_name(store, images)
    entries = read_entries(uri)
    random.Random(seed).shuffle(entries)
    rows: list[QuestionRow] = []
    unusable: list[QuarantineRow] = []
    for entry in entries:
        if len(rows) == num_items:
            break
        try:
            rows.append(_entry_row(entry, by_name, domain, seed))
        except DropError as error:
            unusable.append(unusable_entry(entry, error, uri))
    if not rows:
        raise ConfigError(f"{uri}: none of its {len(entries)} questions is about an image we have")
    return rows, unusable


def images_by_name(store: Store, images: Manifest) -> dict[str, dict[str, ImageRef]]:
    """File name -> path -> image: what `find_image` looks in."""
    by_name: dict[str, dict[str, ImageRef]] = {}
    for ref, row in image_rows(store, images, ["image_id", "source"]):
        by_name.setdefault(_last(row.source), {})[row.source] = ref
    return by_name


def read_entries(uri: str) -> list[dict[str, Any]]:
    """The records of a JSONL, JSON (one list) or Parquet file."""
    try:
        with fsspec.open(uri, "rb") as file:
            data: bytes = file.read()
        if uri.endswith(".parquet"):
            entries: list[dict[str, Any]] = pq.read_table(io.BytesIO(data)).to_pylist()
            return entries
        if data.lstrip().startswith(b"["):
            listed: list[dict[str, Any]] = json.loads(data)
            return listed
        return [json.loads(line) for line in data.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"the entries of {uri} cannot be read: {error}") from error


def content_digest(uri: str | None, setting: str) -> str:
    """sha256 of a file of questions or annotations: another content is another plan. "" without a
    file; `ConfigError`, which names *setting*, if it cannot be read."""
    if uri is None:
        return ""
    try:
        with fsspec.open(uri, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{setting} {uri} cannot be read: {error}") from error


def _entry_row(
    entry: Mapping[str, Any], by_name: Mapping[str, Mapping[str, ImageRef]], domain: str, seed: int
) -> QuestionRow:
    question, answers = entry.get("question"), entry.get("answers")
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(question, str) or not isinstance(answers, list) or not answers:
        raise DropError("bad_question", "needs image, question and answers")
    name = str(entry.get("image", ""))
    ref = find_image(name, by_name)
    texts = [str(answer) for answer in answers]
    kind = str(entry.get("kind") or kind_of(texts))
    return _question_row(ref, kind, question, texts, domain, seed)


def find_image(name: str, by_name: Mapping[str, Mapping[str, ImageRef]]) -> ImageRef:
    """The image with this path; else the only one whose path ends with it, or is the end of it.

    `DropError` (`unknown_image`, `ambiguous_image`) if there is none, or several.
    """
    paths = by_name.get(_last(name), {})
    if name in paths:
        return paths[name]
    fitting = [path for path in paths
               if f"/{path}".endswith(f"/{name}") or f"/{name}".endswith(f"/{path}")]
    if not fitting:
        raise DropError("unknown_image", name)
    if len(fitting) > 1:
        raise DropError("ambiguous_image", f"{name} may be {' or '.join(fitting[:3])}")
    return paths[fitting[0]]


def image_name(entry: Mapping[str, Any]) -> str:
    """The image that an entry names: its `image`, or MACAROON's `Image ID`, which is the name of a
    JPEG without its suffix (or, in our sets, of another picture with it)."""
    if "Image ID" not in entry:
        return str(entry.get("image") or "")
    name = str(entry["Image ID"])
    return name if PurePath(name).suffix.lower() in PICTURES else f"{name}.jpg"


def kind_of(answers: list[str]) -> str:
    """`yesno`, `count` or `other`, by the most frequent answer."""
    usual = max(answers, key=answers.count).strip().lower()
    if usual in ("yes", "no"):
        return "yesno"
    return "count" if usual.isdigit() else "other"


def _question_row(
    ref: ImageRef, kind: str, question: str, answers: list[str], domain: str, seed: int
) -> QuestionRow:
    return QuestionRow(
        row_id=row_id("question", image=ref.image_id, question=question, domain=domain),
        image=ref,
        kind=kind,
        question=question,
        answers=answers,
        domain=domain,
        seed=seed,
    )


def unusable_entry(entry: Any, error: DropError, uri: str) -> QuarantineRow:
    """An entry of a question file as it goes to quarantine."""
    payload = json.dumps(entry, default=str)
    return QuarantineRow(
        row_id=row_id("question", payload=payload),
        kind="question",
        reason=error.reason,
        detail=error.detail,
        source=uri,
        payload=payload,
    )


def most_frequent(unusable: Sequence[QuarantineRow]) -> str:
    """The three most frequent reasons, as the end of an error's message."""
    counts = Counter(row.reason for row in unusable)
    return "".join(f"; {reason}: {num}" for reason, num in counts.most_common(3))


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def image_rows(
    store: Store, images: Manifest, columns: list[str]
) -> Iterator[tuple[ImageRef, ImageRow]]:
    """Every image's reference with the *columns* of its row."""
    for shard in images.shards:
        part = images.model_copy(update={"shards": [shard]})
        for number, row in enumerate(read_rows(store, part, ImageRow, columns)):
            yield ImageRef(image_id=row.image_id, shard=shard.index, row=number), row
