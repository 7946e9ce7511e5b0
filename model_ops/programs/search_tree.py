"""The tree of a sentence-level search: what was sampled, what counts, what is continued.

methods/calibrated_csr.md, sections 2 and 6.1. Its one idea: a node holds the exact text sampled so
far (the next call's prefix) beside the sentence that is scored, so that nothing is ever cut out of
a longer text by offsets. It asks nothing: calls are the business of `searching`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model_ops.curation.ranking import mean_logprob, node_costs, path_costs
from model_ops.programs.calls import Sample
from model_ops.programs.sentences import drop_reason, had_ended, is_unfinished, says_something
from schemas.config import SearchConfig
from schemas.searches import SearchNode

ROOT = 0


@dataclass(frozen=True, slots=True)
class Continuation:
    """What the model went on with from the node *parent*, text as it was sampled."""

    parent: int
    sample: Sample
    look: str = ""
    is_closed: bool = False
    """It ended at a full stop after a digit, as what came next has shown."""

    @property
    def is_open(self) -> bool:
        """Whether it stopped at a full stop that ends no sentence."""
        return (not self.is_closed and self.sample.stopped_by is not None
                and is_unfinished(self.sample.text.rstrip()))

    @property
    def ending(self) -> str:
        """`sentence`, `eos`, or `length` where it was cut off before a sentence's end."""
        if self.sample.finish_reason == "length" or self.is_open:
            return "length"
        return "eos" if self.sample.stopped_by is None else "sentence"

    def followed_by(self, more: Sample) -> "Continuation":
        """The same with what the model said next: one sentence; without it, where that is the
        next one's beginning (which is sampled anew, by as many as any other)."""
        sample = self.sample
        if had_ended(sample.text, more.text):
            return replace(self, is_closed=True)
        return replace(self, sample=replace(
            more, text=sample.text + more.text, logprob=sample.logprob + more.logprob,
            num_tokens=sample.num_tokens + more.num_tokens))


class SearchTree:
    """A growing tree; `nodes` in the order in which they were made, `prefixes` the reply of each
    node so far."""

    def __init__(self, settings: SearchConfig) -> None:
        self._settings = settings
        self.nodes = [SearchNode(
            node_id=ROOT, parent_id=None, depth=0, text="", said="", num_tokens=0, logprob=0.0,
            cosine=None, is_final=False, finish_reason="", kept=True)]
        self.prefixes = [""]
        self._num_tokens = [0]
        self._mean_logprobs = [0.0]
        self.num_merged = 0
        self.num_empty = 0

    def add(self, grown: Sequence[Continuation]) -> range:
        """Add a level; ids of its nodes. Siblings that are equal are one node. An end of text that
        says nothing is none: it finishes its parent (at the root, whose reply would be empty, it is
        counted)."""
        first, seen = len(self.nodes), set()
        for made in grown:
            if made.ending == "eos" and not says_something(made.sample.text):
                self._finish(made.parent)
                continue
            key = (made.parent, made.sample.text.strip(), made.ending)
            if key in seen:
                self.num_merged += 1
                continue
            seen.add(key)
            self._append(made)
        return range(first, len(self.nodes))

    def set_cosines(self, node_ids: Sequence[int], cosines: Sequence[float]) -> None:
        """Remember how well sentences fit the image."""
        for node_id, cosine in zip(node_ids, cosines, strict=True):
            self._change(node_id, cosine=cosine)

    def keep(self, level: Sequence[int]) -> list[int]:
        """Of a level's unfinished nodes those that are to be continued: the best and the worst by
        `prune_by` (all, where they are few); equal ones in the order in which they were made."""
        num_top, num_bottom = self._settings.keep_top, self._settings.keep_bottom
        costs = self._costs()
        ordered = sorted(filter(self._can_go_on, level), key=costs.__getitem__)
        kept = ordered
        if len(ordered) >= self._settings.num_continuations:
            kept = ordered[:num_top] + ordered[max(num_top, len(ordered) - num_bottom):]
        for node_id in kept:
            self._change(node_id, kept=True)
        return kept

    def _costs(self) -> Sequence[float] | dict[int, float]:
        """Of the replies so far, lower is better."""
        if self._settings.prune_by == "lm":
            return [-mean for mean in self._mean_logprobs]
        return path_costs(self.nodes, node_costs(self.nodes, self._settings.lam,
                                                 self._settings.reward_mode))

    def _can_go_on(self, node_id: int) -> bool:
        node = self.nodes[node_id]
        return node.finish_reason == "sentence" and node.dropped_reason is None

    def _append(self, made: Continuation) -> None:
        parent, sample, text = self.nodes[made.parent], made.sample, made.sample.text.strip()
        num_tokens = self._num_tokens[made.parent] + sample.num_tokens
        ending = self._reason(made.ending, parent.depth + 1, num_tokens)
        dropped = "no_sentence_end" if ending == "length" else drop_reason(text)
        node = SearchNode(
            node_id=len(self.nodes), parent_id=made.parent, depth=parent.depth + 1, text=text,
            said=sample.text, num_tokens=sample.num_tokens, logprob=sample.logprob, cosine=None,
            kept=False, is_final=dropped is None and ending != "sentence", finish_reason=ending,
            look=made.look, dropped_reason=dropped)
        self.nodes.append(node)
        self.prefixes.append(self.prefixes[made.parent] + sample.text)
        self._num_tokens.append(num_tokens)
        self._mean_logprobs.append(self._mean_logprobs[made.parent] + mean_logprob(node))

    def _reason(self, ending: str, depth: int, num_tokens: int) -> str:
        """Why a sentence is the last one so far: the limits of a whole reply finish it."""
        if ending == "sentence" and num_tokens >= self._settings.max_tokens:
            return "max_tokens"
        if ending == "sentence" and depth >= self._settings.max_sentences:
            return "max_sentences"
        return ending

    def _finish(self, node_id: int) -> None:
        if node_id == ROOT:
            self.num_empty += 1
        else:
            self._change(node_id, is_final=True, finish_reason="eos")

    def _change(self, node_id: int, **values: float | bool | str) -> None:
        self.nodes[node_id] = self.nodes[node_id].model_copy(update=values)
