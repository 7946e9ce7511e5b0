"""Training as a Ray Train job, with workers and drivers that are killed mid-way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import psutil
import pytest

from model_ops.models import fetch_model, hash_files, publish_base, reward_word_of
from model_ops.training import launch
from model_ops.training.job import Fitted, Step, TrainJob
from model_ops.training.launch import read_metrics, train
from schemas.artifacts import read_manifest
from schemas.config import SftConfig
from schemas.errors import ConfigError, TrainingError
from schemas.manifest import Manifest
from schemas.store import Store
from tests.model_ops.training.conftest import MODEL, NURSERY, LocalSession, publish_rows

MakeJob = Callable[..., TrainJob]

LONG = {"epochs": 10, "save_steps": 5}
"""40 steps, 8 checkpoints: some seconds."""
DRIVER = """
import sys
from model_ops.training.launch import train
from schemas.artifacts import read_manifest
from schemas.config import ModelConfig, SftConfig
from schemas.store import Store

root, rows, start, config, model, prefix = sys.argv[1:]
store = Store(root)
train(store, [read_manifest(store, rows)], read_manifest(store, start),
      SftConfig.model_validate_json(config), prefix, 0, ModelConfig.model_validate_json(model))
"""

def in_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that runs a job; a busy machine may take minutes to import everything."""
    return pytest.mark.ray(pytest.mark.engine(pytest.mark.timeout(900)(test)))


def run(job: TrainJob, on_progress: Callable[[int, int], None] | None = None) -> Manifest:
    return train(job.store, job.rows, job.start, job.config, job.prefix, job.seed, job.model,
                 on_progress)


def wait_for(what: Callable[[], object], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def has_checkpoint(job: TrainJob) -> bool:
    place = Path(job.store.uri(f"{job.prefix}.checkpoints")) / job.inputs_digest[:16]
    return (place / "checkpoint_manager_snapshot.json").exists()


def training_workers(parent: psutil.Process) -> list[psutil.Process]:
    """Ray Train's workers among the descendants of `parent`."""
    return [child for child in parent.children(recursive=True)
            if any("RayTrainWorker" in word for word in child.cmdline())]


@pytest.fixture
def uninterrupted(make_job: MakeJob, tmp_path: Path) -> dict[str, str]:
    """The files of the model that LONG trains, made in this process without a break."""
    import torch

    from model_ops.training import sft

    torch.set_num_threads(1)
    folder = sft.fit(make_job(**LONG), LocalSession(tmp_path / "uninterrupted")).folder
    assert folder is not None
    return hash_files(folder)


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    import ray

    yield
    ray.shutdown()


@pytest.fixture
def _fresh_ray(s3_endpoint: str) -> Iterator[None]:
    """A Ray whose workers are born with the S3 server's address."""
    import ray

    ray.shutdown()
    yield
    ray.shutdown()


def test_no_rows_is_an_error_that_says_what_to_do(make_job: MakeJob) -> None:
    job = make_job()
    empty = job.rows[0].model_copy(update={"shards": []})
    with pytest.raises(TrainingError, match="play more `games`"):
        train(job.store, [empty], job.start, job.config, job.prefix, 0, job.model)


def test_the_inputs_make_the_identity(make_job: MakeJob) -> None:
    jobs = [make_job(), make_job(seed=1), make_job(learning_rate=2e-3)]
    assert len({job.inputs_digest for job in jobs}) == 3
    assert make_job().inputs_digest == jobs[0].inputs_digest
    assert jobs[0].parents == {"start": jobs[0].start.digest, "train": jobs[0].rows[0].digest}


def test_the_word_the_mix_and_the_pixels_are_part_of_the_identity(make_job: MakeJob) -> None:
    job = make_job()
    other = publish_rows(job.store, 50, 6, "mix")
    changed = [job, replace(job, reward_word="good"), replace(job, reward_word="bad"),
               replace(job, mix=other), replace(job, max_image_pixels=1000)]
    assert len({each.inputs_digest for each in changed}) == 5
    assert changed[3].parents == {**job.parents, "mix": other.digest}


@pytest.mark.parametrize(("objective", "started", "given", "published"), [
    ("sft", {}, None, ""), ("sft", {"reward_word": "good"}, None, "good"),
    ("dpo", {"reward_word": "good"}, None, "good"), ("crl", {}, "good", "good"),
    ("crl", {"reward_word": "good"}, None, "good"), ("sft", {"reward_word": "good"}, "", "")])
def test_the_manifest_says_what_to_ask_with(
        make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str,
        started: dict[str, str], given: str | None, published: str) -> None:
    """From the start model by default; the workers find it in the job."""
    job = make_job(objective=objective)
    start = job.start.model_copy(update={"config": started})
    jobs: list[TrainJob] = []

    def run_here(asked: TrainJob, on_progress: object) -> Manifest:
        jobs.append(asked)
        made = launch._publish(asked, Fitted(fetch_model(job.store, job.start), {}), 1.0)
        assert made is not None
        return made

    monkeypatch.setattr(launch, "_run", run_here)
    made = train(job.store, job.rows, start, job.config, job.prefix, 0, job.model,
                 reward_word=given)
    assert jobs[0].reward_word == published
    assert made.config.get("reward_word", "") == published == reward_word_of(made)
    assert ("reward_word" in made.config) == bool(published)


def test_crl_without_a_word_is_refused(make_job: MakeJob) -> None:
    job = make_job(objective="crl")
    with pytest.raises(ConfigError, match=r"reward_words\.good"):
        train(job.store, job.rows, job.start, job.config, job.prefix, 0, job.model)


@pytest.mark.parametrize("objective", ["sft", "crl", "dpo"])
def test_the_objective_is_the_configured_one(make_job: MakeJob, objective: str) -> None:
    fit = launch._objective(make_job(objective=objective))
    assert fit.__module__ == f"model_ops.training.{objective}"


def test_metrics_of_older_trainings_are_read(local_store: Store) -> None:
    step = Step(1, 4, 0.25, 0.7, 1e-4, 1.5, 10.0)
    old = {name: value for name, value in step._asdict().items() if not name.startswith("reward")}
    assert json.loads(launch._line(step)) == old
    pair = step._replace(reward_accuracy=0.5, reward_margin=0.0)
    lines = [json.dumps(old) + "\n", launch._line(pair)]
    local_store.write_bytes(launch.metrics_path("model"), "".join(lines).encode())
    assert read_metrics(local_store, "model") == [step, pair]


@in_ray
@pytest.mark.e2e
def test_a_killed_worker_is_replaced_and_continues(
        make_job: MakeJob, uninterrupted: dict[str, str], _ray: None) -> None:
    job = make_job(**LONG)
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: has_checkpoint(job))
        for worker in training_workers(psutil.Process()):
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    progress: list[tuple[int, int]] = []
    made = run(job, lambda done, total: progress.append((done, total)))
    killer.join()
    assert len(killed) == 1
    assert made.stats["resumed_at"] in range(5, 40, 5)
    assert made.files == uninterrupted
    assert progress[-1] == (40, 40)
    assert [step.step for step in read_metrics(job.store, job.prefix)] == list(range(1, 41))
    assert not Path(job.store.uri(f"{job.prefix}.checkpoints")).exists()
    assert hash_files(fetch_model(job.store, made)) == made.files
    assert all(not name.endswith((".bin", ".pt")) for name in made.files)
    began = time.monotonic()
    assert run(job) == made == read_manifest(job.store, job.prefix)
    assert time.monotonic() - began < 5, "done already: nothing is trained again"


