"""The pool: Ray Data plays the unfinished shards of an artifact on a set of engine actors.

Its one idea: the unit of work is a shard *index*. Ray Data carries indices to the actors and small
receipts back; rows never travel through it. What is finished is told by the receipts beside the
rows, so killing anything at any time costs at most the shards in flight.

Why receipts and not Ray Data's own `CheckpointConfig` (beta in 2.60): that one filters and writes
by row id at a `write_*` sink of the same pipeline, into files of Ray's naming that have to be
listed to be read; it knows nothing of what the rows were made from, so a run with another model or
other prompts would take the old rows for its own; it deletes its record on success; and rows that
were dropped would be tried again. Receipts carry the digest of the inputs, survive success, and
count drops.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from model_ops.engines.cluster import connect, quiet_data_context
from model_ops.engines.job import LocalModel, PoolWork, ProgramJob, find_program, inputs_digest
from model_ops.engines.player import LAST_WORDS, SEEDED, ShardPlayer
from model_ops.engines.scripted import SCHEME
from model_ops.prompts import load_prompts
from schemas.artifacts import find_manifest, publish, read_receipt
from schemas.config import EngineConfig
from schemas.errors import ConfigError, EngineError, FlywheelError, StoreError
from schemas.manifest import Manifest, Shard
from schemas.store import Store

__all__ = [
    "LocalModel",
    "PoolWork",
    "ProgramJob",
    "Progress",
    "map_shards",
    "run_all",
    "run_programs",
]

Progress = Callable[[int, int], None]
"""Called with finished shards and all shards."""

_MAX_RESTARTS = 5
"""Two deaths make suspects, and each culprit costs another: a second if it is met first."""
_MAX_SHARDS_IN_FLIGHT = 32


def run_programs(store: Store, items: Manifest, images: Manifest, job: ProgramJob,
                 engine: EngineConfig, prefix: str,
                 on_progress: Progress | None = None) -> Manifest:
    """Play *job* over *items*, publish the rows under *prefix*. What is finished is not redone.

    Raises `EngineError` if the engine cannot start or keeps dying, `ConfigError` for a job that
    cannot be run as it is.
    """
    return run_all(store, [PoolWork(items, images, job, prefix)], engine, on_progress)[0]


def run_all(store: Store, works: Sequence[PoolWork], engine: EngineConfig,
            on_progress: Progress | None = None) -> list[Manifest]:
    """Make several artifacts with one pool (an engine starts once, not once per artifact).

    A model that several works seat is loaded once. Each artifact is published as soon as its last
    shard is there. Raises as `run_programs` does.
    """
    _check(works, engine)
    artifacts = [_Artifact(store, work, engine) for work in works]
    num_actors = _num_actors(engine, sum(artifact.num_shards for artifact in artifacts))
    for artifact in artifacts:
        artifact.num_actors = num_actors
    total = sum(len(work.items.shards) for work in works)
    digests = [artifact.inputs_digest for artifact in artifacts]
    _forget_last_words(store, works)
    for result in _play(store, works, digests, engine, _missing(artifacts)):
        if result["refusal"]:
            raise ConfigError(result["refusal"])
        artifacts[result["work"]].add(Shard.model_validate_json(result["shard"]))
        if on_progress is not None:
            on_progress(total - len(_missing(artifacts)), total)
    return [artifact.published() for artifact in artifacts]


def _missing(artifacts: "Sequence[_Artifact]") -> list[tuple[int, int]]:
    """Number of the artifact and index of every shard that is not finished."""
    return [(number, index) for number, artifact in enumerate(artifacts)
            for index in artifact.missing]


class _Artifact:
    """One artifact in the making: its finished shards; published when the last one is there."""

    def __init__(self, store: Store, work: PoolWork, engine: EngineConfig) -> None:
        self._store, self._work, self.num_actors = store, work, engine.num_actors
        self._started = time.perf_counter()
        self.inputs_digest = inputs_digest(work, engine)
        self._manifest = find_manifest(store, work.prefix, self.inputs_digest)
        self._shards: dict[int, Shard] = {}
        if self._manifest is None:
            receipts = (read_receipt(store, work.prefix, shard.index, self.inputs_digest)
                        for shard in work.items.shards)
            self._shards = {shard.index: shard for shard in receipts if shard is not None}

    @property
    def num_shards(self) -> int:
        """Shards that are played for it, now or before an interruption; 0 if it was complete."""
        return len(self._work.items.shards) if self._manifest is None else 0

    @property
    def missing(self) -> list[int]:
        """Indices of the shards that have no receipt."""
        if self._manifest is not None:
            return []
        return [s.index for s in self._work.items.shards if s.index not in self._shards]

    def add(self, shard: Shard) -> None:
        """A shard is finished."""
        self._shards[shard.index] = shard
        if not self.missing:
            self.published()

    def published(self) -> Manifest:
        """The manifest, written if it was not yet."""
        if self._manifest is None:
            seconds = time.perf_counter() - self._started
            shards = [self._shards[index] for index in sorted(self._shards)]
            made = _manifest(self._work, self.inputs_digest, self.num_actors, shards, seconds)
            self._manifest = publish(self._store, made)
        return self._manifest


def _check(works: Sequence[PoolWork], engine: EngineConfig) -> None:
    for work in works:
        job = work.job
        if "" not in job.models:
            raise ConfigError(f"job {job.stage!r} has no model for the default seat ''")
        for model in job.models.values():
            is_here = model.path.startswith(SCHEME) or Path(model.path).exists()
            own = model.engine or engine
            if own.kind != "endpoint" and not is_here:
                raise EngineError(f"there is no model at {model.path}: fetch it first")


def _play(store: Store, works: Sequence[PoolWork], digests: Sequence[str], engine: EngineConfig,
          todo: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Play the shards of *todo*; yield one small result each, in the order in which they end."""
    units = [{"work": number, "shard": index} for number, index in todo]
    try:
        yield from map_shards(ShardPlayer, (store, works, digests, engine), units, engine,
                              _shards_in_flight(works, engine))
    except EngineError as error:
        raise _with_last_words(store, works, error) from None


