"""The walk along a search's line: prompt, search with its tree, node, pair, model."""

from typing import TypeVar

import pytest

from model_ops.lineage import Lineage, explain
from model_ops.lineage.trees import tree_in_words, tree_lines
from model_ops.rounds import read_rounds
from schemas.artifacts import read_manifest, read_quarantine, read_rows
from schemas.rows import PairRow, Row
from schemas.searches import DescriptionRow, NodeRow, SearchRow
from schemas.store import Store
from tests.model_ops.calibrated_rooted import SENTENCES, build_calibrated_root, tree

RowT = TypeVar("RowT", bound=Row)
STAGE = "rounds/round=0002/00-calibrated"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two rounds."""
    store = Store(str(tmp_path_factory.mktemp("searched")))
    build_calibrated_root(store, rounds=2)
    return store


def rows_of(store: Store, artifact: str, row_type: type[RowT]) -> list[RowT]:
    return list(read_rows(store, read_manifest(store, f"{STAGE}/{artifact}"), row_type))


def said(lineage: Lineage) -> list[str]:
    return [step.what for step in lineage.steps]


def tree_of(lineage: Lineage) -> str:
    return next(step.text for step in lineage.steps if step.what == "search tree")


def test_a_pair_leads_to_its_tree_its_writer_and_its_learner(root: Store) -> None:
    [_, first, second] = read_rounds(root)
    pair = rows_of(root, "train", PairRow)[-1]
    lineage = explain(root, pair.row_id)
    assert (lineage.kind, lineage.round, lineage.stage) == ("train", 2, "00-calibrated")
    assert list(lineage.line) == ["prompts", "searches"]
    assert lineage.line["searches"] == pair.source_row_id
    assert lineage.model_digest == first.model and lineage.learnt_by == [second.model]
    assert lineage.image_ids == pair.image_ids and lineage.rules["program"] == "search"
    assert said(lineage) == ["images", "written by", "prompts row", "searches row", "search tree",
                             "train row", "kept", "learnt by", "decision"]
    text = tree_of(lineage)
    assert text.count("(chosen)") == text.count("(rejected)") == 1 and "too_short" in text
    assert f"chosen ({pair.chosen_reward:.3f})" in next(
        step.text for step in lineage.steps if step.what == "train row")


@pytest.mark.slow
def test_prompt_search_and_nodes_tell_the_same_line(root: Store) -> None:
    prompts = {row.row_id: row for row in rows_of(root, "prompts", DescriptionRow)}
    nodes = rows_of(root, "nodes", NodeRow)
    for search in rows_of(root, "searches", SearchRow):
        line = explain(root, search.row_id).line
        assert line["searches"] == search.row_id
        assert prompts[line["prompts"]].prompt_id == search.prompt_id
        asked = explain(root, line["prompts"])
        assert (asked.round, asked.line["prompts"]) == (1, line["prompts"])
        assert any(f"round 2, stage 00-calibrated: search {search.row_id} of" in step.text
                   for step in asked.steps), "a prompt is the same in every round"
    node = next(node for node in nodes if node.choice == "chosen")
    lineage = explain(root, node.row_id)
    assert list(lineage.line) == ["prompts", "searches", "nodes"]
    assert lineage.line["searches"] == node.search_id and len(lineage.learnt_by) == 1
    told = next(step.text for step in lineage.steps if step.what == "nodes row")
    assert "end of the chosen reply" in told and "clip" in told and node.text in told


def test_searches_without_a_pair_say_why(root: Store) -> None:
    dropped = list(read_quarantine(root, read_manifest(root, f"{STAGE}/train")))
    assert {row.reason for row in dropped} >= {"single_final"}
    for row in dropped:
        lineage = explain(root, row.row_id)
        assert lineage.kind == "searches" and lineage.learnt_by == lineage.training_rows == []
        assert lineage.steps[-1].what == "dropped" and row.reason in lineage.steps[-1].text
        assert "(chosen)" not in tree_of(lineage)


def test_a_prompt_that_no_search_came_of_says_so(root: Store) -> None:
    [lost, *_] = read_quarantine(root, read_manifest(root, f"{STAGE}/searches"))
    lineage = explain(root, lost.row_id)
    assert (lineage.kind, list(lineage.line)) == ("prompts", ["prompts"])
    assert lineage.model_digest is None and "unanswered" in lineage.steps[-1].text


def test_a_tree_is_told_depth_first_with_its_pair_marked() -> None:
    nodes = tree("any")
    lines = tree_in_words(nodes, {}).splitlines()
    assert len(lines) == len(nodes) - 1 == 7
    assert [line.node.node_id for line in tree_lines(nodes, {})] == [1, 4, 5, 6, 7, 2, 3]
    assert lines[1].startswith(f"    {SENTENCES[0]}  [mean logprob -") and "final: eos" in lines[1]
    assert lines[-1].endswith("; dropped: too_short]") and "clip" not in lines[-1]
    assert "rank" not in lines[0]


@pytest.mark.slow
def test_without_node_rows_the_tree_has_its_scores_alone(tmp_path_factory: pytest.TempPathFactory
                                                         ) -> None:
    store = Store(str(tmp_path_factory.mktemp("unjudged")))
    build_calibrated_root(store, rounds=2)
    pair = rows_of(store, "train", PairRow)[0]
    store.delete(f"{STAGE}/nodes/manifest.json")
    text = tree_of(explain(store, pair.row_id))
    assert "clip" in text and "cost" not in text and "(chosen)" not in text
    store.delete(f"{STAGE}/searches/manifest.json")
    assert explain(store, pair.row_id).line == {}
