"""A search tree as a reader has it: depth first, each sentence with its scores and its fate.

The one idea: the search says what was scored, its node rows say what came of it (ranks, cost,
choice); a tree whose node rows are missing is shown with its scores alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model_ops.curation.ranking import depth_first, mean_logprob, path
from schemas.artifacts import read_shard
from schemas.manifest import Manifest
from schemas.searches import NodeRow, SearchNode
from schemas.store import Store

CHOSEN, REJECTED = "chosen", "rejected"
MARKS = {(): " ", (CHOSEN,): "+", (REJECTED,): "-", (CHOSEN, REJECTED): "±"}
"""What stands before a sentence: whether it is part of the chosen or the rejected reply."""


@dataclass(frozen=True, slots=True)
class TreeLine:
    """One sentence of a tree."""

    node: SearchNode
    judged: NodeRow | None
    sides: tuple[str, ...]
    """The replies of the pair that it is part of: `chosen`, `rejected`, both in this order."""

    @property
    def mean_logprob(self) -> float:
        """Mean token log-probability."""
        return mean_logprob(self.node)

    @property
    def clip(self) -> float | None:
        """100 times the cosine with the picture."""
        return None if self.node.cosine is None else 100 * self.node.cosine

    @property
    def state(self) -> str:
        """`dropped`, `final`, `kept` or `pruned`."""
        if self.node.dropped_reason is not None:
            return "dropped"
        if self.node.is_final:
            return "final"
        return "kept" if self.node.kept else "pruned"

    @property
    def fate(self) -> str:
        """What became of it, in words."""
        why = self.node.dropped_reason if self.state == "dropped" else self.node.finish_reason
        end = f" ({self.judged.choice})" if self.judged and self.judged.choice else ""
        return f"{self.state}: {why}{end}" if self.state in ("dropped", "final") else self.state


def tree_lines(nodes: Sequence[SearchNode], judged: Mapping[int, NodeRow]) -> list[TreeLine]:
    """The sentences of a tree, each before those that follow it; `judged` by node id."""
    ends = {row.choice: number for number, row in judged.items() if row.choice}
    on_path = {side: {node.node_id for node in path(nodes, ends[side])}
               for side in (CHOSEN, REJECTED) if side in ends}
    return [TreeLine(node, judged.get(node.node_id),
                     tuple(side for side, ids in on_path.items() if node.node_id in ids))
            for node in depth_first(nodes) if node.parent_id is not None]


def tree_in_words(nodes: Sequence[SearchNode], judged: Mapping[int, NodeRow]) -> str:
    """A line a sentence, further in the deeper it stands; `+` before those of the chosen reply,
    `-` before those of the rejected one."""
    return "\n".join(map(_line, tree_lines(nodes, judged)))


def _line(line: TreeLine) -> str:
    scores = [f"mean logprob {line.mean_logprob:.2f}"]
    if line.clip is not None:
        scores.append(f"clip {line.clip:.1f}")
    row = line.judged
    if row is not None and row.cost is not None:
        scores.append(f"rank {row.rank:.2f}, clip rank {row.clip_rank:.2f}, cost {row.cost:.2f}")
    if row is not None and row.key is not None:
        scores.append(f"key {row.key:.3f}")
    text = " ".join(line.node.text.split())
    indent = "  " * (line.node.depth - 1)
    return f"{MARKS[line.sides]} {indent}{text}  [{', '.join(scores)}; {line.fate}]"


def nodes_of(store: Store, nodes: Manifest | None, search_id: str) -> dict[int, NodeRow]:
    """The node rows of a search by node id; empty where they were not published."""
    if nodes is None:
        return {}
    for shard in nodes.shards:
        with store.open_parquet(f"{nodes.prefix}/{shard.path}") as file:
            ids = file.read(columns=["search_id"]).column("search_id").to_pylist()
        if search_id in ids:
            rows = read_shard(store, nodes, shard.index, NodeRow)
            return {row.node_id: row for row in rows if row.search_id == search_id}
    return {}
