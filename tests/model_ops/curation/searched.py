"""Search rows made by hand: replies as branches of one tree, and each way to make no pair."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from model_ops.prompts import load_prompts
from schemas.artifacts import publish, write_shard
from schemas.manifest import Manifest
from schemas.rows import QuarantineRow, row_id
from schemas.searches import SearchNode, SearchRow
from schemas.store import Store
from tests.model_ops.bits_world import NUM_GROUPS, image

PROMPTS = load_prompts("nursery")
QUESTION = "describe the image ."


class Said(NamedTuple):
    """A sentence and its two scores."""

    text: str
    cosine: float = 0.2
    logprob: float = -2.0
    dropped: str | None = None


GOOD, BAD = Said("a red cat .", 0.3, -1.0), Said("two blue dogs .", 0.1, -4.0)
MORE = Said("it sits on a mat .", 0.05, -3.0)


def root_node() -> SearchNode:
    """Node 0."""
    return SearchNode(node_id=0, parent_id=None, depth=0, text="", said="", num_tokens=0,
                      logprob=0.0, cosine=None, is_final=False, finish_reason="", kept=True)


def search(
    number: int, *replies: Sequence[Said], finished: bool = True, **changes: Any
) -> SearchRow:
    """A search whose every reply is a branch of its own; sentences are said a line each."""
    nodes = [root_node()]
    for reply in replies:
        parent = 0
        for depth, said in enumerate(reply, start=1):
            last = depth == len(reply)
            nodes.append(SearchNode(
                node_id=len(nodes), parent_id=parent, depth=depth, text=said.text,
                said=f"\n{said.text}",
                num_tokens=len(said.text.split()) or 1, logprob=said.logprob,
                cosine=None if said.dropped else said.cosine, is_final=last and finished,
                finish_reason="eos" if last and finished else "sentence", kept=not last,
                dropped_reason=said.dropped))
            parent = nodes[-1].node_id
    fields = {
        "row_id": row_id("search", number=number), "round": 1, "stage": "00-calibrated",
        "model_digest": "m", "prompt_version": PROMPTS.digest, "seed": number,
        "prompt_id": f"prompt-{number}",
        "image": image(number % NUM_GROUPS, number // NUM_GROUPS % 4),
        "question": QUESTION, "nodes": nodes, "num_merged": number % 3, "num_empty": number % 4,
        "num_truncated": number % 2, "scorer_digest": "c", "num_calls": 3, "num_prompt_tokens": 9,
        "num_output_tokens": 20, "num_image_tokens": 4}
    return SearchRow.model_validate(fields | changes)


def pair(number: int, **changes: Any) -> SearchRow:
    """A search that makes a pair: GOOD against BAD and MORE."""
    return search(number, [GOOD], [BAD, MORE], **changes)


DROPS: dict[str, dict[str, Any]] = {
    "no_final": {"replies": ([GOOD], [BAD]), "finished": False},
    "single_final": {"replies": ([GOOD], [Said("x", dropped="too_short")])},
    "identical": {"replies": ([GOOD], [Said("A red  cat .", 0.1, -4.0)])},
}
"""What makes no pair under any configuration."""


def dropped(number: int, reason: str) -> SearchRow:
    """A search that makes no pair for *reason*."""
    made = dict(DROPS[reason])
    return search(number, *made.pop("replies"), **made)


def mixed(num: int = 40) -> list[SearchRow]:
    """Every fifth search makes no pair, for one reason after the other."""
    reasons = list(DROPS)
    return [dropped(n, reasons[n // 5 % len(reasons)]) if n % 5 == 2 else pair(n)
            for n in range(num)]


def publish_searches(
    store: Store, rows: Sequence[SearchRow], drops: Mapping[str, int] = MappingProxyType({}),
    prefix: str = "searches",
) -> Manifest:
    """The rows in shards of 9; *drops* are searches that failed, by reason."""
    lost = [QuarantineRow(row_id=f"{reason}{n}", kind="searches", reason=reason, detail="",
                          source="", payload="{}") for reason, num in drops.items()
            for n in range(num)]
    shards = [write_shard(store, prefix, index, rows[start:start + 9], SearchRow,
                          lost if not index else ())
              for index, start in enumerate(range(0, max(1, len(rows)), 9))]
    funnel = {"planned": len(rows) + len(lost), "played": len(rows), **drops}
    config = {"program": "search", "prompts": "nursery", "seed": 9}
    return publish(store, Manifest(kind="searches", prefix=prefix, shards=shards, funnel=funnel,
                                   inputs_digest=f"{len(rows)}", config=config,
                                   determinism="engine"))
