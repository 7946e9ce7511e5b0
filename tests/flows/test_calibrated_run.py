"""A small calibrated run on the real engines: `generate`, then `improve` on the same root (which
goes on with training), then both again (which finds nothing left to do)."""

import re
from collections import Counter
from pathlib import Path

import pytest

from model_ops.curation.ranking import path
from model_ops.rounds import read_rounds
from schemas.artifacts import read_manifest, read_rows
from schemas.manifest import Manifest
from schemas.rows import ItemRow, PairRow
from schemas.searches import NodeRow, SearchRow
from tests.flows.small_run import BOTH_FLOWS_TWICE, Done, finish, small_calibrated

pytestmark = [pytest.mark.e2e, pytest.mark.prefect, pytest.mark.slow, pytest.mark.engine,
              pytest.mark.ray, pytest.mark.timeout(600)]
STAGE = "rounds/round=0001/00-calibrated"
STEPS = ("prompts", "searches", "nodes", "train", "model")
BENCHMARKS = ("field-chair", "field-pope")
NUM_IMAGES = 24
MADE = ["images", "rounds/round=0000/model", *(f"{STAGE}/{step}" for step in STEPS),
        *(f"rounds/round=000{number}/evaluation/{name}" for number in (0, 1)
          for name in BENCHMARKS)]


def artifact(done: Done, name: str) -> Manifest:
    """What the stage made."""
    return read_manifest(done.store, f"{STAGE}/{name}")


def searches_of(done: Done) -> dict[str, SearchRow]:
    """By row id."""
    return {row.row_id: row
            for row in read_rows(done.store, artifact(done, "searches"), SearchRow)}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Done:
    """Both flows, twice."""
    return finish(tmp_path_factory.mktemp("calibrated"), repo, small_calibrated,
                  *BOTH_FLOWS_TWICE)


def test_generation_goes_from_images_to_pairs_and_nothing_is_lost(done: Done) -> None:
    prompts, searches, pairs = (artifact(done, name) for name in ("prompts", "searches", "train"))
    assert prompts.num_rows == searches.num_rows == NUM_IMAGES
    assert searches.funnel == {"planned": NUM_IMAGES, "played": NUM_IMAGES}
    assert searches.stats["calls"] > 2 * NUM_IMAGES and searches.stats["actor_seconds"] > 0
    drops = sum(num for name, num in pairs.funnel.items()
                if name not in ("planned", "searched", "kept"))
    assert pairs.funnel["planned"] == NUM_IMAGES == pairs.num_rows + drops
    assert pairs.num_rows == pairs.funnel["kept"] > NUM_IMAGES / 2


def test_every_tree_is_scored_and_kept_whole(done: Done) -> None:
    trees = searches_of(done)
    assert len({row.image.image_id for row in trees.values()}) == NUM_IMAGES
    assert {row.question for row in trees.values()} == {"describe the image ."}
    judged = list(read_rows(done.store, artifact(done, "nodes"), NodeRow))
    assert len(judged) == sum(len(row.nodes) for row in trees.values())
    for row in trees.values():
        assert max(node.depth for node in row.nodes) > 1
        for node in row.nodes[1:]:
            assert node.logprob <= 0 < node.num_tokens
            assert (node.cosine is None) == (node.dropped_reason is not None)


def test_a_pair_is_two_replies_of_its_tree_and_the_chosen_one_has_the_higher_reward(
        done: Done) -> None:
    trees = searches_of(done)
    for pair in read_rows(done.store, artifact(done, "train"), PairRow):
        tree = trees[pair.source_row_id]
        replies = {" ".join(step.text for step in path(tree.nodes, node.node_id))
                   for node in tree.nodes if node.is_final}
        chosen, rejected = (said[0].content[0].text for said in (pair.chosen, pair.rejected))
        assert {chosen, rejected} <= replies and chosen != rejected
        assert pair.chosen_reward is not None and pair.rejected_reward is not None
        assert pair.chosen_reward >= pair.rejected_reward
        assert pair.prompt[-1].content[-1].text == tree.question


def test_the_model_learns_from_the_pairs_and_is_measured(done: Done) -> None:
    base = read_manifest(done.store, "rounds/round=0000/model")
    model, pairs = artifact(done, "model"), artifact(done, "train")
    assert model.parents.items() >= {"start": base.digest, "train": pairs.digest}.items()
    assert 1 <= model.stats["steps"] <= 6 and model.files != base.files
    start, record = read_rounds(done.store)
    assert record.model == model.digest and record.decision in ("promote", "hold")
    assert record.stages[0].method == "calibrated" and record.stages[0].tokens_per_second > 0
    for metrics in (start.evaluation.metrics, record.evaluation.metrics):
        assert metrics["field/chair_clean"].n == NUM_IMAGES
        assert metrics["field/caption_words"].value > 1
        assert 0 < metrics["field/pope"].value <= 1
        assert metrics["field/chair_clean"].value == pytest.approx(
            1 - metrics["field/chair_s"].value)


def test_both_models_answer_the_same_items(done: Done) -> None:
    for name in BENCHMARKS:
        items = [[row.row_id for row in read_rows(
            done.store, read_manifest(done.store, record.evaluation.items[name]), ItemRow)]
            for record in read_rounds(done.store)]
        assert items[0] == items[1] and len(set(items[0])) == len(items[0]) > 0


def test_a_report_is_written(done: Done) -> None:
    assert done.store.exists("summary.json") and done.store.exists("champion.json")
    page = done.store.read_bytes("report/index.html").decode()
    assert "field/chair_clean" in page


def test_improve_takes_what_was_generated_and_again_nothing_is_made(done: Done) -> None:
    made = Counter(re.findall(r"made: (\S+) \(", done.log))
    assert made == dict.fromkeys(MADE, 1)
    lines = done.log.splitlines()
    assert lines.count(f"generated: {STAGE}/train") == lines.count("rounds: 2") == 2
    assert f"skipped: {STAGE}/searches is already complete" in done.log
    assert "skipped: round 1 is already complete" in done.log
