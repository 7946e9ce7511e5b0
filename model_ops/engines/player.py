"""The actor of the pool: holds the engines, plays shards, commits each when its last program ends.

Its one idea: several shards are in flight at a time and feed one driver, so the engine does not run
empty at the end of a shard. A shard is committed by the actor itself (receipt last); an actor that
dies leaves only unfinished shards, which another plays again from the start. Whether one of their
programs was to blame is found out by `deaths`.
"""

import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from typing import Any

from model_ops.engines.conditioned import ConditionedEngine
from model_ops.engines.deaths import ENGINE_CRASH, read_deaths, write_deaths
from model_ops.engines.driver import SCORER, Driver, Engine, Outcome, Usage
from model_ops.engines.job import LocalModel, PoolWork, find_program
from model_ops.engines.pictures import ReadImage
from model_ops.engines.scripted import SCHEME, load_scripted
from model_ops.programs.calls import Program
from schemas.artifacts import read_receipt, read_shard, write_shard
from schemas.config import EngineConfig
from schemas.errors import ConfigError, DropError, EngineError, StoreError
from schemas.manifest import Manifest, Shard
from schemas.rows import ImageRef, QuarantineRow
from schemas.store import Store

SEEDED = "seeded_per_call"
"""Shard statistic: 1 if every call was seeded by itself, else 0."""

LAST_WORDS = "engine_error.txt"
"""Where a dying engine leaves its reason, beside the artifact that it was making."""

Begun = tuple[str, Program[Any], int, Mapping[str, Engine], Any]
"""Row key, program, seed, seats, and the tag by which its outcome finds its way back."""


class ShardRun:
    """One shard in flight: its items, the outcomes so far, and who waits for it."""

    def __init__(self, store: Store, work: PoolWork, inputs_digest: str, index: int,
                 seats: Mapping[str, Engine]) -> None:
        self.work = work
        self.index = index
        self.seats = seats
        self.done: Future[Shard] = Future()
        self._store = store
        self._inputs_digest = inputs_digest
        self._kind = find_program(work.job.program)
        self._items: Sequence[Any] = read_shard(store, work.items, index, self._kind.item_type)
        self._deaths = read_deaths(store, work.prefix, index, inputs_digest)
        self._outcomes = {
            number: Outcome(self._items[number].row_id, None, DropError(ENGINE_CRASH, words),
                            Usage())
            for number, words in self._deaths.blamed.items()}

    @property
    def is_complete(self) -> bool:
        """Whether every program has ended."""
        return len(self._outcomes) == len(self._items)

    def programs(self) -> Iterator[Begun]:
        """The programs that may be played with others."""
        apart = {*self._deaths.suspects, *self._deaths.blamed}
        return self._begun(n for n in range(len(self._items)) if n not in apart)

    def suspects(self) -> Iterator[Begun]:
        """Those that are to be played alone."""
        return self._begun(self._deaths.suspects)

    def _begun(self, numbers: Iterable[int]) -> Iterator[Begun]:
        context = _context(self.work, self._kind)
        for number in numbers:
            item = self._items[number]
            program = _begin(self._kind.factory, item, context)
            yield item.row_id, program, self.work.job.seed, self.seats, (self, number)

    def remember_death(self, live: Sequence[int], words: str, is_proof: bool) -> None:
        """The engine died while programs *live* were waiting for it (`Deaths.and_one_more`)."""
        write_deaths(self._store, self.work.prefix, self.index, self._inputs_digest,
                     self._deaths.and_one_more(live, words, is_proof))

    def take(self, number: int, outcome: Outcome) -> None:
        """Remember how program *number* ended."""
        self._outcomes[number] = outcome

    def commit(self, told: Mapping[str, float]) -> Shard:
        """Write rows and quarantine in the items' order, the receipt last."""
        ordered = [self._outcomes[number] for number in range(len(self._items))]
        rows = [outcome.row for outcome in ordered if outcome.row is not None]
        dropped = [self._quarantined(item, outcome.error)
                   for item, outcome in zip(self._items, ordered, strict=True) if outcome.error]
        stats = {**_sum_usage(ordered), **told}
        stats |= {f"dropped_{reason}": float(count)
                  for reason, count in sorted(Counter(row.reason for row in dropped).items())}
        return write_shard(self._store, self.work.prefix, self.index, rows, self._kind.row_type,
                           dropped, stats, self._inputs_digest)

    def _quarantined(self, item: Any, error: DropError) -> QuarantineRow:
        return QuarantineRow(row_id=item.row_id, kind=self.work.items.kind, reason=error.reason,
                             detail=error.detail, payload=item.model_dump_json(),
                             source=f"{self.work.items.prefix}/{self.index}")


