"""Ranks, costs, keys and choice: the same replies as the reference's selection, and invariants."""

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_ops.curation.ranking import (
    RewardMode,
    choose,
    depth_first,
    mean_logprob,
    node_costs,
    path,
    path_costs,
    ranks,
    reply_keys,
    reward,
    sentence_reward,
)
from schemas.searches import SearchNode
from tests.model_ops.curation import reference_csr as reference

ROOT = SearchNode(node_id=0, parent_id=None, depth=0, text="", said="", num_tokens=0, logprob=0.0,
                  cosine=None, is_final=False, finish_reason="", kept=True)
MODES: tuple[RewardMode, ...] = ("rank", "paper_raw")


def node(node_id: int, parent: int = 0, depth: int = 1, *, cosine: float = 0.2,
         logprob: float = -1.0, tokens: int = 1, final: bool = True,
         dropped: str | None = None) -> SearchNode:
    return SearchNode(
        node_id=node_id, parent_id=parent, depth=depth, text=f"sentence {node_id} .",
        said=f" sentence {node_id} .", num_tokens=tokens, logprob=logprob,
        cosine=None if dropped else cosine, is_final=final,
        finish_reason="eos" if final else "sentence", kept=not final, dropped_reason=dropped)


def chosen_of(nodes: list[SearchNode], lam: float = 0.9, mode: RewardMode = "rank"
              ) -> tuple[int, int] | None:
    return choose(reply_keys(nodes, node_costs(nodes, lam, mode), mode), mode)


# --- exactness ---


@pytest.mark.parametrize("lam", [0.9, 0.5, 0.1])
def test_the_reference_and_ours_choose_the_same_leaves_of_200_random_trees(lam: float) -> None:
    num_pairs = 0
    for seed in range(200):
        tree = reference.random_tree(seed)
        nodes = reference.search_nodes(tree)
        try:
            expected = reference.select(tree, lam)
        except IndexError:
            assert chosen_of(nodes, lam) is None
            continue
        if len(list(reference.scored_leaves(tree, lam))) == 1:
            assert expected[0] == expected[1] and chosen_of(nodes, lam) is None
            continue
        assert chosen_of(nodes, lam) == expected
        num_pairs += 1
    assert num_pairs > 100


def test_the_200_trees_cover_what_is_difficult() -> None:
    seen = reference.kinds([reference.random_tree(seed) for seed in range(200)])
    assert min(seen[kind] for kind in ("dropped", "no leaf", "single leaf", "ties")) >= 5, seen


def test_every_cost_is_the_references() -> None:
    for seed in range(50):
        tree = reference.random_tree(seed)
        costs = node_costs(reference.search_nodes(tree), 0.9, "rank")
        reference.clean(tree)
        reference.rank(tree)
        waiting, expected = [tree], {}
        while waiting:
            at = waiting.pop()
            waiting.extend(at.children)
            if at.rank is not None and at.clip_rank is not None:
                expected[at.name] = (at.rank, at.clip_rank)
        assert {n: (cost.rank, cost.clip_rank) for n, cost in costs.items()} == expected


# --- ranks ---


def test_ranks_are_positions_over_k() -> None:
    assert ranks([0.5, 2.0, 1.0, -3.0]) == [0.75, 0.25, 0.5, 1.0]
    assert ranks([1.0, 1.0]) == [0.5, 1.0] and ranks([7.0]) == [1.0] and ranks([]) == []


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=9))
def test_ranks_lie_in_0_to_1_and_follow_the_values(values: list[float]) -> None:
    given_ranks = ranks(values)
    assert sorted(given_ranks) == [n / len(values) for n in range(1, len(values) + 1)]
    by_rank = [value for _, value in sorted(zip(given_ranks, values, strict=True))]
    assert all(one >= other for one, other in pairwise(by_rank))


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 10_000), lam=st.floats(0, 1))
def test_the_chosen_key_is_never_worse(mode: RewardMode, seed: int, lam: float) -> None:
    nodes = reference.search_nodes(reference.random_tree(seed))
    costs = node_costs(nodes, lam, mode)
    assert all(0 < cost.rank <= 1 and 0 < cost.clip_rank <= 1 for cost in costs.values())
    keys = reply_keys(nodes, costs, mode)
    if pair := choose(keys, mode):
        assert reward(keys[pair[0]], mode) == max(reward(key, mode) for key in keys.values())
        assert reward(keys[pair[1]], mode) == min(reward(key, mode) for key in keys.values())
        assert mode == "paper_raw" or keys[pair[0]] <= keys[pair[1]]


