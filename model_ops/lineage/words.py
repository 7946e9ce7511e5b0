"""Rows in words, and as JSON without their pictures."""

import json
from typing import Any

from schemas.checks import text_of
from schemas.rows import (
    AskedRow,
    GameRow,
    ImaginedRow,
    ItemRow,
    PairRow,
    QuarantineRow,
    Row,
    SlotRow,
    TrainRow,
    TranscriptRow,
)
from schemas.searches import DescribedRow, DescriptionRow, NodeRow, SearchRow


def image_ids(row: Row) -> list[str]:
    """Ids of the images that a row is about."""
    if isinstance(row, TrainRow | PairRow | ItemRow):
        return list(row.image_ids)
    if isinstance(row, SlotRow | AskedRow | ImaginedRow | DescriptionRow | DescribedRow
                  | SearchRow):
        return [row.image.image_id]
    if isinstance(row, NodeRow):
        return [row.image_id]
    return [ref.image_id for ref in getattr(row, "images", [])]


def without_pictures(row: Row) -> dict[str, Any]:
    """The row as JSON; the bytes of its pictures are left out."""
    exclude = {"images"} if isinstance(row, TrainRow | PairRow) else None
    shown: dict[str, Any] = json.loads(row.model_dump_json(exclude=exclude))
    return shown


def told(row: Row) -> str:
    """A row in words."""
    match row:
        case TranscriptRow():
            turns = " ; ".join(f"{turn.question} {turn.answer}" for turn in row.turns)
            outcome = f"{'won' if row.won else 'lost'} game of {len(row.images)} images"
            guess = "none" if row.guess is None else row.guess + 1
            return f"{outcome} (guess {guess}, target {row.target + 1}): {turns}"
        case TrainRow():
            said = " ".join(part.text or "<image>" for m in row.completion for part in m.content)
            return f"role {row.role}, weight {row.weight:g}: {said}"
        case PairRow():
            return (f"{row.role}: {text_of(row.prompt[-1:])} / "
                    f"chosen{_rewarded(row.chosen_reward)}: {text_of(row.chosen)} / "
                    f"rejected{_rewarded(row.rejected_reward)}: {text_of(row.rejected)}")
        case QuarantineRow():
            return f"dropped, {row.reason}: {row.detail} (from {row.source})"
        case GameRow():
            return f"planned game of {len(row.images)} images, target {row.target + 1}"
        case ItemRow():
            return f"{row.benchmark}: expected {row.expected!r}, got {row.reply!r}"
    return _told_search(row) or _told_question(row)


def _told_search(row: Row) -> str:
    """The rows of the calibrated method before they are pairs; "" for others."""
    match row:
        case DescriptionRow():
            return f"planned: prompt {row.prompt_id}: {row.question}"
        case DescribedRow():
            return f"{row.question} / by itself: {row.reply}"
        case SearchRow():
            final = sum(node.is_final for node in row.nodes)
            return (f"search {row.row_id} of {len(row.nodes) - 1} sentences, {final} finished "
                    f"replies, {row.num_merged} merged, {row.num_empty} empty: {row.question}")
        case NodeRow():
            ranked = f", cost {row.cost:.3f}" if row.cost is not None else ""
            clip = f", clip {row.clip_cos100:.1f}" if row.clip_cos100 is not None else ""
            choice = f", end of the {row.choice} reply" if row.choice else ""
            return (f"node {row.node_id} at depth {row.depth}, mean logprob "
                    f"{row.mean_logprob:.2f}{clip}{ranked}{choice}: {row.text}")
    return ""


def _told_question(row: Row) -> str:
    """The rows of the contrastive method before they are pairs."""
    match row:
        case SlotRow():
            return f"planned: {row.question_type}, {row.question or 'the model is to ask'}"
        case AskedRow():
            sure = "" if row.type_probability is None else f", {row.type_probability:.2f} sure"
            return f"{row.question_type} (by {row.source}{sure}): {row.question}"
        case ImaginedRow():
            return (f"{row.question} / desired{_judged(row.desired_label)}: {row.desired} / "
                    f"undesired{_judged(row.undesired_label)}: {row.undesired}")
    return type(row).__name__


def _rewarded(reward: float | None) -> str:
    return "" if reward is None else f" ({reward:.3f})"


def _judged(label: str | None) -> str:
    return "" if label is None else f" (judged {label})"
