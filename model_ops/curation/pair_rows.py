"""From a reply that was imagined twice to rows that TRL reads: pairs, and what is learnt from them.

The criteria are gone here (methods/contrastive_macaroon.md, section 3: context distillation): the
prompt is the bare question about the image, by the same function that asks it in use. `crl` rows
differ from it by the reward word alone.
"""

from collections.abc import Sequence
from typing import Literal

from model_ops.curation.train_rows import chat
from model_ops.programs.calls import IMAGE as IMAGE_PART
from model_ops.programs.calls import Message
from model_ops.programs.contrastive_messages import question_messages
from model_ops.programs.messages import Messages
from model_ops.programs.reward import with_reward_word
from model_ops.prompts import Prompts
from schemas.config import RewardWords
from schemas.rows import (
    IMAGE,
    ChatMessage,
    ImaginedRow,
    PairRow,
    Part,
    Picture,
    TrainRow,
    row_id,
)

Objective = Literal["crl", "sft", "dpo"]
CHOSEN = "chosen"
"""Role of the rows of objective `sft`, which knows no reward word."""


def pair_row(source: ImaginedRow, picture: Picture, prompts: Prompts, seed: int) -> PairRow:
    """The preference pair, traceable to its imagined replies by `source_row_id`."""
    return PairRow(
        row_id=row_id("pair", source=source.row_id),
        round=source.round,
        stage=source.stage,
        model_digest=source.model_digest,
        prompt_version=source.prompt_version,
        seed=seed,
        prompt=chat(question_messages(prompts, source.question)),
        chosen=assistant_says(source.desired),
        rejected=assistant_says(source.undesired),
        images=[picture],
        role=source.question_type,
        source_row_id=source.row_id,
        image_ids=[source.image.image_id],
        chosen_reward=source.desired_probability,
        rejected_reward=source.undesired_probability,
    )


def assistant_says(text: str) -> list[ChatMessage]:
    """A reply as TRL reads it."""
    return [ChatMessage(role="assistant", content=[Part(type="text", text=text)])]


def rows_of(
    pair: PairRow, objective: Objective, words: RewardWords, seed: int
) -> Sequence[TrainRow] | Sequence[PairRow]:
    """What *objective* learns from a pair: `crl` both replies, each after its reward word; `sft`
    the chosen one; `dpo` the pair as it is."""
    if objective == "dpo":
        return [pair]
    if objective == "sft":
        return [_train_row(pair, CHOSEN, pair.prompt, pair.chosen, seed)]
    asked = messages_of(pair.prompt)
    return [_train_row(pair, word, chat(with_reward_word(asked, word)), said, seed)
            for word, said in ((words.good, pair.chosen), (words.bad, pair.rejected))]


def _train_row(
    pair: PairRow, role: str, prompt: list[ChatMessage], completion: list[ChatMessage], seed: int
) -> TrainRow:
    return TrainRow(
        row_id=row_id("train", source=pair.row_id, role=role),
        round=pair.round,
        stage=pair.stage,
        model_digest=pair.model_digest,
        prompt_version=pair.prompt_version,
        seed=seed,
        prompt=prompt,
        completion=completion,
        images=pair.images,
        weight=1.0,
        role=role,
        source_row_id=pair.row_id,
        image_ids=pair.image_ids,
    )


def messages_of(said: Sequence[ChatMessage]) -> Messages:
    """The inverse of `chat`."""
    return tuple(
        Message(message.role, tuple(_part(part) for part in message.content)) for message in said
    )


def _part(part: Part) -> str:
    return IMAGE_PART if part.type == IMAGE else part.text or ""