@pytest.mark.parametrize("mode", MODES)
def test_lam_1_is_the_order_of_the_scorer_and_lam_0_that_of_the_model(mode: RewardMode) -> None:
    draw = random.Random(1)
    nodes = [ROOT, *(node(n, cosine=draw.random(), logprob=-draw.random()) for n in range(1, 9))]

    def in_order(lam: float) -> list[int]:
        keys = reply_keys(nodes, node_costs(nodes, lam, mode), mode)
        return sorted(keys, key=lambda n: -reward(keys[n], mode))

    by_image = sorted(nodes[1:], key=lambda n: -(n.cosine or 0.0))
    assert in_order(1.0) == [n.node_id for n in by_image]
    assert in_order(0.0) == [n.node_id for n in sorted(nodes[1:], key=lambda n: -n.logprob)]


# --- costs and keys ---


def test_the_model_ranks_by_mean_token_logprob() -> None:
    nodes = [ROOT, node(1, logprob=-2.0, tokens=4), node(2, logprob=-1.0, tokens=1)]
    assert mean_logprob(nodes[1]) == -0.5 and mean_logprob(ROOT) == 0.0
    costs = node_costs(nodes, 0.25, "rank")
    assert costs[1] == (0.5, 0.5, 0.5) and costs[2] == (1.0, 1.0, 1.0)


def test_what_was_dropped_counts_for_nothing_nor_does_what_is_below_it() -> None:
    nodes = [ROOT, node(1, cosine=0.9, final=False, dropped="repeated"), node(2, final=False),
             node(3, parent=1, depth=2, cosine=0.9), node(4, parent=2, depth=2, logprob=-1.0),
             node(5, parent=2, depth=2, logprob=-2.0, cosine=0.1)]
    costs = node_costs(nodes, 0.9, "rank")
    assert set(costs) == {2, 4, 5} and costs[2].clip_rank == 1.0
    assert chosen_of(nodes) == (4, 5)


def test_the_root_counts_in_the_length() -> None:
    nodes = [ROOT, node(1, cosine=0.1), node(2, cosine=0.3, final=False),
             node(3, parent=2, depth=2)]
    costs = node_costs(nodes, 1.0, "rank")
    assert reply_keys(nodes, costs, "rank") == {1: 1.0 / 2, 3: (0.5 + 1.0) / 3}
    assert reply_keys(nodes, costs, "rank", count_root=False) == {1: 1.0, 3: (0.5 + 1.0) / 2}


def test_the_papers_formula_sums_over_the_reply() -> None:
    nodes = [ROOT, node(1, cosine=0.3, logprob=-1.5, final=False),
             node(2, parent=1, depth=2, cosine=-0.2, logprob=-0.5)]
    assert sentence_reward(nodes[2], 0.9) == pytest.approx(0.1 * math.exp(-0.5))
    costs = node_costs(nodes, 0.9, "paper_raw")
    keys = reply_keys(nodes, costs, "paper_raw")
    assert keys[2] == pytest.approx(0.9 * 30 + 0.1 * (math.exp(-1.5) + math.exp(-0.5)))
    assert path_costs(nodes, costs)[2] == -keys[2] and reward(keys[2], "paper_raw") == keys[2]


def test_a_finished_reply_that_also_goes_on_is_a_reply() -> None:
    nodes = [ROOT, node(1, cosine=0.4, final=True), node(2, cosine=0.1),
             node(3, parent=1, depth=2, cosine=0.1)]
    assert list(reply_keys(nodes, node_costs(nodes, 0.9, "rank"), "rank")) == [1, 3, 2]
    assert chosen_of(nodes) == (1, 3), "2 has the same key, and comes later"


@pytest.mark.parametrize("nodes", [
    [ROOT], [ROOT, node(1)], [ROOT, node(1), node(2, final=False)],
    [ROOT, node(1), node(2, dropped="too_short")]])
def test_fewer_than_two_replies_are_no_choice(nodes: list[SearchNode]) -> None:
    assert chosen_of(nodes) is None


def test_ties_are_decided_depth_first() -> None:
    assert choose({4: 0.5, 2: 0.5, 3: 0.7, 1: 0.7}, "rank") == (4, 3)
    assert choose({4: 0.5, 2: 0.5, 3: 0.7, 1: 0.7}, "paper_raw") == (3, 4)
    assert choose({4: 0.5, 2: 0.5}, "rank") == (4, 4)


def test_depth_first_and_path() -> None:
    nodes = [ROOT, node(1), node(2), node(3, parent=2, depth=2), node(4, parent=1, depth=2),
             node(5, parent=1, depth=2)]
    assert [n.node_id for n in depth_first(nodes)] == [0, 1, 4, 5, 2, 3]
    assert [n.node_id for n in path(nodes, 5)] == [1, 5] and path(nodes, 0) == []


def test_a_sentence_that_was_not_scored_is_a_broken_search() -> None:
    broken = node(1).model_copy(update={"cosine": None})
    with pytest.raises(AssertionError, match="node 1 is not dropped, yet it was not scored"):
        node_costs([ROOT, broken], 0.9, "rank")
