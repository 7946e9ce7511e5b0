"""A set of questions with PIE's schema, from any images: asked, checked and selected by a model.

The authors' 853 questions are not in public reach (methods/contrastive_macaroon.md, sections 2 and
9.2). The one idea: a set is made by the first steps of a contrastive stage, in a root of its own,
so it is resumed as a stage is; only the last step is here: the six odd kinds in equal shares, as
JSONL with the authors' keys. Nobody has verified such a set by hand: it is not the paper's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import fsspec

from model_ops import contrastive
from model_ops.benchmarks.pie_items import REGENERATED, shares
from model_ops.curation.selection import lot
from model_ops.images import ImageReader, import_images
from model_ops.interop.macaroon import suffix_of
from model_ops.models import publish_base
from model_ops.stages import OnProgress, StagePlace
from schemas.artifacts import read_rows
from schemas.config import ContrastiveStage, RunConfig
from schemas.errors import ConfigError
from schemas.lock import hold_root
from schemas.manifest import Manifest
from schemas.questions import QUESTION_TYPES
from schemas.rows import AskedRow
from schemas.store import Store

FEWEST_SURE = 0.5
"""What the check has to give to a question where the configuration checks nothing."""
SPARE = 1.1
"""How many more questions than the yield so far suggests are advised to be asked."""


@dataclass(frozen=True, slots=True)
class PieRequest:
    """What is wanted, and where it goes."""

    out: str
    """The JSONL file (a path or an fsspec URI); `images/` is made beside it."""
    num: int = 853
    """Odd questions, in equal shares."""
    num_clear: int = 300
    """`Clear` questions."""
    ask: float = 2.0
    """Questions asked for each one wanted: some fail the checks."""
    images_uri: str | None = None
    """Other images than the configuration's."""

    @property
    def wanted(self) -> dict[str, int]:
        """Questions of each kind."""
        return shares(self.num, self.num_clear)


class PieSet(NamedTuple):
    """What was written: questions of each kind, images, and where."""

    questions: dict[str, int]
    images: int
    out: str
    root: str


def make_pie_set(
    config: RunConfig, request: PieRequest, root: str | None = None,
    on_progress: OnProgress | None = None,
) -> PieSet:
    """Ask until the set can be drawn, and write it. The same call continues one that was stopped.

    *root* (`<config.root>/pie`) keeps what was asked. Raises `ConfigError` if `request.out` is
    there already, or if too few questions of a kind passed: it says how many more to ask.
    """
    _refuse_to_replace(request.out)
    own = pie_config(config, request, root or f"{config.root.rstrip('/')}/pie")
    store, place = Store(own.root), StagePlace(own, 1, 0)
    with hold_root(store, f"pie {own.root}", own.lease_minutes):
        images = import_images(store, own.images)
        model = publish_base(store, own.model)
        slots = contrastive.plan_questions(store, place, images)
        asked = contrastive.ask(store, place, slots, images, model, on_progress)
        questions = contrastive.select(store, place, asked)
        drawn = draw(store, questions, request, place)
        return write_set(store, images, drawn, request.out)


def pie_config(config: RunConfig, request: PieRequest, root: str) -> RunConfig:
    """The configuration whose first stage asks the questions: model, engine and criteria are those
    of *config*, the questions are always the model's own, and always checked."""
    stages = [stage for stage in config.stages if isinstance(stage, ContrastiveStage)]
    stage = stages[0] if stages else _default_stage(config)
    per_type = {kind: ceil(request.ask * num) for kind, num in request.wanted.items() if num}
    sure = stage.questions.min_type_probability
    questions = stage.questions.model_copy(update={
        "source": "model", "uri": None, "per_type": per_type,
        "min_type_probability": FEWEST_SURE if sure is None else sure})
    images = {"uri": request.images_uri} if request.images_uri else {}
    return config.model_copy(update={
        "root": root, "images": config.images.model_copy(update=images),
        "stages": [stage.model_copy(update={"questions": questions})]})


