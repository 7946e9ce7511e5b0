"""Runs an objective as a Ray Train job: the same file on one CPU or on many GPUs.

Its one idea: Ray Train owns restarts. Checkpoints lie at a place that is named by the job's inputs,
so both a worker killed mid-way and the whole command started again continue from the last one; the
place goes when the model is published. Losses and TRL are left to the objectives (`sft`, `crl`,
`dpo`).
"""

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_ops.engines.cluster import connect
from model_ops.models import publish_model, reward_word_of
from model_ops.training.job import Fitted, ObjectiveConfig, Session, Step, TrainJob
from model_ops.training.rows import row_sets
from schemas.artifacts import find_manifest
from schemas.config import ModelConfig, TrainConfig
from schemas.errors import ConfigError, FlywheelError, StoreError, TrainingError
from schemas.manifest import Manifest
from schemas.store import Store

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

_MAX_FAILURES = 3
_QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
          "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error",
          "TOKENIZERS_PARALLELISM": "false"}
"""A worker neither phones home nor draws bars into its log."""
_RAY_TRAIN = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
              "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300"}
"""Ray's own are 2 s, long for a small model, and 60 s, short for a loaded machine."""
_RAY_TRAIN_LOCAL = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}
"""Nobody takes this machine away or scrapes it: one process less to start."""
_LOG_SECONDS = 2.0
_POLL_SECONDS = 0.5


def train(store: Store, rows: Sequence[Manifest], start: Manifest, config: ObjectiveConfig,
          prefix: str, seed: int, model: ModelConfig, on_progress: Progress | None = None,
          reward_word: str | None = None, mix: Manifest | None = None,
          rehearsal: Manifest | None = None, reference: Manifest | None = None,
          max_image_pixels: int | None = None) -> Manifest:
    """Fine-tune `start` on `rows` and publish the model at `prefix`; returns its manifest.

    `rows` are train manifests, oldest round first and this round's last (see `rows.choose_rows`
    for what `config.replay` and `config.max_rows` do with them); `mix` is general data beside this
    round's, `rehearsal` what `start` says by itself; `reference` is what objective `dpo` compares
    with (None: `start`); pictures are shrunk to `max_image_pixels`, as the engines' are.
    `reward_word` is what the new model has to be asked with: its manifest says it (None: as the
    start model; objective `crl` needs one). Done already for the same inputs: returns at once.
    Interrupted before: continues from the last checkpoint.
    `metrics.jsonl` beside the model has one line per hundredth of the training. Raises
    `TrainingError`.
    """
    word = reward_word_of(start) if reward_word is None else reward_word
    if config.objective == "crl" and reward_word is None and not word:
        raise ConfigError(f"{prefix}: objective 'crl' publishes a model that is asked with a "
                          f"reward word: pass the stage's (reward_words.good)")
    job = TrainJob(store, tuple(rows), start, config, model, prefix, seed, word, mix, rehearsal,
                   reference, max_image_pixels)
    done = find_manifest(store, prefix, job.inputs_digest)
    if done is None:
        if not sum(m.num_rows for m in row_sets(job)):
            raise TrainingError(f"{prefix}: no rows to train on, the curation dropped everything; "
                                f"look at its funnel, then loosen `curation` or play more `games`")
        done = _run(job, on_progress)
    _discard_checkpoints(job)
    return done


def _run(job: TrainJob, on_progress: Progress | None) -> Manifest:
    from ray.train import TrainingFailedError

    local = {} if os.environ.get("RAY_ADDRESS") else _RAY_TRAIN_LOCAL
    for name, value in (_RAY_TRAIN | local).items():
        os.environ.setdefault(name, value)
    connect(job.config.num_cpus * job.config.num_workers)
    _prepare_place(job)
    with _follow(job, on_progress):
        try:
            outcome = _fit(_trainer(job)).return_value
        except TrainingFailedError as error:
            raise TrainingError(
                f"{job.prefix}: training failed {_MAX_FAILURES + 1} times; the last error was "
                f"{error}; its checkpoints are kept, so the same command continues from them"
            ) from error
    if isinstance(outcome, FlywheelError):
        raise outcome
    assert isinstance(outcome, Manifest)
    return outcome


def _fit(trainer: "TorchTrainer") -> Any:
    """`fit` in a thread of its own: in the main thread Ray takes SIGINT over, for good, and ends
    the process with exit code 0. The thread and Ray's processes end with this process."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="training", daemon=True).start()
    return outcome.result()


def _trainer(job: TrainJob) -> "TorchTrainer":
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    config = job.config
    resources = {"CPU": config.num_cpus} | ({"GPU": 1} if config.use_gpu else {})
    files, folder = _checkpoint_place(job)
    return TorchTrainer(
        _work, train_loop_config={"job": job},
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=config.use_gpu,
                                     resources_per_worker=resources),
        run_config=RunConfig(
            name=_run_name(job), storage_path=folder,
            storage_filesystem=None if job.store.is_local else PyFileSystem(FSSpecHandler(files)),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=_MAX_FAILURES, controller_failure_limit=3)),
    )


def _work(settings: dict[str, Any]) -> Manifest | FlywheelError | None:
    """What every worker runs; rank 0 publishes. A mistake that a retry cannot mend is returned."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    job: TrainJob = settings["job"]
    started = time.monotonic()
    try:
        _use_cpus(job.config)
        with tempfile.TemporaryDirectory(dir=_scratch_place(job), prefix="worker-") as scratch:
            fitted = _objective(job)(job, RaySession(job, Path(scratch)))
            return _publish(job, fitted, time.monotonic() - started)
    except FlywheelError as error:
        if os.environ.get("RANK", "0") != "0":
            raise  # Ray hands over what rank 0 returns, and rank 0 may wait for this one
        return error


