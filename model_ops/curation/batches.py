"""What goes into one shard: what is kept, and what was dropped meanwhile, in the order it came."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

KeptT = TypeVar("KeptT")
DroppedT = TypeVar("DroppedT")
MAX_DROPPED_PER_SHARD = 4096
"""A shard's quarantine is written with it, and kept small too."""


@dataclass(slots=True)
class Batch(Generic[KeptT, DroppedT]):
    """One shard's."""

    kept: list[KeptT] = field(default_factory=list)
    dropped: list[DroppedT] = field(default_factory=list)


def batches(
    judged: Iterable[tuple[Iterable[KeptT], Iterable[DroppedT]]], shard_size: int
) -> Iterator[Batch[KeptT, DroppedT]]:
    """Fill batches with what became of one item after the other; at least one batch.

    A batch ends with the item that brings it to `shard_size` kept rows or more (an item is never
    split), or to `MAX_DROPPED_PER_SHARD` dropped ones.
    """
    batch: Batch[KeptT, DroppedT] = Batch()
    num_yielded = 0
    for kept, dropped in judged:
        batch.kept.extend(kept)
        batch.dropped.extend(dropped)
        if len(batch.kept) >= shard_size or len(batch.dropped) >= MAX_DROPPED_PER_SHARD:
            yield batch
            batch, num_yielded = Batch(), num_yielded + 1
    if batch.kept or batch.dropped or not num_yielded:
        yield batch
