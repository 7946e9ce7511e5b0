"""What is mixed into a stage: general data for its objective, or what an earlier stage made."""

from typing import Any

import pytest

from model_ops import mixing
from model_ops.images import import_images
from model_ops.mixing import mix_in
from model_ops.stages import StagePlace
from schemas.artifacts import publish, read_rows, write_shard
from schemas.config import (
    BenchmarkConfig,
    EvaluationConfig,
    ImagesConfig,
    RunConfig,
)
from schemas.manifest import Manifest
from schemas.rows import ImageRow, PairRow, TrainRow
from schemas.store import Store
from tests.schemas.rows_for_tests import pair_row, train_row

OWN = Manifest(kind="train", prefix="own", inputs_digest="o")
FIELD = ImagesConfig(uri="nursery://field", limit=8)


def place_of(store: Store, stages: list[dict[str, Any]]) -> StagePlace:
    """The last of these stages, in round 2."""
    config = RunConfig.model_validate({
        "root": store.root, "images": FIELD, "stages": stages, "seed": 3,
        "evaluation": EvaluationConfig(benchmarks=[
            BenchmarkConfig(kind=kind, images=ImagesConfig(limit=2))  # type: ignore[arg-type]
            for kind in ("pie", "vqa")])})
    return StagePlace(config, 2, len(stages) - 1)


def made(store: Store, prefix: str, rows: list[Any]) -> Manifest:
    shard = write_shard(store, prefix, 0, rows, type(rows[0]), (), {}, "1")
    return publish(store, Manifest(kind="train", prefix=prefix, inputs_digest="1", shards=[shard],
                                   determinism="call"))


def own(num_rows: int) -> Manifest:
    shard = {"index": 0, "path": "p", "num_rows": num_rows, "num_bytes": 1, "sha256": "0"}
    return Manifest.model_validate({**OWN.model_dump(), "shards": [shard]})


def test_general_data_is_drawn_for_the_objective_and_spares_benchmarks(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(mixing, "publish_mix", lambda job: seen.append(job) or OWN)
    held_out = import_images(local_store, ImagesConfig(uri="nursery://home", limit=2),
                             "benchmarks/field-pie/images")
    mix = {"uri": "pairs.json", "ratio": 0.5}
    for stage in ({"method": "contrastive", "reward_words": {"good": "yes", "bad": "no"}},
                  {"method": "dialog"}, {"method": "calibrated"}):
        assert mix_in(local_store, place_of(local_store, [{**stage, "mix": mix}]), own(2)) is OWN
    assert [job.objective for job in seen] == ["crl", "sft", "dpo"]
    assert seen[0].words.good == "yes" and seen[0].num_own == 2
    assert seen[0].held_out == {row.image_id for row in read_rows(local_store, held_out, ImageRow)}
    assert seen[2].prefix == "rounds/round=0002/00-calibrated/mix" and seen[2].rows is None


@pytest.mark.parametrize(
    ("method", "artifact"), [("contrastive", "pairs"), ("calibrated", "train")])
@pytest.mark.parametrize("learner", ["dialog", "calibrated", "contrastive"])
def test_pairs_of_an_earlier_stage_become_what_the_objective_learns(
    local_store: Store, method: str, artifact: str, learner: str
) -> None:
    pairs = [pair_row(row_id=f"p-{number}") for number in range(6)]
    source = made(local_store, f"rounds/round=0002/00-{method}/{artifact}", pairs)
    place = place_of(local_store, [
        {"method": method}, {"method": learner, "mix": {"uri": f"stage://{method}", "ratio": 2}}])
    mix = mix_in(local_store, place, own(2))
    assert mix.parents == {"rows": source.digest} and mix.determinism == "call"
    assert mix_in(local_store, place, own(2)) == mix
    if learner == "calibrated":
        drawn = list(read_rows(local_store, mix, PairRow))
        assert len(drawn) == 4 and {row.stage for row in drawn} == {"01-calibrated"}
        assert all(row.chosen == pairs[0].chosen and row.rejected == pairs[0].rejected
                   and row.prompt == pairs[0].prompt for row in drawn)
        return
    rows = list(read_rows(local_store, mix, TrainRow))
    words = ["good", "bad"] * 2 if learner == "contrastive" else ["mix"] * 4
    assert [row.role for row in rows] == words


def test_games_of_an_earlier_stage_are_learnt_again(local_store: Store) -> None:
    rows = [train_row(row_id=f"t-{number}") for number in range(5)]
    made(local_store, "rounds/round=0002/00-dialog/train", rows)
    place = place_of(local_store, [{"method": "dialog"}, {"method": "contrastive"}, {
        "method": "dialog", "mix": {"uri": "stage://dialog"}}])
    assert mix_in(local_store, place, own(3)).num_rows == 3


@pytest.mark.parametrize(("stages", "message"), [
    ([{"method": "dialog", "mix": {"uri": "stage://contrastive"}}, {"method": "contrastive"}],
     r"stages\[0\].mix.uri stage://contrastive: no 'contrastive' stage comes before it"),
    ([{"method": "dialog"}, {"method": "calibrated", "mix": {"uri": "stage://dialog"}}],
     "objective 'dpo' learns from pairs, and games make none"),
])
def test_a_mix_that_cannot_be_is_refused_before_anything_runs(
    local_store: Store, stages: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        place_of(local_store, stages)


def test_an_earlier_stage_without_rows_adds_none(local_store: Store) -> None:
    publish(local_store, Manifest(kind="train", inputs_digest="1",
                                  prefix="rounds/round=0002/00-calibrated/train"))
    place = place_of(local_store, [{"method": "calibrated"}, {
        "method": "dialog", "mix": {"uri": "stage://calibrated"}}])
    assert mix_in(local_store, place, own(3)).num_rows == 0