def _context(work: PoolWork, kind: Any) -> Any:
    from model_ops.programs.context import JobContext
    from model_ops.prompts import load_prompts

    job = work.job
    return JobContext(prompts=load_prompts(job.prompts), round=job.round, stage=job.stage,
                      settings=kind.settings_type.model_validate(job.settings),
                      model_digest=job.models[""].digest, seed=job.seed)


def _begin(factory: Any, item: Any, context: Any) -> Program[Any]:
    """The program, made when it is first run: an error while making it is an error of its own."""
    row = yield from factory(item, context)
    return row


def _sum_usage(outcomes: Sequence[Outcome]) -> dict[str, float]:
    usages = [outcome.usage for outcome in outcomes]
    return {
        "calls": float(sum(u.num_calls for u in usages)),
        "prompt_tokens": float(sum(u.num_prompt_tokens for u in usages)),
        "output_tokens": float(sum(u.num_output_tokens for u in usages)),
        "image_tokens": float(sum(u.num_image_tokens for u in usages)),
        "truncated_texts": float(sum(u.num_truncated for u in usages)),
    }


class ShardPlayer:
    """The Ray Data callable: each call plays one shard; calls run in threads, one driver plays.

    Raises `EngineError` from the constructor if an engine cannot start. If an engine dies later the
    process ends, so that Ray starts a fresh one and sends the unfinished shards again (what was
    live at two deaths is then played alone, once nothing else is there to be played); a
    `ConfigError` of a program comes back as the call's `refusal` instead.
    """

    _clock: "_Clock"
    _seats: Sequence[Mapping[str, Engine]]

    def __init__(self, store: Store, works: Sequence[PoolWork], digests: Sequence[str],
                 config: EngineConfig) -> None:
        self._store, self._works, self._digests, self._config = store, works, digests, config
        self._inbox: queue.SimpleQueue[ShardRun] = queue.SimpleQueue()
        self._playing: list[ShardRun] = []
        self._plays_alone = False
        self._has_answered = False
        self._started: Future[None] = Future()
        threading.Thread(target=self._run, name="driver", daemon=True).start()
        self._started.result()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Play the shard that *batch* (one row of `work`, `shard`) names; return its receipt, or
        why nothing can be played."""
        number, index = int(batch["work"][0]), int(batch["shard"][0])
        work, inputs_digest = self._works[number], self._digests[number]
        shard = read_receipt(self._store, work.prefix, index, inputs_digest)
        if shard is None:
            run = ShardRun(self._store, work, inputs_digest, index, self._seats[number])
            self._inbox.put(run)
            try:
                shard = run.done.result()
            except ConfigError as error:  # Ray would keep nothing of it but its text
                return {"work": [number], "shard": [""], "refusal": [str(error)]}
        return {"work": [number], "shard": [shard.model_dump_json()], "refusal": [""]}

    def _run(self) -> None:
        try:
            self._seats = build_seats(self._store, self._works, self._config)
        except BaseException as error:
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        driver = Driver()
        self._clock = _Clock(driver)
        try:
            self._play(driver)
        except ConfigError as error:
            self._refuse(error)
        except BaseException as error:
            self._die(error, driver)

    def _play(self, driver: Driver) -> None:
        backlog: list[Iterator[Begun]] = []
        suspects: list[Iterator[Begun]] = []
        while True:
            idle = not driver.num_live and not backlog and not suspects
            for run in self._arrivals(wait=idle):
                if idle:
                    self._clock.restart()
                self._playing.append(run)
                backlog.append(run.programs())
                suspects.append(run.suspects())
                self._commit_if_complete(run)
            self._top_up(driver, backlog, suspects)
            for outcome in driver.step():
                run, number = outcome.tag
                run.take(number, outcome)
                self._has_answered |= outcome.row is not None and outcome.usage.num_calls > 0
                self._commit_if_complete(run)

    def _arrivals(self, wait: bool) -> Iterator[ShardRun]:
        if wait:
            yield self._inbox.get()
        while not self._inbox.empty():
            yield self._inbox.get()

    def _top_up(self, driver: Driver, backlog: list[Iterator[Begun]],
                suspects: list[Iterator[Begun]]) -> None:
        self._plays_alone &= driver.num_live > 0
        if not self._plays_alone:
            _add(driver, backlog, self._config.live_programs)
        if not driver.num_live:
            self._plays_alone = True
            _add(driver, suspects, 1)

    def _commit_if_complete(self, run: ShardRun) -> None:
        if run.is_complete:
            seeded = all(engine.determinism == "call" for engine in run.seats.values())
            told = {SEEDED: float(seeded), **self._clock.lap()}
            run.done.set_result(run.commit(told))
            self._playing.remove(run)

    def _refuse(self, error: ConfigError) -> None:
        """A wrong configuration ends the run: a fresh engine would only meet it again."""
        for run in self._playing:
            run.done.set_exception(error)
        while True:
            self._inbox.get().done.set_exception(error)

    def _die(self, error: BaseException, driver: Driver) -> None:
        """End the process. Only an engine's death may lie with a program, storage's failure not."""
        words = f"{type(error).__name__}: {error}"
        print(f"the engine's actor died: {words}", file=sys.stderr, flush=True)
        is_proof = self._plays_alone and self._has_answered
        try:
            for run in self._playing if isinstance(error, EngineError) else ():
                live = [number for whose, number in driver.live_tags if whose is run]
                run.remember_death(live, words, is_proof)
            self._store.write_bytes(f"{self._works[0].prefix}/{LAST_WORDS}", words.encode())
        finally:
            os._exit(1)


def _add(driver: Driver, backlog: list[Iterator[Begun]], live: int) -> None:
    while backlog and driver.num_live < live:
        following = next(backlog[0], None)
        if following is None:
            backlog.pop(0)
        else:
            driver.add(*following)


class _Clock:
    """Seconds since the last lap: all, and those inside the engines."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._engine_seconds = 0.0
        self._started = time.perf_counter()

    def restart(self) -> None:
        """Waiting for work does not count."""
        self._started = time.perf_counter()

    def lap(self) -> dict[str, float]:
        """The seconds since the last lap."""
        now, spent = time.perf_counter(), self._driver.engine_seconds
        seconds = {"engine_seconds": spent - self._engine_seconds,
                   "actor_seconds": now - self._started}
        self._engine_seconds, self._started = spent, now
        return seconds


