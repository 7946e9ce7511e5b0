"""The walk from a row to its game, its model and its learners, on a root of the real store."""

from pathlib import Path

import pytest
from PIL import Image

from model_ops.images import import_images
from model_ops.lineage import Lineage, explain
from schemas.artifacts import publish, read_manifest, read_quarantine, read_rows, write_shard
from schemas.config import ImagesConfig
from schemas.errors import FlywheelError
from schemas.manifest import Manifest
from schemas.records import RoundRecord
from schemas.rows import ImageRow, ItemRow, QuarantineRow, TrainRow, TranscriptRow
from schemas.store import Store
from tests.model_ops.rooted import STAGE, build_root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two finished rounds."""
    store = Store(str(tmp_path_factory.mktemp("lineage")))
    build_root(store, rounds=2)
    return store


@pytest.fixture(scope="module")
def records(root: Store) -> list[RoundRecord]:
    """The round records of the root."""
    names = [f"rounds/round={number:04d}/round.json" for number in range(3)]
    return [RoundRecord.model_validate_json(root.read_bytes(name)) for name in names]


def rows_of(store: Store, number: int, artifact: str, row_type: type) -> list:
    manifest = read_manifest(store, f"rounds/round={number:04d}/{STAGE}/{artifact}")
    return list(read_rows(store, manifest, row_type))


def said(lineage: Lineage) -> list[str]:
    return [step.what for step in lineage.steps]


def test_a_training_row_leads_to_its_game_and_its_learner(
    root: Store, records: list[RoundRecord]
) -> None:
    row = rows_of(root, 2, "train", TrainRow)[-1]
    lineage = explain(root, row.row_id)
    assert (lineage.kind, lineage.round, lineage.stage) == ("train", 2, STAGE)
    assert lineage.game_id == row.source_row_id
    assert row.row_id in lineage.training_rows
    assert lineage.model_digest == records[1].model
    assert lineage.learnt_by == [records[2].model]
    assert lineage.image_ids == row.image_ids
    assert (lineage.seed, lineage.prompt_version) == (row.seed, "nursery-1")
    assert lineage.rules["play"]["guesser"] == "per_image"
    assert "images" not in lineage.row
    assert lineage.steps[0].uri == root.uri("images")
    assert said(lineage) == ["images", "written by", "transcripts row", "train row", "kept",
                             "learnt by", "decision"]
    assert "is the champion" in lineage.steps[-1].text


def test_a_dropped_game_says_why(root: Store) -> None:
    game = next(row for row in rows_of(root, 1, "transcripts", TranscriptRow) if not row.won)
    lineage = explain(root, game.row_id)
    assert lineage.kind == "transcripts"
    assert lineage.training_rows == lineage.learnt_by == []
    assert said(lineage) == ["images", "written by", "transcripts row", "dropped"]
    assert "lost" in lineage.steps[-1].text


def test_a_kept_game_names_its_rows(root: Store) -> None:
    source = rows_of(root, 1, "train", TrainRow)[0].source_row_id
    lineage = explain(root, source)
    assert len(lineage.training_rows) == 2
    assert "kept" in said(lineage)


def test_a_benchmark_item_is_found_but_nothing_learnt_from_it(
    root: Store, records: list[RoundRecord]
) -> None:
    prefix = records[0].evaluation.items["field-vqa"]
    item = next(read_rows(root, read_manifest(root, prefix), ItemRow))
    lineage = explain(root, item.row_id)
    assert (lineage.kind, lineage.stage, lineage.learnt_by) == ("items", None, [])
    assert lineage.model_digest == records[0].model
    assert said(lineage) == ["written by", "items row", "items row", "items row"]


def test_a_row_that_is_only_in_quarantine_is_found(root: Store, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    build_root(store, rounds=1)
    path = f"rounds/round=0001/{STAGE}/transcripts/manifest.json"
    game = next(row for row in rows_of(store, 1, "transcripts", TranscriptRow) if not row.won)
    store.delete(path)
    lineage = explain(store, game.row_id)
    assert lineage.kind == "quarantine"
    assert "dropped, lost" in lineage.steps[-1].text


@pytest.mark.parametrize("prefix", ["images", "benchmarks/field-vqa/images"])
def test_a_picture_that_was_not_imported_is_found(tmp_path: Path, prefix: str) -> None:
    store = Store(str(tmp_path / "root"))
    build_root(store, rounds=1)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / "good.png")
    (tmp_path / "photos" / "bad.png").write_bytes(b"no picture")
    images = import_images(store, ImagesConfig(uri=str(tmp_path / "photos")), prefix)
    lineage = explain(store, next(read_quarantine(store, images)).row_id)
    assert (lineage.kind, lineage.round, lineage.prefix) == ("quarantine", None, prefix)
    assert "bad.png" in lineage.steps[-1].text


def test_a_rivals_answer_is_among_the_others(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    records = build_root(store, rounds=1)
    item = next(read_rows(store, read_manifest(store, records[0].evaluation.items["field-vqa"]),
                          ItemRow))
    prefix = "rounds/round=0001/rival/field-vqa"
    shard = write_shard(store, prefix, 0, [item], ItemRow)
    publish(store, Manifest(kind="items", prefix=prefix, inputs_digest="1" * 64, shards=[shard]))
    assert store.uri(prefix) in [step.uri for step in explain(store, item.row_id).steps]


@pytest.mark.parametrize("prefix", [
    "benchmarks/field-vqa/items", "rounds/round=0001/rival/field-vqa"])
def test_the_pictures_of_a_benchmark_item_are_the_benchmarks_own(
    tmp_path: Path, prefix: str
) -> None:
    store = Store(str(tmp_path / "root"))
    records = build_root(store, rounds=1)
    item = next(read_rows(store, read_manifest(store, records[0].evaluation.items["field-vqa"]),
                          ItemRow)).model_copy(update={"row_id": "new", "image_ids": ["1" * 64]})
    shard = write_shard(store, prefix, 0, [item], ItemRow)
    publish(store, Manifest(kind="items", prefix=prefix, inputs_digest="1" * 64, shards=[shard]))
    [images] = [step for step in explain(store, "new").steps if step.what == "images"]
    assert images.uri == store.uri("benchmarks/field-vqa/images")


def test_the_beginning_of_an_id_is_enough(root: Store) -> None:
    row = rows_of(root, 2, "train", TrainRow)[-1]
    whole = explain(root, row.row_id)
    made = next(step.text for step in whole.steps if step.what == "kept")
    assert row.row_id[:12] in made, "as it is printed"
    assert explain(root, row.row_id[:12]) == explain(root, row.row_id[:8]) == whole
    with pytest.raises(FlywheelError, match="or its first 8 characters"):
        explain(root, row.row_id[:7])


def test_a_dropped_row_is_found_by_the_beginning_and_several_are_counted(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    records = build_root(store, rounds=1)
    item = next(read_rows(store, read_manifest(store, records[0].evaluation.items["field-vqa"]),
                          ItemRow))
    prefix = "rounds/round=0001/rival/field-vqa"
    rows = [item.model_copy(update={"row_id": f"{each:0>32}"}) for each in (1, 2)]
    lost = [QuarantineRow(row_id="d" * 32, kind="items", reason="x", detail="", source="",
                          payload="{}")]
    shard = write_shard(store, prefix, 0, rows, ItemRow, lost)
    publish(store, Manifest(kind="items", prefix=prefix, inputs_digest="1" * 64, shards=[shard]))
    with pytest.raises(FlywheelError, match=r"2 rows .* begins with '00000000': give more of it"):
        explain(store, "0" * 8)
    assert explain(store, "d" * 12).row_id == "d" * 32


def test_the_id_of_a_picture_says_how_to_look_at_it(root: Store) -> None:
    images = read_manifest(root, "images")
    image_id = list(read_rows(root, images, ImageRow, columns=["image_id"]))[5].image_id
    for given in (image_id, image_id[:12]):
        with pytest.raises(FlywheelError, match=rf"flywheel show {root.root}/images --row 5`"):
            explain(root, given)


def test_an_unknown_id_says_what_was_searched(root: Store) -> None:
    with pytest.raises(FlywheelError, match=r"(?s)searched.*00-dialog/train.*3 finished rounds"):
        explain(root, "nothing")


def test_a_root_without_rounds_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FlywheelError, match="no artifact"):
        explain(Store(str(tmp_path)), "nothing")
