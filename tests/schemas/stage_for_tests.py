"""A small stage, written the way all rooms write theirs; also run in child processes."""

import time

from schemas.artifacts import find_manifest, publish, read_receipt, write_shard
from schemas.manifest import Manifest, Shard
from schemas.rows import GameRow
from schemas.store import Store
from tests.schemas.rows_for_tests import game, rejected

NUM_SHARDS = 3


def run_stage(store: Store, inputs: str = "i", made: list[int] | None = None) -> Manifest:
    """A stage as the rooms above write it: resume by receipt, then publish."""
    done = find_manifest(store, "games", inputs)
    if done is not None:
        return done
    shards: list[Shard] = []
    for index in range(NUM_SHARDS):
        shard = read_receipt(store, "games", index, inputs)
        if shard is None:
            rows = [game(index * 10 + n) for n in range(4)]
            bad = [rejected(index)] if index != 1 else []
            shard = write_shard(store, "games", index, rows, GameRow, bad,
                                {"calls": 2, "engine_seconds": time.perf_counter()}, inputs)
            if made is not None:
                made.append(index)
        shards.append(shard)
    return publish(store, Manifest(kind="games", prefix="games", inputs_digest=inputs,
                                   shards=shards))