def map_shards(actor: type, arguments: tuple[Any, ...], units: Sequence[dict[str, Any]],
               engine: EngineConfig, in_flight: int = 1) -> Iterator[dict[str, Any]]:
    """Run *actor* (built once per process from *arguments*) over *units*, one call each, and yield
    its rows as they come. A unit whose actor died is run again on a fresh one.

    Raises `EngineError` if actors cannot start or keep dying.
    """
    if not units:
        return
    num_actors = _num_actors(engine, len(units))
    share = math.ceil(len(units) / num_actors)  # the first one up must not take them all
    connect(num_actors * engine.num_cpus)
    import ray.data
    import ray.exceptions

    quiet_data_context()
    with warnings.catch_warnings():  # max_restarts has no named parameter in 2.60 yet
        warnings.simplefilter("ignore")
        results = ray.data.from_items(list(units), override_num_blocks=len(units)).map_batches(
            actor, batch_size=1, fn_constructor_args=arguments,
            num_cpus=engine.num_cpus, num_gpus=engine.num_gpus or None,
            max_restarts=_MAX_RESTARTS, max_task_retries=-1,
            compute=ray.data.ActorPoolStrategy(
                size=num_actors, max_tasks_in_flight_per_actor=min(share, max(2, in_flight)),
                max_concurrent_calls_per_actor=min(share, in_flight),
                enable_true_multi_threading=True))
    try:
        yield from results.iter_rows()
    except ray.exceptions.RayError as error:
        raise _plain(error) from None


def _num_actors(engine: EngineConfig, num_units: int) -> int:
    """No more actors than there is work for."""
    return max(1, min(engine.num_actors, num_units))


def _shards_in_flight(works: Sequence[PoolWork], engine: EngineConfig) -> int:
    """Enough shards that an actor has programs to spare while the first ones end."""
    sizes = [shard.num_rows for work in works for shard in work.items.shards]
    mean = max(1.0, sum(sizes) / max(1, len(sizes)))
    return max(2, min(_MAX_SHARDS_IN_FLIGHT, 1 + int(2 * engine.live_programs / mean)))


def _plain(error: BaseException) -> FlywheelError:
    """One clear error instead of Ray's stack of them: the innermost of ours, if there is any."""
    ours: FlywheelError | None = None
    cause: BaseException | None = error
    while cause is not None:
        ours = cause if isinstance(cause, FlywheelError) else ours
        cause = getattr(cause, "cause", None) or cause.__cause__
    if ours is None:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        said = last.rpartition("EngineError: ")[2]  # Ray keeps only the text of a failed start
        return EngineError(f"an engine actor could not start or was lost: {said}")
    kind = next((k for k in (StoreError, ConfigError) if isinstance(ours, k)), EngineError)
    return kind(str(ours))


def _forget_last_words(store: Store, works: Sequence[PoolWork]) -> None:
    path = f"{works[0].prefix}/{LAST_WORDS}"
    if store.exists(path):
        store.delete(path)


def _with_last_words(store: Store, works: Sequence[PoolWork], error: EngineError) -> EngineError:
    path = f"{works[0].prefix}/{LAST_WORDS}"
    if not store.exists(path):
        return error
    words = store.read_bytes(path).decode(errors="replace")
    return EngineError(f"{error}; the engine's last words: {words}")


def _kind_of(row_type: type) -> str:
    """`transcripts` for a `TranscriptRow`; what is a participle stays as it is: `asked`."""
    name = row_type.__name__.removesuffix("Row").lower()
    if name.endswith("ed"):
        return name
    return name + ("es" if name.endswith("ch") else "s")


def _manifest(work: PoolWork, inputs_digest: str, num_actors: int, shards: list[Shard],
              wall_seconds: float) -> Manifest:
    kind = find_program(work.job.program)
    stats: dict[str, float] = {}
    for shard in shards:
        for name, value in shard.stats.items():
            stats[name] = stats.get(name, 0.0) + value
    drops = {name.removeprefix("dropped_"): int(stats.pop(name))
             for name in sorted(stats) if name.startswith("dropped_")}
    seeded = stats.pop(SEEDED, 0.0) == len(shards)
    seconds = stats.get("actor_seconds", 0.0) / num_actors
    stats["output_tokens_per_second"] = stats.get("output_tokens", 0.0) / max(seconds, 1e-9)
    stats["wall_seconds"] = wall_seconds
    num_in = sum(shard.num_rows for shard in work.items.shards)
    num_out = sum(shard.num_rows for shard in shards)
    return Manifest(
        kind=_kind_of(kind.row_type), prefix=work.prefix,
        inputs_digest=inputs_digest, shards=shards,
        parents={"items": work.items.digest, "images": work.images.digest,
                 "prompts": load_prompts(work.job.prompts).digest,
                 **{f"model:{seat}": m.digest for seat, m in work.job.models.items()}},
        funnel={"planned": num_in, "played": num_out, **drops}, stats=stats,
        config=work.job.model_dump(mode="json", exclude={"models"}),
        determinism="call" if seeded else "engine")
