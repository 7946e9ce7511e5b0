"""The command line as a process: exit codes, one-line errors, `--json`."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.flows.small_run import BIN, environment, small_config

pytestmark = pytest.mark.slow

DEMO = Path("deploy/configs/demo.yaml")


def flywheel(repo: Path, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(BIN / "flywheel"), *arguments], env=environment(home), cwd=repo,
                          capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("arguments", "code", "told"), [
    (["run", "nowhere.yaml"], 1, "cannot read the configuration nowhere.yaml"),
    (["run"], 2, "Missing argument"),
    (["rounds", "nowhere"], 1, "has no finished round"),
    (["explain", "nowhere", "abc"], 1, "abc"),
    (["show", "nowhere/rounds/round=0001/00-dialog/train"], 1, "nowhere"),
    (["show", "nowhere"], 1, "no artifact of a root"),
])
def test_errors_are_one_line_and_the_exit_code_is_honest(
    repo: Path, tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    done = flywheel(repo, tmp_path, *arguments)
    assert done.returncode == code
    assert told in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
    assert code == 2 or len(done.stderr.splitlines()) == 1


def test_debug_shows_the_traceback(repo: Path, tmp_path: Path) -> None:
    assert "Traceback" in flywheel(repo, tmp_path, "--debug", "run", "nowhere.yaml").stderr


def test_a_wrong_field_is_named(repo: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(small_config("r") | {"stages": [{"method": "chess"}]}))
    done = flywheel(repo, tmp_path, "run", str(wrong))
    assert done.returncode == 1
    assert "stages.0: Input tag 'chess' found using 'method'" in done.stderr


@pytest.mark.parametrize("name", [  # llava-calibrated counts a prompt file that is not here
    "demo", "nursery-long", "nightly", "qwen-dialog", "nursery-contrastive", "llava-contrastive",
    "nursery-calibrated"])
def test_the_plan_of_every_example_loads_no_model(repo: Path, tmp_path: Path, name: str) -> None:
    done = flywheel(repo, tmp_path, "run", f"deploy/configs/{name}.yaml", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["images"] > 0 and plan["calls"] > 0 and plan["training_steps"] > 0


def test_the_plan_is_readable(repo: Path, tmp_path: Path) -> None:
    lines = flywheel(repo, tmp_path, "demo", "--dry-run").stdout.splitlines()
    assert "games per round" in {line[:22].strip() for line in lines}
    assert not any("StagePlan(" in line for line in lines)


def test_doctor_tells_each_check_as_json(repo: Path, tmp_path: Path) -> None:
    done = flywheel(repo, tmp_path, "doctor", "--json", "--root", str(tmp_path / "root"))
    told = json.loads(done.stdout)
    assert done.returncode == (0 if told["passed"] else 1)
    checks = {check["check"]: check for check in told["checks"]}
    assert {"python", "prefect", "ray", "engine", "gpu", "storage", "prefect api"} <= set(checks)
    assert checks["storage"]["passed"]
    assert all(check["passed"] or check["fix"] for check in told["checks"])


def test_doctor_names_a_prefect_that_is_not_there(repo: Path, tmp_path: Path) -> None:
    env = environment(tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api")
    done = subprocess.run([str(BIN / "flywheel"), "doctor", "--json"], env=env, cwd=repo,
                          capture_output=True, text=True, timeout=120)
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1 and not checks["prefect api"]["passed"]
