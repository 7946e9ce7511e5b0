"""The actor's engines (one per model, which share a GPU), and what counts as their death."""

import os
import threading

import pytest

from model_ops.engines import player
from model_ops.engines.deaths import read_deaths
from model_ops.engines.job import LocalModel, PoolWork, ProgramJob
from model_ops.engines.scripted import ScriptedEngine
from schemas.config import EngineConfig
from schemas.errors import EngineError, StoreError
from schemas.manifest import Manifest
from schemas.store import Store
from tests.model_ops.engines.plays import HERE, collection, questions


@pytest.mark.parametrize(("paths", "share"), [(["/a"], 0.9), (["/a", "/b"], 0.45),
                                              (["/a", "/a"], 0.9)])
def test_different_models_of_an_actor_share_the_gpu(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, paths: list[str], share: float
) -> None:
    shares: list[float] = []

    def build(model: LocalModel, config: EngineConfig, *_: object) -> object:
        shares.append(config.gpu_memory_utilization)
        return object()

    monkeypatch.setattr(player, "_build_engine", build)
    seats = {seat: LocalModel(path=path, digest=path)
             for seat, path in zip(["", "guesser"], paths, strict=False)}
    job = ProgramJob(program=f"{HERE}:KIND", prompts="nursery", round=1, stage="s", seed=0,
                     models=seats)
    images = Manifest(kind="images", prefix="images", inputs_digest="i")
    work = PoolWork(Manifest(kind="questions", prefix="q", inputs_digest="q"), images, job, "out")
    (engines,) = player.build_seats(local_store, [work], EngineConfig(gpu_memory_utilization=0.9))
    assert shares == [pytest.approx(share)] * len(set(paths))
    assert set(engines) == set(seats)


@pytest.mark.parametrize(("method", "error", "times"), [
    ("step", EngineError("out of memory"), {0: 1, 1: 1, 2: 1}),
    ("step", RuntimeError("illegal memory access"), {0: 1, 1: 1, 2: 1}),
    ("step", StoreError("the bucket is away"), {}),
    ("submit", StoreError("the bucket is away"), {}),
])
def test_only_an_engine_s_death_is_remembered_of_those_who_were_live(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception,
    times: dict[int, int],
) -> None:
    images = collection(local_store, num_images=2)
    items = questions(local_store, images, num_items=3, shard_size=3)
    job = ProgramJob(program=f"{HERE}:KIND", prompts="nursery", round=1, stage="s", seed=0,
                     models={"": LocalModel(path=f"scripted:{HERE}:answer", digest="m")})
    exited = threading.Event()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ScriptedEngine, method, fail)
    monkeypatch.setattr(os, "_exit", lambda code: exited.set())
    plays = player.ShardPlayer(local_store, [PoolWork(items, images, job, "out")], ["inputs"],
                               EngineConfig())
    threading.Thread(target=plays, args=({"work": [0], "shard": [0]},), daemon=True).start()
    assert exited.wait(30)
    assert read_deaths(local_store, "out", 0, "inputs").times == times
    assert str(error) in local_store.read_bytes(f"out/{player.LAST_WORDS}").decode()
