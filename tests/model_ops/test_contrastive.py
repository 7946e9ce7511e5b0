"""A contrastive stage from images to training rows: counts, resume, what makes what anew."""

from collections import Counter
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from model_ops import contrastive
from model_ops.criteria import locate_criteria
from model_ops.engines.job import LocalModel
from model_ops.images import import_images
from model_ops.programs.calls import Call, Generate, Reply
from model_ops.stages import StagePlace, stage_record
from schemas.artifacts import read_quarantine, read_rows
from schemas.config import (
    ContrastiveStage,
    CrlConfig,
    DialogStage,
    DpoConfig,
    ImagesConfig,
    RunConfig,
    SftConfig,
)
from schemas.errors import ConfigError, DropError, EngineError
from schemas.manifest import Manifest
from schemas.questions import QUESTION_TYPES
from schemas.rows import AskedRow, ImaginedRow, PairRow, SlotRow, TrainRow
from schemas.store import Store
from tests.model_ops.contrastive_world import Imaginer, run_here

PER_TYPE = dict.fromkeys(QUESTION_TYPES, 6)
MODEL = Manifest(kind="model", prefix="model", inputs_digest="m")
STEPS = ("slots", "asked", "questions", "imagined", "pairs", "train")


class Clumsy(Imaginer):
    """Fails now and then, by the call's seed; dies at its call number `dies_at`."""

    dies_at = -1

    def __call__(self, call: Call, seed: int) -> Reply:
        if len(self.calls) == self.dies_at:
            raise EngineError("killed")
        if seed % 11 == 0:
            raise DropError("engine_error", "bad luck")
        return super().__call__(call, seed)


def place_of(store: Store, **stage: Any) -> StagePlace:
    settings = {"questions": {"per_type": PER_TYPE}, **stage}
    config = RunConfig(root=store.root, images=ImagesConfig(limit=8), shard_size=5, seed=3,
                       stages=[ContrastiveStage.model_validate(settings)])
    return StagePlace(config, 1, 0)


def generate(
    store: Store, place: StagePlace, monkeypatch: pytest.MonkeyPatch, world: Imaginer
) -> dict[str, Manifest]:
    """The steps of `flows.contrastive.generate_contrastive`."""
    monkeypatch.setattr(contrastive, "run_programs", run_here(world))
    monkeypatch.setattr(contrastive, "local_model", lambda store, model, config: LocalModel(
        path="scripted:nowhere:nothing", digest=model.digest))
    images = import_images(store, ImagesConfig(uri="nursery://field", limit=8))
    slots = contrastive.plan_questions(store, place, images)
    asked = contrastive.ask(store, place, slots, images, MODEL)
    questions = contrastive.select(store, place, asked)
    imagined = contrastive.imagine(store, place, questions, images, MODEL)
    pairs = contrastive.curate(store, place, questions, imagined, images)
    rows = contrastive.training_rows_of(store, place, pairs)
    return dict(zip(STEPS, (slots, asked, questions, imagined, pairs, rows), strict=True))