@in_ray
@pytest.mark.e2e
def test_a_killed_driver_ends_its_workers_and_a_second_run_continues(
        make_job: MakeJob, uninterrupted: dict[str, str], child_env: Callable[[], dict[str, str]],
        _ray: None) -> None:
    job = make_job(**LONG)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, job.store.root, job.rows[0].prefix, job.start.prefix,
         job.config.model_dump_json(), job.model.model_dump_json(), job.prefix], env=child_env())
    wait_for(lambda: has_checkpoint(job) or driver.poll() is not None)
    assert driver.poll() is None, "the driver ended before its first checkpoint"
    workers = training_workers(psutil.Process(driver.pid))
    driver.kill()
    driver.wait()
    assert workers
    assert psutil.wait_procs(workers, timeout=60)[1] == [], "workers outlived their driver"
    made = run(job)
    assert made.stats["resumed_at"] in range(5, 40, 5)
    assert made.files == uninterrupted


@in_ray
@pytest.mark.s3
@pytest.mark.e2e
def test_two_workers_on_a_bucket(s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                 _fresh_ray: None) -> None:
    monkeypatch.setenv("FLYWHEEL_CACHE", str(tmp_path / "cache"))
    store = Store(s3_root)
    base, rows = publish_base(store, NURSERY), publish_rows(store, 0, 24)
    config = SftConfig(adapter="lora", batch_size=3, max_steps=4, save_steps=2, num_workers=2)
    made = train(store, [rows], base, config, MODEL, 0, NURSERY)
    assert made.stats["steps"] == 4 and made.digest != base.digest
    assert [step.step for step in read_metrics(store, MODEL)] == [1, 2, 3, 4]
    assert hash_files(fetch_model(store, made)) == made.files
    assert not fsspec.filesystem("s3", use_listings_cache=False).exists(
        store.uri(f"{MODEL}.checkpoints"))
