"""Planned items as the shards of an artifact; what could not be planned goes beside the first."""

from collections.abc import Sequence

from schemas.artifacts import read_receipt, write_shard
from schemas.manifest import Shard
from schemas.rows import QuarantineRow, Row
from schemas.store import Store


def write_items(
    store: Store,
    prefix: str,
    rows: Sequence[Row],
    unusable: Sequence[QuarantineRow],
    shard_size: int,
    inputs_digest: str,
) -> list[Shard]:
    """Write *rows* (all of one type, at least one) in shards; finished ones are kept."""
    shards = []
    for index, start in enumerate(range(0, len(rows), shard_size)):
        part, bad = rows[start : start + shard_size], [] if index else unusable
        shard = read_receipt(store, prefix, index, inputs_digest)
        shards.append(
            shard
            or write_shard(store, prefix, index, part, type(rows[0]), bad, None, inputs_digest)
        )
    return shards
