"""The commands that look, on a root with calibrated rounds: a search is shown as its tree."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.readable import gist, readable
from schemas.artifacts import read_manifest, read_rows
from schemas.rows import PairRow
from schemas.searches import SearchRow
from schemas.store import Store
from tests.model_ops.calibrated_rooted import build_calibrated_root, tree

STAGE = "rounds/round=0001/00-calibrated"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One finished round."""
    store = Store(str(tmp_path_factory.mktemp("look")))
    build_calibrated_root(store, rounds=1)
    return store


def told(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_search_is_shown_as_its_tree_with_its_picture(root: Store, tmp_path: Path) -> None:
    lines = told("show", root.uri(f"{STAGE}/searches"), "--row", "0", "--save",
                 str(tmp_path)).splitlines()
    row = next(read_rows(root, read_manifest(root, f"{STAGE}/searches"), SearchRow))
    assert lines[:2] == [f"question: {row.question}", "nodes: "]
    assert all("mean logprob" in line for line in lines[2:9])
    assert lines[2].startswith(f"  {row.nodes[1].text}") and lines[3].startswith("    ")
    assert f"row_id: {row.row_id}" in lines and str(tmp_path / "0.png") in lines


@pytest.mark.parametrize("artifact", ["prompts", "nodes", "train"])
def test_the_other_rows_are_shown(root: Store, tmp_path: Path, artifact: str) -> None:
    uri = root.uri(f"{STAGE}/{artifact}")
    lines = told("show", uri, "--row", "1", "--save", str(tmp_path))
    assert "row_id: " in lines and str(tmp_path / "0.png") in lines
    assert "about" in told("show", uri)


def test_pairs_and_searches_are_explained(root: Store) -> None:
    pair = next(read_rows(root, read_manifest(root, f"{STAGE}/train"), PairRow))
    for row_id in (pair.row_id, pair.source_row_id):
        text = told("explain", root.root, row_id)
        for station in ("images:", "written by:", "prompts row:", "searches row:", "search tree:",
                        "kept:", "learnt by:", "decision:"):
            assert station in text
        assert "(chosen)" in text and "+ " in text


def test_a_gist_is_a_question_or_a_sentence() -> None:
    assert gist({"question": "describe  the image ."}) == "describe the image ."
    assert gist({"text": "a circle ."}) == "a circle ."
    nodes = [node.model_dump() for node in tree("any")]
    [(name, text)] = readable({"nodes": nodes})
    assert name == "nodes" and text.count("\n") == 7