def test_a_stage_goes_from_images_to_rows_and_nothing_is_lost(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generate(local_store, place_of(local_store), monkeypatch, Clumsy())
    assert [manifest.kind for manifest in made.values()] == [
        "slots", "asked", "asked", "imagined", "pairs", "train"]
    assert [manifest.prefix for manifest in made.values()] == [
        f"rounds/round=0001/00-contrastive/{step}" for step in STEPS]
    funnel, steps = made["train"].funnel, ("planned", "asked", "unique", "imagined", "kept")
    drops = {name: num for name, num in funnel.items() if name not in steps}
    assert drops["engine_error"] and drops["imagining_engine_error"]
    assert funnel["planned"] == 42 == funnel["kept"] + sum(drops.values())
    quarantined = Counter(
        row.reason for manifest in made.values() for row in read_quarantine(local_store, manifest))
    assert quarantined.total() == sum(drops.values())
    row_types = (SlotRow, AskedRow, AskedRow, ImaginedRow, PairRow, TrainRow)
    for manifest, row_type in zip(made.values(), row_types, strict=True):
        ids = [row.row_id for row in read_rows(local_store, manifest, row_type)]
        assert len(set(ids)) == len(ids) == manifest.num_rows > 0
    assert made["train"].num_rows == 2 * made["pairs"].num_rows == 2 * funnel["kept"]
    record = stage_record(place_of(local_store), {**made, "model": MODEL}, {})
    assert (record.method, record.funnel) == ("contrastive", funnel)
    assert record.tokens_per_second > 0 and set(record.artifacts) == {*STEPS, "model"}


def test_every_row_leads_back_to_its_slot(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generate(local_store, place_of(local_store), monkeypatch, Imaginer())
    pairs = {row.row_id: row for row in read_rows(local_store, made["pairs"], PairRow)}
    imagined = {row.row_id: row for row in read_rows(local_store, made["imagined"], ImaginedRow)}
    for row in read_rows(local_store, made["train"], TrainRow):
        source = imagined[pairs[row.source_row_id].source_row_id]
        assert row.image_ids == [source.image.image_id]
        assert row.stage == source.stage == "00-contrastive" and source.model_digest == MODEL.digest


@pytest.mark.slow
@pytest.mark.parametrize("done", [0.02, 0.4, 0.7, 0.95])
def test_a_killed_generation_goes_on_to_the_same_rows(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, done: float
) -> None:
    elsewhere, fresh = Store(str(tmp_path / "elsewhere")), Clumsy()
    whole = generate(elsewhere, place_of(elsewhere), monkeypatch, fresh)
    place, dying, living = place_of(local_store), Clumsy(), Clumsy()
    dying.dies_at = int(done * len(fresh.calls))
    with pytest.raises(EngineError, match="killed"):
        generate(local_store, place, monkeypatch, dying)
    resumed = generate(local_store, place, monkeypatch, living)
    assert {name: m.digest for name, m in resumed.items()} == {
        name: m.digest for name, m in whole.items()}
    assert done < 0.1 or len(living.calls) < len(fresh.calls), "finished shards were asked again"


@pytest.mark.slow
def test_a_later_steps_settings_ask_the_model_nothing_again(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Imaginer()
    first = generate(local_store, place_of(local_store), monkeypatch, world)
    num_calls = len(world.calls)
    again = generate(local_store, place_of(local_store), monkeypatch, world)
    assert {n: m.digest for n, m in again.items()} == {n: m.digest for n, m in first.items()}
    changed = place_of(local_store, curation={"max_per_type": 2}, train={"objective": "dpo"})
    capped = generate(local_store, changed, monkeypatch, world)
    assert len(world.calls) == num_calls
    assert capped["imagined"].digest == first["imagined"].digest
    assert capped["train"].num_rows == capped["pairs"].num_rows == 14
    fewer = {"per_type": PER_TYPE, "max_similarity": None, "max_share_per_opening": 0.4}
    opened = generate(local_store, place_of(local_store, questions=fewer), monkeypatch, world)
    assert opened["asked"].digest == first["asked"].digest
    assert opened["questions"].num_rows < first["questions"].num_rows


@pytest.mark.slow
def test_an_edited_criterion_is_asked_again_but_a_moved_set_is_not(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy, world = copytree(locate_criteria("default"), tmp_path / "mine"), Imaginer()
    monkeypatch.chdir(tmp_path)
    first = generate(local_store, place_of(local_store), monkeypatch, world)
    num_calls = len(world.calls)
    moved = place_of(local_store, imagine={"criteria": "mine"})
    assert generate(local_store, moved, monkeypatch, world) == first
    assert len(world.calls) == num_calls
    (copy / "clear.yaml").write_text((copy / "clear.yaml").read_text() + "# edited\n")
    edited = generate(local_store, moved, monkeypatch, world)
    assert len(world.calls) == 2 * num_calls
    assert edited["asked"].digest != first["asked"].digest


@pytest.mark.slow
def test_a_criteria_file_that_was_edited_while_it_was_used_is_noticed(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = copytree(locate_criteria("default"), tmp_path / "mine") / "clear.yaml"

    class Editor(Imaginer):
        def __call__(self, call: Call, seed: int) -> Reply:
            if isinstance(call, Generate) and not call.sampling.choices and len(self.calls) > 90:
                path.write_text(path.read_text() + "# edited\n")
            return super().__call__(call, seed)

    place = place_of(local_store, imagine={"criteria": str(path.parent)})
    with pytest.raises(ConfigError, match="generate again, or restore the files"):
        generate(local_store, place, monkeypatch, Editor())


def test_a_bad_criteria_set_is_noticed_before_anything_is_asked(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy, world = copytree(locate_criteria("default"), tmp_path / "mine"), Imaginer()
    (copy / "clear.yaml").write_text("version: 1")
    with pytest.raises(ConfigError, match=r"clear\.yaml cannot be used: question_type"):
        generate(local_store, place_of(local_store, imagine={"criteria": str(copy)}), monkeypatch,
                 world)
    assert not local_store.exists("rounds/round=0001/00-contrastive/slots/manifest.json")


def test_without_a_judge_pairs_are_kept_by_their_form(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(local_store, imagine={"judge": False}, curation={"require_judge": False})
    made = generate(local_store, place, monkeypatch, Imaginer())
    assert made["pairs"].funnel["kept"] == made["questions"].num_rows
    with pytest.raises(ValueError, match=r"require_judge needs imagine\.judge"):
        place_of(local_store, imagine={"judge": False})


@pytest.mark.parametrize(("train", "expected"), [
    (CrlConfig(), "good"), (SftConfig(), None), (DpoConfig(), None)])
def test_only_crl_models_are_asked_with_a_word(
    local_store: Store, train: Any, expected: str | None
) -> None:
    place = place_of(local_store, train=train.model_dump())
    assert contrastive.reward_word(place) == expected
    dialog = RunConfig(root="r", images=ImagesConfig(limit=8), stages=[DialogStage()])
    assert contrastive.reward_word(StagePlace(dialog, 1, 0)) is None
    with pytest.raises(AssertionError, match="00-dialog is no ContrastiveStage"):
        StagePlace(dialog, 1, 0).of(ContrastiveStage)
