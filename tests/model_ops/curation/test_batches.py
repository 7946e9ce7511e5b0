"""Batches of shards: nothing is lost or moved, no item is split, and there is always one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_ops.curation import batches as room
from model_ops.curation.batches import batches

ITEMS = st.lists(st.tuples(st.lists(st.integers(), max_size=4), st.lists(st.text(), max_size=2)))


@given(ITEMS, st.integers(1, 6))
@pytest.mark.slow
def test_everything_is_in_one_batch_in_its_order(
    judged: list[tuple[list[int], list[str]]], shard_size: int
) -> None:
    made = list(batches(judged, shard_size))
    assert [row for batch in made for row in batch.kept] == [r for kept, _ in judged for r in kept]
    assert [row for batch in made for row in batch.dropped] == [
        row for _, dropped in judged for row in dropped]
    assert made and all(len(batch.kept) >= shard_size for batch in made[:-1])
    assert all(len(batch.kept) < shard_size + 4 for batch in made)


def test_many_drops_end_a_batch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_DROPPED_PER_SHARD", 3)
    drops: list[tuple[list[int], list[str]]] = [([], ["x"])] * 7
    assert [len(batch.dropped) for batch in batches(drops, 100)] == [3, 3, 1]
