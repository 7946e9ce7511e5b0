"""The gate's task reads what items are about, not only their scores."""

import pytest

from schemas.artifacts import publish, write_shard
from schemas.config import GatePolicy, ImagesConfig, RunConfig
from schemas.manifest import Manifest
from schemas.records import Evaluation
from schemas.rows import ItemRow
from schemas.store import Store
from tasks.decide import decide


def measured(store: Store, name: str, num_images: int, num_right: int) -> Evaluation:
    """Sixty questions about *num_images* images; the first *num_right* are answered rightly."""
    rows = [ItemRow(row_id=f"item{n:02d}", benchmark="field/vqa", kind="count", prompt="how many ?",
                    image_ids=[f"image{n * num_images // 60}"], expected="1", reply="1",
                    score=float(n < num_right), model_digest=name, prompt_version="1", seed=1,
                    num_calls=1, num_prompt_tokens=1, num_output_tokens=1) for n in range(60)]
    shard = write_shard(store, name, 0, rows, ItemRow)
    publish(store, Manifest(kind="items", prefix=name, inputs_digest=name, shards=[shard]))
    return Evaluation(model_digest=name, metrics={}, items={"field-vqa": name}, inputs_digest="i")


@pytest.mark.parametrize(("num_images", "decided"), [(6, "hold"), (60, "promote")])
def test_a_gain_on_few_images_is_not_sure(
    local_store: Store, num_images: int, decided: str
) -> None:
    config = RunConfig(root=local_store.root, images=ImagesConfig(limit=8),
                       gate=GatePolicy(primary="field/vqa"))
    candidate, champion = (measured(local_store, name, num_images, num_right)
                           for name, num_right in (("new", 50), ("old", 20)))
    decision = decide.fn(config, candidate, champion, champion)
    assert decision.decision == decided
    assert decision.gain is not None and decision.gain.value == 0.5
