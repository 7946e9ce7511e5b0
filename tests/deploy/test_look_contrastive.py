"""The commands that look, on a root with contrastive rounds: what was asked and replied comes
first, with its picture, and text of models cannot steer a terminal."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from deploy.cli import app
from deploy.readable import gist, plain, readable
from schemas.artifacts import read_manifest, read_quarantine, read_rows
from schemas.rows import AskedRow, ImaginedRow, PairRow, TrainRow
from schemas.store import Store
from tests.model_ops.contrastive_rooted import build_contrastive_root

STAGE = "rounds/round=0001/00-contrastive"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One finished round."""
    store = Store(str(tmp_path_factory.mktemp("look")))
    build_contrastive_root(store, rounds=1)
    return store


def told(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


def shown(root: Store, artifact: str, folder: Path, *options: str) -> tuple[list[str], Any]:
    """The lines about the first row, and the same as JSON."""
    uri = root.uri(f"{STAGE}/{artifact}")
    lines = told("show", uri, "--row", "0", "--save", str(folder), *options).splitlines()
    return lines, json.loads(told("show", uri, "--row", "0", "--json", *options))


@pytest.mark.parametrize(("artifact", "row_type", "first"), [
    ("asked", AskedRow, ["question_type", "question"]),
    ("imagined", ImaginedRow, ["question_type", "question", "desired", "undesired"]),
    ("pairs", PairRow, ["role", "prompt", "chosen", "rejected"]),
    ("train", TrainRow, ["role", "prompt", "completion"])])
def test_what_was_said_comes_first_and_the_picture_with_it(
    root: Store, tmp_path: Path, artifact: str, row_type: Any, first: list[str]
) -> None:
    lines, found = shown(root, artifact, tmp_path)
    row = next(read_rows(root, read_manifest(root, f"{STAGE}/{artifact}"), row_type))
    assert [line.partition(":")[0] for line in lines[: len(first)]] == first
    assert f"row_id: {row.row_id}" in lines and str(tmp_path / "0.png") in lines
    assert Image.open(tmp_path / "0.png").size == (48, 48)
    assert found["row"]["row_id"] == row.row_id and len(found["pictures"]) == 1


def test_messages_are_shown_as_text(root: Store, tmp_path: Path) -> None:
    lines, found = shown(root, "pairs", tmp_path)
    pair = next(read_rows(root, read_manifest(root, f"{STAGE}/pairs"), PairRow))
    assert lines[1] == f"prompt: user: <image> {pair.prompt[0].content[-1].text}"
    assert lines[2] == f"chosen: assistant: {pair.chosen[0].content[0].text}"
    assert lines[3] == f"rejected: assistant: {pair.rejected[0].content[0].text}"
    assert found["row"]["chosen"][0]["content"][0]["type"] == "text"


def test_an_artifact_lists_what_its_rows_are_about(root: Store) -> None:
    assert "False Premise: What about False Premise number" in told(
        "show", root.uri(f"{STAGE}/pairs"))
    assert "good: good What about" in told("show", root.uri(f"{STAGE}/train"))
    assert "about" not in told("show", root.uri("images"))


def test_quarantined_pairs_are_shown(root: Store) -> None:
    uri = root.uri(f"{STAGE}/pairs")
    [dropped, *_] = read_quarantine(root, read_manifest(root, f"{STAGE}/pairs"))
    assert "cut_off" in told("show", uri, "--quarantine")
    assert "reason: cut_off" in told("show", uri, "--quarantine", "--row", "0")
    [first, *_] = json.loads(told("show", uri, "--quarantine", "--json"))
    assert first == dropped.model_dump()


@pytest.mark.parametrize(("artifact", "row_type"), [("pairs", PairRow), ("train", TrainRow)])
def test_pairs_and_training_rows_are_explained(root: Store, artifact: str, row_type: Any) -> None:
    row = next(read_rows(root, read_manifest(root, f"{STAGE}/{artifact}"), row_type))
    text = told("explain", root.root, row.row_id)
    for station in ("images:", "written by:", "slots row:", "asked row:", "imagined row:",
                    "pairs row:", "kept:", "learnt by:", "decision:"):
        assert station in text
    lineage = json.loads(told("explain", root.root, row.row_id, "--json"))
    assert set(lineage["line"]) == {"slots", "asked", "imagined", "pairs"}


def test_rounds_say_that_over_asking_should_fall(root: Store) -> None:
    text = told("rounds", root.root)
    assert "field/pie_overask ↓" in text and "↓ lower is better" in text
    summary = json.loads(told("rounds", root.root, "--json"))
    assert "field/pie_overask" in summary["rounds"][1]["evaluation"]


def test_text_cannot_steer_the_terminal() -> None:
    hostile = "a\x1b[2Jb\x07c\u202ed\nstays"
    assert plain(hostile) == "a\\x1b[2Jb\\x07c\\u202ed\nstays"
    [(_, question), *_] = readable({"row_id": "r", "question": hostile})
    assert "\x1b" not in question
    assert "\x1b" not in gist({"question_type": "Clear", "question": hostile})


def test_rows_without_anything_said_have_no_gist() -> None:
    assert gist({"row_id": "r", "images": []}) == ""
    assert gist({"role": "good", "prompt": []}) == "good"
    assert gist({"question_type": "Clear", "question": "x " * 90}).endswith("...")
