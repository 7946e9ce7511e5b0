"""Where the items of PIE come from: regenerated from the nursery's images, or a file.

The authors' set of 853 questions is not in public reach, so a set of the same schema is made here:
the six odd kinds in equal shares, and `Clear` questions beside them as the control which PIE lacks
(methods/contrastive_macaroon.md, sections 2 and 9). Facts travel with nursery items for the
`rules` judge alone.
"""

import inspect
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from model_ops.benchmarks.pie import PieBenchmark
from model_ops.benchmarks.questions import (
    content_digest,
    find_image,
    image_name,
    image_rows,
    images_by_name,
    most_frequent,
    read_entries,
    scene_of,
    unusable_entry,
)
from model_ops.benchmarks.shards import write_items
from model_ops.criteria import load_criteria, portable_criteria
from schemas.artifacts import find_manifest, publish
from schemas.config import BenchmarkConfig, JudgeConfig
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest, digest
from schemas.questions import CLEAR, ODD_TYPES, QUESTION_TYPES, slug, type_named
from schemas.rows import ImageRef, PieRow, QuarantineRow, row_id
from schemas.store import Store

CODE_VERSION = 1
"""Raise it when planning changes."""
KIND = "pie"
"""Kind of the planned artifact, and name of the program that answers it."""
REGENERATED = "regenerated"
"""`PieRow.source` of questions that are not the authors'."""
TRIES_PER_IMAGE = 5
_REWARDS = {"model": None, "none": ""}


class _Pictured(NamedTuple):
    ref: ImageRef
    facts: str | None


def plan_pie(
    store: Store, config: BenchmarkConfig, images: Manifest, seed: int, prefix: str, shard_size: int
) -> Manifest:
    """Plan `num_items` odd questions in equal shares and `num_clear` clear ones.

    From a file they are drawn by seed, as many as it has; its bad entries go to quarantine
    (`bad_question`, `unknown_type`, `unknown_image`, `ambiguous_image`, `duplicate_question`).
    Raises `ConfigError` without a usable question, or where the judge lacks facts.
    """
    settings = {"domain": config.domain, "num_items": config.num_items,
                "num_clear": config.pie.num_clear, "questions_uri": config.pie.questions_uri}
    content = content_digest(config.pie.questions_uri, "pie.questions_uri")
    inputs = digest(["plan pie", CODE_VERSION, settings, content, images.digest, seed, shard_size])
    if (done := find_manifest(store, prefix, inputs)) is not None:
        return done
    rows, unusable = _plan(store, config, images, seed)
    asked = Counter(row.question_type for row in rows)
    odd = len(rows) - asked[CLEAR]
    return publish(store, Manifest(
        kind=KIND, prefix=prefix, inputs_digest=inputs, parents={"images": images.digest},
        shards=write_items(store, prefix, rows, unusable, shard_size, inputs), config=settings,
        funnel={"odd": odd, "clear": asked[CLEAR], "unusable": len(unusable)},
        stats={f"questions/{slug(kind)}": float(asked[kind]) for kind in QUESTION_TYPES}))


def pie_settings(config: BenchmarkConfig, metric: str) -> PieBenchmark:
    """The program's settings. Raises `ConfigError` for a bad criteria set."""
    pie = config.pie
    shaping = pie.judge.model_dump(include={"kind", "model", "base_url", "model_name"})
    return PieBenchmark(
        metric=metric, domain=config.domain, criteria=portable_criteria(pie.criteria),
        rubric=rubric_digest(pie.criteria, pie.judge), prompted=pie.prompted,
        reward=_REWARDS.get(pie.reward, pie.reward), judge=JudgeConfig.model_validate(shaping),
        max_tokens=pie.max_tokens)


def rubric_digest(criteria: str, judge: JudgeConfig) -> str:
    """sha256 over what a verdict follows: the criteria files and, for `rules`, their source."""
    loaded = load_criteria(criteria).digest
    if judge.kind != "rules":
        return loaded
    from model_ops.nursery import grammar, odd

    return digest([loaded, inspect.getsource(odd), inspect.getsource(grammar)])


def shares(num_items: int, num_clear: int) -> dict[str, int]:
    """Questions of each kind: equal shares of the odd ones, what is left over one each from the
    first kind on (853 = 6 * 142 + 1)."""
    share, rest = divmod(num_items, len(ODD_TYPES))
    counts = {kind: share + (place < rest) for place, kind in enumerate(ODD_TYPES)}
    return counts | {CLEAR: num_clear}


