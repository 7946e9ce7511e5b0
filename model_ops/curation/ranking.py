"""Which reply of a search tree is preferred: ranks, costs, keys, choice; pure functions.

methods/calibrated_csr.md, section 2.3. Two modes: `rank`, the authors' code (mean rank among
surviving siblings, lower is better), and `paper_raw`, the paper's formula (sum of rewards, higher
is better). Its one idea: a cost is always lower-is-better, so that a search can be pruned by it in
either mode. The root has neither cost nor rank; nor has what was dropped, or stands below it.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from schemas.searches import SearchNode

RewardMode = Literal["rank", "paper_raw"]


class NodeCost(NamedTuple):
    """A sentence against its surviving siblings."""

    rank: float
    """Position / siblings by mean token log-probability, best first: in (0, 1]."""
    clip_rank: float
    """The same by the cosine with the image."""
    cost: float
    """Lower is better. `rank`: lam * clip_rank + (1 - lam) * rank; `paper_raw`: minus the
    sentence's reward."""


def ranks(values: Sequence[float]) -> list[float]:
    """Of each value its position / k, the greatest first (1/k ... 1); equal ones in their order."""
    order = sorted(range(len(values)), key=lambda place: -values[place])
    positions = {place: position for position, place in enumerate(order, start=1)}
    return [positions[place] / len(values) for place in range(len(values))]


def mean_logprob(node: SearchNode) -> float:
    """The language score R_T as the authors' code has it, without its diversity penalty."""
    return node.logprob / max(node.num_tokens, 1)


def sentence_reward(node: SearchNode, lam: float) -> float:
    """The paper's lam * R_I + (1 - lam) * R_T: R_I = max(100 cos, 0), R_T = the sentence's
    probability."""
    return lam * max(100 * _cosine(node), 0.0) + (1 - lam) * math.exp(node.logprob)


def node_costs(nodes: Sequence[SearchNode], lam: float, mode: RewardMode) -> dict[int, NodeCost]:
    """The costs of all nodes that count, by node id. Parents come before their children."""
    costs = {}
    for siblings in _surviving_siblings(nodes):
        by_model = ranks([mean_logprob(node) for node in siblings])
        by_image = ranks([_cosine(node) for node in siblings])
        for node, rank, clip_rank in zip(siblings, by_model, by_image, strict=True):
            cost = lam * clip_rank + (1 - lam) * rank
            if mode == "paper_raw":
                cost = -sentence_reward(node, lam)
            costs[node.node_id] = NodeCost(rank, clip_rank, cost)
    return costs


def path_costs(nodes: Sequence[SearchNode], costs: Mapping[int, NodeCost]) -> dict[int, float]:
    """Cost of the whole text so far, by node id; the root has 0."""
    sums: dict[int, float] = {}
    for node in nodes:
        if node.parent_id is None:
            sums[node.node_id] = 0.0
        elif node.node_id in costs:
            sums[node.node_id] = sums[node.parent_id] + costs[node.node_id].cost
    return sums


def reply_keys(
    nodes: Sequence[SearchNode], costs: Mapping[int, NodeCost], mode: RewardMode,
    count_root: bool = True,
) -> dict[int, float]:
    """What finished replies are compared by, by the node where they end, in depth-first order.

    `rank`: path cost / (depth + 1), lower is better: the root counts in the length, which favours
    short replies, as in the reference; without *count_root* the mean cost. `paper_raw`: summed
    reward, higher is better.
    """
    sums = path_costs(nodes, costs)
    final = (node for node in depth_first(nodes) if node.is_final and node.node_id in costs)
    if mode == "paper_raw":
        return {node.node_id: -sums[node.node_id] for node in final}
    return {node.node_id: sums[node.node_id] / (node.depth + count_root) for node in final}


def choose(keys: Mapping[int, float], mode: RewardMode) -> tuple[int, int] | None:
    """Node ids of the chosen and the rejected reply; None when there are fewer than two replies.

    Of equal keys the first in the order of *keys* (`reply_keys`: depth-first) is taken at either
    end, so that a tree in which all are equal gives one node twice, as in the reference.
    """
    if len(keys) < 2:
        return None
    chosen = min(keys, key=lambda node_id: -reward(keys[node_id], mode))
    rejected = min(keys, key=lambda node_id: reward(keys[node_id], mode))
    return chosen, rejected


def reward(key: float, mode: RewardMode) -> float:
    """The key with the sign by which higher is better."""
    return key if mode == "paper_raw" else -key


def depth_first(nodes: Sequence[SearchNode]) -> list[SearchNode]:
    """All nodes, each before what is below it, siblings in the order in which they were made."""
    children = _children(nodes)
    waiting, seen = [node for node in reversed(nodes) if node.parent_id is None], []
    while waiting:
        node = waiting.pop()
        seen.append(node)
        waiting.extend(reversed(children[node.node_id]))
    return seen


def path(nodes: Sequence[SearchNode], node_id: int) -> list[SearchNode]:
    """The sentences from the first to *node_id*, the root left out."""
    by_id = {node.node_id: node for node in nodes}
    steps, node = [], by_id[node_id]
    while node.parent_id is not None:
        steps.append(node)
        node = by_id[node.parent_id]
    return steps[::-1]


def _surviving_siblings(nodes: Sequence[SearchNode]) -> list[list[SearchNode]]:
    """Groups of nodes with one parent, without those dropped and all that is below them."""
    alive = {node.node_id for node in nodes if node.parent_id is None}
    groups: dict[int, list[SearchNode]] = defaultdict(list)
    for node in nodes:
        if node.parent_id in alive and node.parent_id is not None and node.dropped_reason is None:
            alive.add(node.node_id)
            groups[node.parent_id].append(node)
    return list(groups.values())


def _children(nodes: Sequence[SearchNode]) -> dict[int, list[SearchNode]]:
    children: dict[int, list[SearchNode]] = defaultdict(list)
    for node in nodes:
        if node.parent_id is not None:
            children[node.parent_id].append(node)
    return children


def _cosine(node: SearchNode) -> float:
    assert node.cosine is not None, f"node {node.node_id} is not dropped, yet it was not scored"
    return node.cosine
