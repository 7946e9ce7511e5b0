"""`deploy/prefect.yaml` without a server: its flows are there, its configurations are valid."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.console import load_config
from deploy.steps import read_config
from schemas.config import RunConfig

FILE = Path(__file__).resolve().parents[2] / "deploy" / "prefect.yaml"
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["deployments"]


def names() -> Iterator[str]:
    """`<flow>/<deployment>`, as the Prefect UI has it."""
    for each in DEPLOYMENTS:
        yield f"{each['entrypoint'].rpartition('.')[2]}/{each['name']}"


def test_every_method_has_its_deployments_under_its_own_name() -> None:
    assert len(set(names())) == len(DEPLOYMENTS)
    assert {"improve/demo", "improve/nightly", "improve/contrastive", "improve/calibrated",
            "improve/full", "generate/dialog", "generate/contrastive", "generate/calibrated",
            "evaluate/model"} == set(names())


@pytest.mark.parametrize("name", ["demo", "nursery-long", "nightly", "qwen-dialog"])
def test_every_game_of_the_dialog_examples_is_also_played_with_the_champion(name: str) -> None:
    config = load_config(FILE.parent / "configs" / f"{name}.yaml")
    games = [each for each in config.evaluation.benchmarks if each.kind == "game"]
    alone, crossed = ({(game.domain, game.num_images) for game in games if game.cross_play is cross}
                      for cross in (False, True))
    assert alone == crossed != set()


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=names())
def test_the_flow_is_there_and_takes_the_configuration(
    repo: Path, monkeypatch: pytest.MonkeyPatch, deployment: dict[str, Any]
) -> None:
    module, _, flow = deployment["entrypoint"].rpartition(".")
    parsed = ast.parse((repo / f"{module.replace('.', '/')}.py").read_text())
    assert flow in [node.name for node in parsed.body if isinstance(node, ast.FunctionDef)]
    monkeypatch.chdir(repo)
    [step] = deployment["build"]
    built = read_config(step["deploy.steps.read_config"]["path"])
    assert built["folder"] == str(repo)
    config = RunConfig.model_validate(built["value"])
    assert config == load_config(Path(step["deploy.steps.read_config"]["path"]))
    assert deployment["parameters"]["config"] == "{{ config.value }}"
    methods = [stage.method for stage in config.stages]
    special = {"contrastive": ["contrastive"], "calibrated": ["calibrated"],
               "full": ["contrastive", "dialog", "calibrated"]}
    assert methods == special.get(deployment["name"], ["dialog"])
