"""The walk along a question's line: slot, question, replies, pair, training rows, model."""

from pathlib import Path
from typing import Any, TypeVar

import pytest

from model_ops.lineage import Lineage, explain
from model_ops.rounds import read_rounds
from schemas.artifacts import publish, read_manifest, read_quarantine, read_rows, write_shard
from schemas.manifest import Manifest
from schemas.rows import AskedRow, ImaginedRow, PairRow, QuarantineRow, Row, SlotRow, TrainRow
from schemas.store import Store
from tests.model_ops.contrastive_rooted import build_contrastive_root

pytestmark = pytest.mark.slow

RowT = TypeVar("RowT", bound=Row)
STAGE = "rounds/round=0002/00-contrastive"
LINE = ["slots", "asked", "imagined", "pairs"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two rounds of objective `crl`."""
    store = Store(str(tmp_path_factory.mktemp("lineage")))
    build_contrastive_root(store, rounds=2)
    return store


def rows_of(store: Store, artifact: str, row_type: type[RowT]) -> list[RowT]:
    return list(read_rows(store, read_manifest(store, f"{STAGE}/{artifact}"), row_type))


def dropped_of(store: Store, artifact: str) -> list[QuarantineRow]:
    return list(read_quarantine(store, read_manifest(store, f"{STAGE}/{artifact}")))


def said(lineage: Lineage) -> list[str]:
    return [step.what for step in lineage.steps]


def test_a_training_row_leads_to_its_slot_and_its_learner(root: Store) -> None:
    [_, first, second] = read_rounds(root)
    row = rows_of(root, "train", TrainRow)[-1]
    lineage = explain(root, row.row_id)
    assert (lineage.kind, lineage.round, lineage.stage) == ("train", 2, "00-contrastive")
    assert list(lineage.line) == LINE and lineage.game_id is None
    assert lineage.line["pairs"] == row.source_row_id
    assert lineage.model_digest == first.model == row.model_digest
    assert lineage.learnt_by == [second.model]
    assert lineage.image_ids == row.image_ids and "images" not in lineage.row
    assert lineage.rules["program"] == "imagine" and lineage.determinism == "call"
    assert said(lineage) == ["images", "written by", "slots row", "asked row", "imagined row",
                             "pairs row", "train row", "kept", "learnt by", "decision"]
    assert "is the champion" in lineage.steps[-1].text
    assert len(lineage.training_rows) == 2 and row.row_id in lineage.training_rows


def test_every_member_of_a_line_tells_the_same_line(root: Store) -> None:
    pairs = rows_of(root, "pairs", PairRow)
    for pair in (pairs[0], pairs[-1]):
        line = explain(root, pair.row_id).line
        assert line["pairs"] == pair.row_id and line["imagined"] == pair.source_row_id
        for row_id in line.values():
            lineage = explain(root, row_id)
            assert lineage.line == line and len(lineage.learnt_by) == 1


def test_positions_lead_to_the_right_plan(root: Store) -> None:
    slots = {row.row_id: row for row in rows_of(root, "slots", SlotRow)}
    asked = {row.row_id: row for row in rows_of(root, "asked", AskedRow)}
    seen = set()
    for row in rows_of(root, "imagined", ImaginedRow):
        line = explain(root, row.row_id).line
        slot, question = slots[line["slots"]], asked[line["asked"]]
        assert (question.question, question.question_type) == (row.question, row.question_type)
        assert slot.image == question.image == row.image
        assert slot.question_type == row.question_type
        seen.add(line["slots"])
    assert len(seen) == len(rows_of(root, "imagined", ImaginedRow)), "two lines share a slot"


@pytest.mark.parametrize(("artifact", "members", "reason"), [
    ("asked", ["slots"], "type_mismatch"), ("questions", ["slots", "asked"], "opening_cap"),
    ("pairs", ["slots", "asked", "imagined"], "cut_off")])
def test_a_line_that_ended_says_where_and_why(
    root: Store, artifact: str, members: list[str], reason: str
) -> None:
    for dropped in dropped_of(root, artifact):
        lineage = explain(root, dropped.row_id)
        assert lineage.kind == members[-1] and list(lineage.line) == members
        assert lineage.training_rows == lineage.learnt_by == []
        assert lineage.steps[-1].what == "dropped" and reason in lineage.steps[-1].text
        assert lineage.steps[-1].uri.endswith(f"/{artifact}")


def test_a_pair_that_is_learnt_as_it_is(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    build_contrastive_root(store, rounds=2, objective="dpo")
    [_, _, second] = read_rounds(store)
    row = rows_of(store, "train", PairRow)[0]
    lineage = explain(store, row.row_id)
    assert (lineage.kind, list(lineage.line)) == ("pairs", LINE)
    assert lineage.training_rows == [row.row_id] and lineage.learnt_by == [second.model]
    assert "became 1 training row:" in next(s.text for s in lineage.steps if s.what == "kept")
    store.delete(f"{STAGE}/pairs/manifest.json")
    again = explain(store, row.row_id)
    assert (again.kind, again.row["row_id"]) == ("train", row.row_id) and again.line == {}


def test_both_methods_of_a_round_are_told_apart(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    build_contrastive_root(store, rounds=1, beside_dialog=True)
    for stage, kinds in (("00-dialog", ["transcripts"]), ("01-contrastive", LINE)):
        train = read_manifest(store, f"rounds/round=0001/{stage}/train")
        lineage = explain(store, next(read_rows(store, train, TrainRow)).row_id)
        assert (lineage.stage, list(lineage.line)) == (stage, kinds)


@pytest.mark.parametrize(("artifact", "left"), [
    ("slots", ["asked", "imagined", "pairs"]), ("questions", ["imagined", "pairs"]),
    ("imagined", ["pairs"]), ("pairs", [])])
def test_a_line_goes_as_far_as_the_artifacts_do(
    tmp_path: Path, artifact: str, left: list[str]
) -> None:
    store = Store(str(tmp_path))
    build_contrastive_root(store, rounds=2)
    row = rows_of(store, "train", TrainRow)[0]
    store.delete(f"{STAGE}/{artifact}/manifest.json")
    lineage = explain(store, row.row_id)
    assert list(lineage.line) == left
    assert said(lineage)[-1] == ("kept" if left else "train row") or lineage.learnt_by


def test_items_that_were_planned_again_are_not_taken_for_the_old_ones(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    build_contrastive_root(store, rounds=2)
    row = rows_of(store, "asked", AskedRow)[0]
    slots = rows_of(store, "slots", SlotRow)[:3]
    prefix = f"{STAGE}/slots"
    publish(store, Manifest(kind="slots", prefix=prefix, inputs_digest="new", shards=[
        write_shard(store, prefix, 0, slots, SlotRow)]))
    assert "slots" not in explain(store, row.row_id).line


def test_general_rows_lead_to_what_learnt_from_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    build_contrastive_root(store, rounds=1)
    [_, record] = read_rounds(store)
    [stage] = record.stages
    prefix = "rounds/round=0001/00-contrastive/mix"
    own = next(read_rows(store, read_manifest(store, stage.artifacts["train"]), TrainRow))
    row = own.model_copy(update={"row_id": "mixed", "source_row_id": "file.json#3",
                                 "model_digest": ""})
    bad = QuarantineRow(row_id="bad", kind="mix", reason="tie", detail="", source="file.json#4",
                        payload="{}")
    mix = publish(store, Manifest(kind="train", prefix=prefix, inputs_digest="mix", shards=[
        write_shard(store, prefix, 0, [row], TrainRow, [bad])]))
    model = read_manifest(store, stage.artifacts["model"])
    store.delete(f"{model.prefix}/manifest.json")
    publish(store, model.model_copy(update={"parents": {**model.parents, "mix": mix.digest}}))
    _record_artifact(store, record.round, "mix", prefix)
    lineage = explain(store, "mixed")
    assert (lineage.kind, lineage.line, lineage.training_rows) == ("mix", {}, ["mixed"])
    assert lineage.learnt_by == [record.model] and "written by" not in said(lineage)
    assert explain(store, "bad").kind == "quarantine"


def _record_artifact(store: Store, number: int, name: str, prefix: str) -> None:
    record: Any = read_rounds(store)[number]
    [stage] = record.stages
    stage = stage.model_copy(update={"artifacts": {**stage.artifacts, name: prefix}})
    store.write_bytes(f"rounds/round={number:04d}/round.json",
                      record.model_copy(update={"stages": [stage]}).model_dump_json().encode())
