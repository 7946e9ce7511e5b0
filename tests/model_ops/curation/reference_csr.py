"""The reference's selection, written for the tests from methods/calibrated_csr.md, 2.2 and 2.3.

As there, a recursive class tree: children are cleaned, ranked among the surviving siblings, and the
leaves are collected depth first. It shares no code with `model_ops.curation.ranking`.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from schemas.searches import SearchNode


@dataclass
class Node:
    """A node of the reference's tree: `score` is cumulative, `clip_score` is 100 * cos."""

    name: int
    score: float
    depth: int
    clip_score: float = 0.0
    final: bool = False
    dropped: bool = False
    parent: "Node | None" = None
    children: list["Node"] = field(default_factory=list)
    rank: float | None = None
    clip_rank: float | None = None


def clean(node: Node) -> None:
    """Remove dropped children, with all that is below them."""
    node.children = [child for child in node.children if not child.dropped]
    for child in node.children:
        clean(child)


def rank(node: Node) -> None:
    """Ranks among siblings, best first: best 1/k, worst 1."""
    num = len(node.children)
    for place, child in enumerate(sorted(node.children, key=lambda c: c.score, reverse=True)):
        child.rank = (place + 1) / num
    for place, child in enumerate(sorted(node.children, key=lambda c: c.clip_score, reverse=True)):
        child.clip_rank = (place + 1) / num
    for child in node.children:
        rank(child)


def scored_leaves(
    node: Node, clip_alpha: float, path_cost: float = 0.0
) -> Iterator[tuple[float, Node]]:
    """(key, leaf) of the finished leaves, depth first."""
    if node.rank is not None and node.clip_rank is not None:
        path_cost += clip_alpha * node.clip_rank + (1 - clip_alpha) * node.rank
    if not node.children and node.final:
        yield path_cost / (node.depth + 1), node
    for child in node.children:
        yield from scored_leaves(child, clip_alpha, path_cost)


def select(root: Node, clip_alpha: float = 0.9) -> tuple[int, int]:
    """Names of the chosen and the rejected leaf; `IndexError` where no leaf is finished."""
    clean(root)
    rank(root)
    leaves = list(scored_leaves(root, clip_alpha))
    best = worst = leaves[0]
    for leaf in leaves:
        best = leaf if leaf[0] < best[0] else best
        worst = leaf if leaf[0] > worst[0] else worst
    return best[1].name, worst[1].name


def random_tree(seed: int) -> Node:
    """A tree grown level by level as the search grows it; few distinct scores, so many ties."""
    draw = random.Random(seed)
    root = Node(0, 0.0, 0)
    active, num_made, depth = [root], 1, draw.randint(1, 4)
    for level in range(1, depth + 1):
        made = []
        for parent in active:
            for _ in range(draw.randint(0 if level > 1 else 1, 5)):
                child = Node(num_made, parent.score - draw.randint(1, 6) / 8, level,
                             100 * draw.randint(-1, 6) / 16, draw.random() < 0.2 * level,
                             draw.random() < 0.15, parent)
                parent.children.append(child)
                made.append(child)
                num_made += 1
        active = draw.sample(going := [c for c in made if not c.final], min(3, len(going)))
    return root


def search_nodes(root: Node) -> list[SearchNode]:
    """The same tree as our search writes it: flat, in the order in which nodes were made."""
    waiting, found = [root], []
    while waiting:
        node = waiting.pop(0)
        found.append(node)
        waiting.extend(node.children)
    return [_search_node(node) for node in sorted(found, key=lambda node: node.name)]


def _search_node(node: Node) -> SearchNode:
    num_tokens = node.name % 7 + 1
    mean = node.score - node.parent.score if node.parent else 0.0
    text = f"sentence {node.name} ." if node.parent else ""
    return SearchNode(
        node_id=node.name, parent_id=node.parent.name if node.parent else None, depth=node.depth,
        text=text, said=f" {text}", num_tokens=num_tokens,
        logprob=mean * num_tokens, cosine=node.clip_score / 100 if node.parent else None,
        is_final=node.final, finish_reason="eos" if node.final else "sentence",
        kept=bool(node.children), dropped_reason="repeated" if node.dropped else None)


def kinds(trees: list[Node]) -> Counter[str]:
    """How many of *trees* have which difficulty: what the 200 trees have to cover."""
    seen: Counter[str] = Counter()
    for tree in trees:
        seen["dropped"] += any(node.dropped_reason for node in search_nodes(tree))
        clean(tree)
        rank(tree)
        keys = [key for key, _ in scored_leaves(tree, 0.5)]
        seen["no leaf" if not keys else "single leaf" if len(keys) == 1 else "several"] += 1
        seen["ties"] += len(keys) > 1 and max(map(keys.count, (min(keys), max(keys)))) > 1
    return seen
