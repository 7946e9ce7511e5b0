"""What the pool says of its speed: over the actors that played, not those it was allowed."""

import pytest

from model_ops.engines.job import LocalModel, PoolWork, ProgramJob, inputs_digest
from model_ops.engines.pool import run_programs
from schemas.artifacts import write_shard
from schemas.config import EngineConfig
from schemas.rows import ItemRow
from schemas.store import Store
from tests.model_ops.engines.plays import HERE, collection, questions


@pytest.mark.parametrize(("num_actors", "speed"), [(1, 5.0), (2, 10.0), (8, 10.0)])
def test_two_shards_are_played_by_two_actors_at_most(
    local_store: Store, num_actors: int, speed: float
) -> None:
    images = collection(local_store, num_images=2)
    items = questions(local_store, images, num_items=4, shard_size=2)
    job = ProgramJob(program=f"{HERE}:KIND", prompts="nursery", round=1, stage="s", seed=0,
                     models={"": LocalModel(path=f"scripted:{HERE}:answer", digest="m")})
    engine = EngineConfig(num_actors=num_actors)
    inputs = inputs_digest(PoolWork(items, images, job, "out"), engine)
    for index in (0, 1):  # all are played: only the manifest is missing
        write_shard(local_store, "out", index, [], ItemRow, inputs_digest=inputs,
                    stats={"output_tokens": 50.0, "actor_seconds": 10.0})
    made = run_programs(local_store, items, images, job, engine, "out")
    assert made.stats["output_tokens_per_second"] == pytest.approx(speed)
