"""The actor's engines: one per model, which share a GPU."""

import pytest

from model_ops.engines import player
from model_ops.engines.job import LocalModel, PoolWork, ProgramJob
from schemas.config import EngineConfig
from schemas.manifest import Manifest
from schemas.store import Store
from tests.model_ops.engines.plays import HERE


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
