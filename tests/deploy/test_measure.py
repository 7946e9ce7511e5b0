"""`flywheel pie` and `flywheel agree`: what they print, plain and as JSON."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from deploy.cli import app
from model_ops import contrastive
from schemas.store import Store
from tests.model_ops.contrastive_world import run_here
from tests.model_ops.test_agreement import ANSWERED
from tests.model_ops.test_pie_set import Writer, config_of
from tests.model_ops.test_second_opinion import odd, root

__all__ = ["odd", "root"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration as a file."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config_of(tmp_path).model_dump(mode="json")))
    return path


def told(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.stdout


def test_a_set_is_made_and_counted(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrastive, "run_programs", run_here(Writer()))
    size = ("--num", "12", "--clear", "3", "--root", str(tmp_path / "kept"))
    plain = told("pie", str(config), str(tmp_path / "pie.jsonl"), *size)
    assert "    2  Subject Ambiguity" in plain and "15  questions about" in plain
    made = json.loads(told("pie", str(config), str(tmp_path / "b.jsonl"), *size, "--json"))
    assert made["questions"]["Clear"] == 3 and made["root"] == str(tmp_path / "kept")
    assert (tmp_path / "b.jsonl").read_text() == (tmp_path / "pie.jsonl").read_text()
    refused = CliRunner().invoke(app, ["pie", str(config), str(tmp_path / "b.jsonl")])
    assert refused.exit_code == 1 and "is there already" in str(refused.exception)
    assert CliRunner().invoke(app, ["pie", str(config), "c", "--ask", "0.5"]).exit_code == 2


def test_judges_are_compared(root: Store, tmp_path: Path) -> None:
    plain = told("agree", root.root, "field-pie", "--num", "9")
    assert "rules and the judge of field-pie give 9 replies the same label in" in plain
    found = json.loads(told("agree", root.root, "field-pie", "--num", "9", "--json"))
    assert set(found) == {"benchmark", "judge", "share", "kappa", "n"} and found["n"] == 9
    out = str(tmp_path / "labels.jsonl")
    assert f"set each `label`, then --judge {out}" in told(
        "agree", root.root, "field-pie", "--write", out, "--num", "4")
    sample = root.uri(f"{ANSWERED}-file/sample")
    assert len(json.loads(told("show", sample, "--row", "3", "--json"))["pictures"]) == 1
    entries = [json.loads(line) | {"label": "True"} for line in Path(out).read_text().splitlines()]
    Path(out).write_text("\n".join(map(json.dumps, entries)))
    found = json.loads(told("agree", root.root, "field-pie", "--judge", out, "--json"))
    assert (found["share"], found["n"]) == (1.0, 4)
    refused = CliRunner().invoke(app, ["agree", root.root, "field-vqa"])
    assert refused.exit_code == 1 and "it has field-pie" in str(refused.exception)
