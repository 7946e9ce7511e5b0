"""Items that a model failed to answer count as wrong, under the ids that pair them."""

import pytest

from model_ops.benchmarks import item_clusters, item_scores, summarise
from model_ops.programs.registry import PROGRAMS
from schemas.artifacts import read_rows, write_shard
from schemas.manifest import Manifest
from schemas.rows import GameRow, ImageRef, ItemRow, QuarantineRow, QuestionRow
from schemas.store import Store
from tests.model_ops.benchmarks.test_benchmarks import VQA, game_items, plan, play


def images_of(item: GameRow | QuestionRow) -> list[ImageRef]:
    return item.images if isinstance(item, GameRow) else [item.image]


@pytest.mark.parametrize("num_lost", [1, 8])
def test_items_in_quarantine_score_nothing(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, num_lost: int
) -> None:
    vqa = plan(local_store, VQA.model_copy(update={"num_items": 8}))
    game = game_items(local_store, monkeypatch, num_items=8, num_images=2)
    for items, metric in ((vqa, "field/vqa"), (game, "field/game2_success")):
        planned = list(read_rows(local_store, items.items, PROGRAMS[items.program].item_type))
        rows = [
            row.model_copy(update={"score": 1.0})
            for row in play(local_store, items, "nursery", {"": lambda call, seed: "yes"})
        ][num_lost:]
        dropped = [
            QuarantineRow(row_id=item.row_id, kind=items.items.kind, reason="context_overflow",
                          detail="", source="", payload=item.model_dump_json())
            for item in planned[:num_lost]
        ]
        prefix = f"eval/{items.program}"
        shard = write_shard(local_store, prefix, 0, rows, ItemRow, dropped)
        done = {"b": Manifest(kind="items", prefix=prefix, inputs_digest="", shards=[shard],
                              config={"settings": items.settings})}
        metrics = summarise(local_store, done)
        assert (metrics[metric].n, metrics[metric].value) == (8, 1 - num_lost / 8)
        scores = item_scores(local_store, done)[metric]
        assert set(scores) == {item.row_id for item in planned}
        assert all(scores[row.row_id] == 0.0 for row in dropped)
        assert item_clusters(local_store, done) == {
            item.row_id: " ".join(sorted(ref.image_id for ref in images_of(item)))
            for item in planned}
        if metric == "field/vqa":
            assert sum(metrics[f"field/vqa_{kind}"].n for kind in {i.kind for i in planned}) == 8
        else:
            assert metrics[metric].chance == 0.5