def build_seats(store: Store, works: Sequence[PoolWork],
                config: EngineConfig) -> list[dict[str, Engine]]:
    """The engines of each work by seat: one per distinct model, asked with its reward word. Those
    on this machine share the GPU's memory evenly."""
    read = read_any(store, [work.images for work in works])
    models = {model.path: model for work in works for model in work.job.models.values()}
    scorers = {work.job.scorer.path: work.job.scorer for work in works if work.job.scorer}
    num_here = sum(model.engine is None for model in models.values()) or 1
    share = config.model_copy(update={
        "gpu_memory_utilization": config.gpu_memory_utilization / num_here})
    engines = {path: _build_engine(model, share, read, works[0].job.seed)
               for path, model in models.items()}
    asked = cache(lambda path, word: ConditionedEngine(engines[path], word))
    scoring = {path: _build_scorer(model, config, read) for path, model in scorers.items()}
    return [{seat: asked(m.path, m.reward_word) for seat, m in work.job.models.items()}
            | ({SCORER: scoring[work.job.scorer.path]} if work.job.scorer else {})
            for work in works]


def read_any(store: Store, manifests: Sequence[Manifest]) -> ReadImage:
    """Read images of several collections by reference (a reader checks the image's id)."""
    from model_ops.images import ImageReader

    readers = [ImageReader(store, m) for m in {m.digest: m for m in manifests}.values()]

    def read(ref: ImageRef) -> bytes:
        for reader in list(readers):
            try:
                found = reader.read(ref)
            except StoreError as error:
                missed = error
                continue
            if reader is not readers[0]:  # neighbours are mostly of the same collection
                readers.remove(reader)
                readers.insert(0, reader)
            return found
        raise missed

    return read


def _build_engine(model: LocalModel, config: EngineConfig, read: Any, seed: int) -> Engine:
    if model.path.startswith(SCHEME):
        return load_scripted(model.path)
    if (model.engine or config).kind == "endpoint":
        from model_ops.engines.endpoint import BESIDE_SECONDS, EndpointEngine

        if model.engine is not None:  # another engine must not wait for this one's replies
            return EndpointEngine(model.engine, read, BESIDE_SECONDS)
        return EndpointEngine(config, read)
    from model_ops.engines.vllm_engine import VllmEngine

    return VllmEngine(model.path, config, read, model.dtype, seed)


def _build_scorer(model: LocalModel, config: EngineConfig, read: Any) -> Engine:
    if model.path.startswith(SCHEME):
        return load_scripted(model.path)
    from model_ops.engines.clip_scorer import ClipScorer

    return ClipScorer(model.path, read, config.max_image_pixels)
