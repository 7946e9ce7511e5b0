"""From one search tree to a preference, or to the reason why it makes none; pure functions.

methods/calibrated_csr.md, section 2.3; which reply wins is `ranking`'s. The filters are ours [I]:
the reference pairs a single reply with itself and dies where there is none.
"""

from collections.abc import Sequence
from typing import NamedTuple

from model_ops.curation.ranking import (
    NodeCost,
    choose,
    mean_logprob,
    node_costs,
    path,
    reply_keys,
    reward,
)
from schemas.config import PreferenceConfig
from schemas.errors import DropError
from schemas.manifest import digest
from schemas.rows import row_id
from schemas.searches import NodeRow, SearchNode, SearchRow

LIMITS = ("max_tokens", "max_sentences")


class Reply(NamedTuple):
    """A finished reply."""

    node_id: int
    """Where it ends."""
    text: str
    reward: float
    """Its key with the sign by which higher is better."""
    cos100: float
    """100 * cosine with the image, mean over its sentences."""
    is_cut: bool = False
    """A limit of the search ended it, not the model."""

    @property
    def num_words(self) -> int:
        """Words by white space."""
        return len(self.text.split())


class Preference(NamedTuple):
    """What a search comes to: the better and the worse reply, of `num_candidates`."""

    chosen: Reply
    rejected: Reply
    num_candidates: int

    @property
    def margin(self) -> float:
        """How much better; never negative."""
        return self.chosen.reward - self.rejected.reward


class Weighed(NamedTuple):
    """A search's nodes as they are compared: costs by node, keys by the end of a reply."""

    costs: dict[int, NodeCost]
    keys: dict[int, float]


def weigh(nodes: Sequence[SearchNode], config: PreferenceConfig) -> Weighed:
    """Costs and keys under *config*."""
    costs = node_costs(nodes, config.lam, config.reward_mode)
    return Weighed(costs, reply_keys(nodes, costs, config.reward_mode,
                                     config.count_root))


def identity(config: PreferenceConfig) -> str:
    """What tells rows of one search apart that were made with other weights."""
    return digest(config.model_dump(mode="json"))


def prefer(search: SearchRow, config: PreferenceConfig) -> Preference:
    """The pair of *search*; `DropError` with the reason if it makes none.

    `no_final`, `single_final`: fewer than two replies; `identical`: the same words twice;
    `small_margin`, `length_ratio`: the filters of *config*.
    """
    weighed = weigh(search.nodes, config)
    ends = choose(weighed.keys, config.reward_mode)
    if ends is None:
        raise _no_choice(search, weighed)
    chosen, rejected = (_reply(search, end, weighed, config) for end in ends)
    preference = Preference(chosen, rejected, len(weighed.keys))
    _check(preference, config)
    return preference


def _no_choice(search: SearchRow, weighed: Weighed) -> DropError:
    told = f"{len(search.nodes) - 1} sentences, {len(weighed.keys)} finished replies"
    return DropError("single_final" if weighed.keys else "no_final", told)


def _reply(search: SearchRow, end: int, weighed: Weighed, config: PreferenceConfig) -> Reply:
    sentences = path(search.nodes, end)
    cosines = [node.cosine for node in sentences if node.cosine is not None]
    return Reply(end, "".join(node.said for node in sentences).strip(),
                 reward(weighed.keys[end], config.reward_mode),
                 100 * sum(cosines) / len(cosines), sentences[-1].finish_reason in LIMITS)


def _check(pair: Preference, config: PreferenceConfig) -> None:
    told = f"{pair.chosen.text} / {pair.rejected.text}"
    words = sorted((pair.chosen.num_words, pair.rejected.num_words))
    if pair.chosen.text.lower().split() == pair.rejected.text.lower().split():
        raise DropError("identical", told)
    if config.min_margin is not None and pair.margin < config.min_margin:
        raise DropError("small_margin", f"{pair.margin:.4f}: {told}")
    if config.max_length_ratio is not None and words[1] > config.max_length_ratio * words[0]:
        raise DropError("length_ratio", f"{words[1]} and {words[0]} words: {told}")


def node_rows(search: SearchRow, config: PreferenceConfig, seed: int) -> list[NodeRow]:
    """The nodes of one search. `choice` stands at the ends of a pair that is learnt from."""
    weighed = weigh(search.nodes, config)
    try:
        pair = prefer(search, config)
        choices = {pair.chosen.node_id: "chosen", pair.rejected.node_id: "rejected"}
    except DropError:
        choices = {}
    return [_node_row(search, node, weighed, choices.get(node.node_id), config, seed)
            for node in search.nodes]


def _node_row(
    search: SearchRow, node: SearchNode, weighed: Weighed, choice: str | None,
    config: PreferenceConfig, seed: int,
) -> NodeRow:
    cost = weighed.costs.get(node.node_id)
    copied = node.model_dump(exclude={"logprob", "cosine", "said"})
    return NodeRow(
        **copied, row_id=row_id("node", search=search.row_id, node=node.node_id,
                                 preference=identity(config)),
        round=search.round, stage=search.stage, model_digest=search.model_digest,
        prompt_version=search.prompt_version, seed=seed, search_id=search.row_id,
        prompt_id=search.prompt_id, image_id=search.image.image_id, sum_logprob=node.logprob,
        mean_logprob=mean_logprob(node),
        clip_cos100=None if node.cosine is None else 100 * node.cosine,
        rank=cost.rank if cost else None, clip_rank=cost.clip_rank if cost else None,
        cost=cost.cost if cost else None, key=weighed.keys.get(node.node_id), choice=choice)
