"""Deployments on a real Prefect server and a real process worker, to the artifacts in its API."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas.artifacts import read_manifest, read_rows
from schemas.manifest import digest
from schemas.rows import ItemRow
from schemas.store import Store
from tests.flows.small_run import BIN, artifact_rows, environment, free_port, process, small_config

pytestmark = [pytest.mark.e2e, pytest.mark.prefect, pytest.mark.slow, pytest.mark.engine,
              pytest.mark.ray, pytest.mark.timeout(900)]


class Prefect:
    """A server and how to ask it."""

    def __init__(self, url: str, env: dict[str, str], repo: Path) -> None:
        self.env, self.repo = env, repo
        self.client = httpx.Client(base_url=url, timeout=60)

    def cli(self, *arguments: str, timeout: int = 600) -> str:
        """Run `prefect ...`; its output."""
        done = subprocess.run([str(BIN / "prefect"), *arguments], env=self.env, cwd=self.repo,
                              capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """POST a filter."""
        found: list[dict[str, Any]] = self.client.post(path, json=body).raise_for_status().json()
        return found


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Iterator[Prefect]:
    """A server with all deployments of the repository, and a worker."""
    folder, port = tmp_path_factory.mktemp("prefect"), free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = environment(folder / "home", PREFECT_API_URL=url)
    serve = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with process(serve, env, folder / "server.log", repo) as server:
        api = Prefect(url, env, repo)
        wait_for(api, server, folder / "server.log")
        api.cli("work-pool", "create", "flywheel", "--type", "process")
        api.cli("deploy", "--all", "--prefect-file", "deploy/prefect.yaml", "--no-prompt")
        work = ["prefect", "worker", "start", "--pool", "flywheel", "--type", "process"]
        with process(work, env, folder / "worker.log", repo):
            yield api


def wait_for(api: Prefect, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            if api.client.get("/health").is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
        assert server.poll() is None, log.read_text()
    raise AssertionError(log.read_text())


def test_all_deployments_are_there_with_their_parameters(prefect: Prefect) -> None:
    flows = {flow["id"]: flow["name"] for flow in prefect.ask("/flows/filter")}
    deployed = prefect.ask("/deployments/filter")
    assert sorted(f"{flows[d['flow_id']]}/{d['name']}" for d in deployed) == [
        "evaluate/model", "generate/calibrated", "generate/contrastive", "generate/dialog",
        "improve/calibrated", "improve/contrastive", "improve/demo", "improve/full",
        "improve/nightly"]
    for each in deployed:
        if each["name"] in ("contrastive", "calibrated", "full"):
            assert each["parameters"]["config"]["root"] == f"runs/{each['name']}"
    found = {d["name"]: d for d in deployed}
    assert found["demo"]["parameters"]["config"]["root"] == "runs/demo"
    assert found["model"]["parameters"]["model_uri"] == "nursery://vlm"
    schema = found["demo"]["parameter_openapi_schema"]
    assert "config" in schema["required"] and "RunConfig" in json.dumps(schema)
    nightly = found["nightly"]
    assert nightly["schedules"][0]["schedule"]["cron"] == "0 1 * * *"
    assert nightly["global_concurrency_limit"]["limit"] == 1
    assert nightly["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


def test_improve_runs_on_a_worker_and_shows_its_artifacts(
    prefect: Prefect, tmp_path: Path
) -> None:
    root = str(tmp_path / "root")
    config = json.dumps(small_config(root))
    prefect.cli("deployment", "run", "improve/demo", "--watch", "--param", f"config={config}")
    runs = {run["name"]: run["state_type"] for run in prefect.ask("/flow_runs/filter")}
    assert runs == {"root: 1 rounds": "COMPLETED", "root: round 1": "COMPLETED"}
    check_artifacts(prefect, root)
    check_files(Store(root))


def check_artifacts(prefect: Prefect, root: str) -> None:
    """Tables of funnel and evaluation, progress, and the link to the report."""
    artifacts = {a["key"]: a for a in prefect.ask("/artifacts/latest/filter")}
    funnel = {row["step"]: row["count"] for row in json.loads(artifacts["funnel"]["data"])}
    assert funnel["played"] == 24
    rows = json.loads(artifacts["evaluation"]["data"])
    assert {"field/game2_success", "field/vqa"} <= {row["metric"] for row in rows}
    assert {"base", "champion", "candidate"} <= set(rows[0])
    for key in ("progress-games", "progress-training", "progress-evaluation"):
        assert (artifacts[key]["type"], artifacts[key]["data"]) == ("progress", 100.0)
    assert f"file://{root}/report/index.html" in artifacts["report"]["data"]


def check_files(store: Store) -> None:
    """What the run says of itself, and the Parquet files behind it."""
    summary = json.loads(store.read_bytes("summary.json"))
    assert [r["round"] for r in summary["rounds"]] == [0, 1]
    steps = set(summary["rounds"][1]["seconds"])
    assert {"games", "generate", "curate", "train", "evaluate"} <= steps
    stage = "rounds/round=0001/00-dialog"
    assert len(set(artifact_rows(store, f"{stage}/transcripts"))) == 24
    assert read_manifest(store, f"{stage}/train").num_rows > 0
    assert summary["rounds"][1]["model"] == read_manifest(store, f"{stage}/model").digest


def test_evaluate_runs_on_a_worker_and_leaves_a_row_for_each_item(
    prefect: Prefect, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "root"))
    config = json.dumps(eight_questions(store.root))
    prefect.cli("deployment", "run", "evaluate/model", "--watch", "--param", f"config={config}")
    runs = {run["name"]: run["state_type"] for run in prefect.ask("/flow_runs/filter")}
    assert runs["evaluate nursery://vlm"] == "COMPLETED"
    prefix = f"evaluations/{digest('nursery://vlm')[:12]}"
    model = read_manifest(store, f"{prefix}/model")
    rows = list(read_rows(store, read_manifest(store, f"{prefix}/field-vqa"), ItemRow))
    assert len({row.row_id for row in rows}) == 8
    assert all(row.reply and row.model_digest == model.digest for row in rows)
    assert sum(row.score for row in rows) > 0
    assert not store.exists("champion.json")  # measuring changes no round


def eight_questions(root: str) -> dict[str, Any]:
    """What `evaluate/model` is to measure with: one benchmark, a handful of items."""
    config = small_config(root)
    questions = {**config["evaluation"]["benchmarks"][1], "num_items": 8}
    return {**config, "evaluation": {"benchmarks": [questions]}, "gate": {"primary": "field/vqa"}}