def _plan(
    store: Store, config: BenchmarkConfig, images: Manifest, seed: int
) -> tuple[list[PieRow], list[QuarantineRow]]:
    pictures = [_Pictured(ref, row.facts)
                for ref, row in image_rows(store, images, ["image_id", "facts"])]
    has_facts = all(picture.facts is not None for picture in pictures)
    if not has_facts and config.pie.judge.kind == "rules":
        raise ConfigError(f"pie.judge.kind 'rules' judges by the nursery's facts, which images of "
                          f"{config.images.uri} do not have: set it to 'vlm' or 'endpoint'")
    if config.pie.questions_uri is not None:
        return _from_file(store, config, images, pictures, seed)
    if not has_facts:
        raise ConfigError(
            f"pie on {config.images.uri} needs questions: make a set with `flywheel pie CONFIG "
            f"questions.jsonl --images {config.images.uri}` (or take the authors' "
            f"evaluation_data.jsonl), and set pie.questions_uri to it")
    return _regenerated(pictures, config, seed), []


def _regenerated(pictures: Sequence[_Pictured], config: BenchmarkConfig, seed: int) -> list[PieRow]:
    """Questions from the scenes: kinds shuffled, spread over the images, none asked twice."""
    wanted = [kind for kind, num in shares(config.num_items, config.pie.num_clear).items()
              for _ in range(num)]
    random.Random(f"{seed}/kinds").shuffle(wanted)
    scenes = [scene_of(json.loads(picture.facts or "")) for picture in pictures]
    asked: set[tuple[str, str]] = set()
    rows = []
    for number, kind in enumerate(wanted):
        rng = random.Random(f"{seed}/{config.domain}/{number}")
        place, question = _one_question(pictures, scenes, number, kind, asked, rng)
        asked.add((pictures[place].ref.image_id, question))
        rows.append(_row(pictures[place], kind, question, config.domain, REGENERATED, seed))
    return rows


def _one_question(
    pictures: Sequence[_Pictured], scenes: Sequence[Any], number: int, kind: str,
    asked: set[tuple[str, str]], rng: random.Random,
) -> tuple[int, str]:
    """Place of the image and the question; not every scene has one of every kind."""
    from model_ops.nursery import odd

    for attempt in range(TRIES_PER_IMAGE * len(pictures)):
        place = (number + attempt // TRIES_PER_IMAGE) % len(pictures)
        question = odd.write_question(kind, scenes[place], rng)
        if question is not None and (pictures[place].ref.image_id, question) not in asked:
            return place, question
    raise ConfigError(f"no further {kind!r} question about {len(pictures)} images: raise the "
                      f"benchmark's images.limit, or lower num_items or pie.num_clear")


def _from_file(
    store: Store, config: BenchmarkConfig, images: Manifest, pictures: Sequence[_Pictured],
    seed: int,
) -> tuple[list[PieRow], list[QuarantineRow]]:
    uri = config.pie.questions_uri or ""
    by_name = images_by_name(store, images)
    by_id = {picture.ref.image_id: picture for picture in pictures}
    entries = read_entries(uri)
    random.Random(seed).shuffle(entries)
    room = {"odd": config.num_items, CLEAR: config.pie.num_clear}
    rows: dict[str, PieRow] = {}
    unusable: list[QuarantineRow] = []
    for entry in entries:
        try:
            row = _entry_row(entry, by_name, by_id, config.domain, seed)
            if row.row_id in rows:
                raise DropError("duplicate_question", row.question)
        except DropError as error:
            unusable.append(unusable_entry(entry, error, uri))
            continue
        pile = CLEAR if row.question_type == CLEAR else "odd"
        if room[pile]:
            room[pile] -= 1
            rows[row.row_id] = row
    if not rows:
        raise ConfigError(f"{uri}: none of its {len(entries)} questions can be used"
                          f"{most_frequent(unusable)}")
    return list(rows.values()), unusable


def _entry_row(
    entry: Any, by_name: Mapping[str, Mapping[str, ImageRef]], by_id: Mapping[str, _Pictured],
    domain: str, seed: int,
) -> PieRow:
    """An entry with the authors' keys, or with ours (`image`, `question`, `question_type`)."""
    if not isinstance(entry, Mapping):
        raise DropError("bad_question", "not a record")
    question = entry.get("Question", entry.get("question"))
    given = entry.get("Question Type", entry.get("question_type"))
    if not isinstance(question, str) or not question.strip():
        raise DropError("bad_question", "needs image, question and question type")
    kind = type_named(given)
    if kind is None:
        raise DropError("unknown_type", f"{given!r} is none of {', '.join(QUESTION_TYPES)}")
    picture = by_id[find_image(image_name(entry), by_name).image_id]
    source = REGENERATED if entry.get("Source") == REGENERATED else "file"
    return _row(picture, kind, question.strip(), domain, source, seed)


def _row(
    picture: _Pictured, kind: str, question: str, domain: str, source: str, seed: int
) -> PieRow:
    return PieRow(
        row_id=row_id("pie", image=picture.ref.image_id, question=question, question_type=kind,
                      domain=domain),
        image=picture.ref, question_type=kind, question=question, domain=domain, source=source,
        facts=picture.facts, seed=seed)