def _objective(job: TrainJob) -> Callable[[TrainJob, Session], Fitted]:
    from model_ops.training import crl, dpo, sft

    return {"sft": sft.fit, "crl": crl.fit, "dpo": dpo.fit}[job.config.objective]


def _use_cpus(config: TrainConfig) -> None:
    import torch

    if not config.use_gpu:
        torch.set_num_threads(max(1, int(config.num_cpus)))


def _publish(job: TrainJob, fitted: Fitted, seconds: float) -> Manifest | None:
    if fitted.folder is None:
        return None
    asked = {"reward_word": job.reward_word} if job.reward_word else {}
    return publish_model(job.store, fitted.folder, job.prefix, job.inputs_digest, job.parents,
                         config={"train": job.config.model_dump(mode="json"), "seed": job.seed,
                                 **asked},
                         stats=fitted.stats | {"seconds": seconds})


class RaySession(Session):
    """`Session` on Ray Train: ranks, checkpoints and restarts are Ray's."""

    def __init__(self, job: TrainJob, scratch: Path) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.scratch = scratch
        self._job = job
        self._logged_at = 0.0

    @contextmanager
    def checkpoint(self) -> Iterator[str | None]:
        import ray.train

        last = ray.train.get_checkpoint()
        if last is None:
            yield None
            return
        with last.as_directory() as folder:
            yield folder

    def save(self, folder: Path, step: int) -> None:
        import ray.train

        checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"step": step}, checkpoint=checkpoint)

    def log(self, steps: Sequence[Step], last: bool) -> None:
        now = time.monotonic()
        if last or now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            lines = "".join(_line(step) for step in steps)
            self._job.store.write_bytes(metrics_path(self._job.prefix), lines.encode())


def _line(step: Step) -> str:
    """What an objective does not have is left out."""
    return json.dumps({name: value for name, value in step._asdict().items()
                       if value is not None}) + "\n"


def metrics_path(prefix: str) -> str:
    """Where the metrics of the model at `prefix` are, one JSON object a line."""
    return f"{prefix}/metrics.jsonl"


def read_metrics(store: Store, prefix: str) -> list[Step]:
    """The metrics written so far; empty before the first."""
    path = metrics_path(prefix)
    if not store.exists(path):
        return []
    return [Step(**json.loads(line)) for line in store.read_bytes(path).splitlines()]


@contextmanager
def _follow(job: TrainJob, on_progress: Progress | None) -> Iterator[None]:
    """Tell `on_progress` what the metrics say, from a thread, until the block ends."""
    if on_progress is None:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        seen = -1
        while True:
            last = ended.wait(_POLL_SECONDS)
            with suppress(StoreError):  # the storage may be slow; the training will tell
                steps = read_metrics(job.store, job.prefix)
                if steps and steps[-1].step != seen:
                    seen = steps[-1].step
                    on_progress(seen, steps[-1].num_steps)
            if last:
                return

    watcher = threading.Thread(target=watch, name="training-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join(timeout=10)


def _run_name(job: TrainJob) -> str:
    return job.inputs_digest[:16]


def _checkpoint_place(job: TrainJob) -> tuple[Any, str]:
    """The checkpoints' fsspec file system and folder in it."""
    import fsspec

    folder = job.store.uri(f"{job.prefix}.checkpoints")
    if job.store.is_local:
        return fsspec.filesystem("file"), folder
    return fsspec.filesystem("s3", use_listings_cache=False), folder.removeprefix("s3://")


def _scratch_place(job: TrainJob) -> str | None:
    """Where workers put their scratch folders: beside the checkpoints, to go with them even if a
    worker was killed; with a bucket, the machine's temporary folder (None)."""
    if not job.store.is_local:
        return None
    files, folder = _checkpoint_place(job)
    files.makedirs(folder, exist_ok=True)
    return folder


def _discard_checkpoints(job: TrainJob) -> None:
    files, folder = _checkpoint_place(job)
    with suppress(FileNotFoundError):
        files.rm(folder, recursive=True)


def _prepare_place(job: TrainJob) -> None:
    """Keep checkpoints of the same inputs; take away what would mislead this run.

    Ray writes its list of checkpoints in place: one torn by a kill would stop every restart.
    """
    snapshot = f"{job.prefix}.checkpoints/{_run_name(job)}/checkpoint_manager_snapshot.json"
    if job.store.exists(snapshot):
        with suppress(ValueError):
            json.loads(job.store.read_bytes(snapshot))
            return
    _discard_checkpoints(job)
    job.store.delete(metrics_path(job.prefix))