def _default_stage(config: RunConfig) -> ContrastiveStage:
    criteria = "nursery" if config.model.prompts == "nursery" else "default"
    return ContrastiveStage.model_validate({"imagine": {"criteria": criteria}})


def draw(
    store: Store, questions: Manifest, request: PieRequest, place: StagePlace
) -> list[AskedRow]:
    """Of every kind as many as are wanted, drawn by seed, in an order drawn by seed."""
    rows = sorted(read_rows(store, questions, AskedRow),
                  key=lambda row: lot(place.seed, row.row_id))
    by_kind = {kind: [row for row in rows if row.question_type == kind] for kind in QUESTION_TYPES}
    had = {kind: len(of_kind) for kind, of_kind in by_kind.items()}
    if any(had[kind] < num for kind, num in request.wanted.items()):
        raise ConfigError(_too_few(store, place, request, had))
    taken = {row.row_id for kind, num in request.wanted.items() for row in by_kind[kind][:num]}
    return [row for row in rows if row.row_id in taken]


def _too_few(
    store: Store, place: StagePlace, request: PieRequest, had: Mapping[str, int]
) -> str:
    """Which kinds lack how many, and how many more have to be asked at the yield so far."""
    asked = place.of(ContrastiveStage).questions.per_type
    told, factor = [], request.ask
    for kind, wanted in request.wanted.items():
        if had[kind] >= wanted:
            continue
        num_asked = asked[kind]  # type: ignore[index]  # its keys are the kinds
        if not had[kind]:
            told.append(f"{kind}: none of {num_asked} asked")
            continue
        more = ceil(SPARE * (wanted - had[kind]) * num_asked / had[kind])
        factor = max(factor, (num_asked + more) / wanted)
        told.append(f"{kind}: {had[kind]} of {wanted} ({num_asked} asked; ask about {more} more)")
    advice = (f"ask more with --ask {ceil(10 * factor) / 10:g} (now {request.ask:g}), or want "
              f"fewer" if factor > request.ask else "want fewer, or change the criteria or prompts")
    return (f"too few questions passed the checks. {'; '.join(told)}. {advice}; the reasons are in "
            f"`flywheel show {store.uri(place.prefix('asked'))} --quarantine` and in "
            f"{place.prefix('questions')}")


def _refuse_to_replace(out: str) -> None:
    files, path = fsspec.url_to_fs(out)
    if files.exists(path):
        raise ConfigError(f"{out} is there already: delete it, or choose another name")


def write_set(store: Store, images: Manifest, rows: list[AskedRow], out: str) -> PieSet:
    """Write the pictures to `images/` beside *out*, then *out*."""
    files, path = fsspec.url_to_fs(out)
    folder = f"{path.rpartition('/')[0] or '.'}/images"
    files.makedirs(folder, exist_ok=True)
    reader, names = ImageReader(store, images), dict[str, str]()
    for row in sorted(rows, key=lambda row: (row.image.shard, row.image.row)):
        image_id = row.image.image_id
        if image_id not in names:
            data = reader.read(row.image)
            names[image_id] = f"{image_id}.{suffix_of(data)}"
            files.pipe_file(f"{folder}/{names[image_id]}", data)
    lines = [json.dumps(_record(row, names[row.image.image_id]), ensure_ascii=False)
             for row in rows]
    files.pipe_file(path, "".join(f"{line}\n" for line in lines).encode())
    kinds = [row.question_type for row in rows]
    return PieSet({kind: kinds.count(kind) for kind in QUESTION_TYPES if kind in kinds},
                  len(names), out, store.root)


def _record(row: AskedRow, name: str) -> dict[str, Any]:
    """The authors' keys, and that the set is not theirs; an image that is no JPEG is named with
    its suffix."""
    return {"Image ID": name.removesuffix(".jpg"), "Question": row.question,
            "Question Type": row.question_type, "Source": REGENERATED}
