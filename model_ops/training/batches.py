"""From rows to batches: TRL's own collators, with what they leave out.

Its one idea: training sees the tokens and pixels that inference sees. So the reward word is put in
and the prompt is built by the functions that the engines use, pictures are decoded and shrunk as
for the engines, and the last thing learnt of every reply is an end-of-turn token, whatever the
chat template does: TRL adds none to rows with images, and learns what a template writes behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from model_ops.engines.chat import to_conversation
from model_ops.engines.pictures import shrink
from model_ops.pixels import decode
from model_ops.programs.calls import IMAGE, Message
from model_ops.programs.reward import with_reward_word
from model_ops.training.job import Row

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import ProcessorMixin

Batch = dict[str, Any]
"""Tensors by name."""
Collator = Callable[[list[Row]], Batch]
_NO_LIMIT = 1 << 40
"""Pixels: images were checked when they were imported."""


class RowCollator:
    """Prompt-completion rows for `sft` and `crl`."""

    def __init__(self, processor: ProcessorMixin, reward_word: str = "",
                 max_pixels: int | None = None) -> None:
        from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

        self._collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
        self._close = missing_end_of_turn(processor)
        self._end: int = processor.tokenizer.eos_token_id
        self._word, self._max_pixels = reward_word, max_pixels

    def __call__(self, rows: list[Row]) -> Batch:
        """Input ids, labels (-100 but on completions), pixels, `weight` [rows] float32."""
        import torch

        batch: Batch = self._collate([self.example(row) for row in rows])
        labels = batch["labels"]
        batch["labels"] = labels.masked_fill(behind_last(labels == self._end), -100)
        batch["weight"] = torch.tensor([row["weight"] for row in rows], dtype=torch.float32)
        return batch

    def example(self, row: Row) -> Row:
        """What TRL's collator takes."""
        return {"prompt": conditioned(row["prompt"], self._word),
                "completion": closed(row["completion"], self._close),
                "images": self.pictures(row)}

    def pictures(self, row: Row) -> list[Image]:
        """The row's images as the engines see them."""
        return pictures(row, self._max_pixels)


class PairCollator:
    """Preference pairs for `dpo`: all chosen replies first, then all rejected ones."""

    def __init__(self, processor: ProcessorMixin, reward_word: str = "",
                 max_pixels: int | None = None) -> None:
        from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

        self._collate = DataCollatorForVisionPreference(processor)
        self._close = missing_end_of_turn(processor)
        self._end: int = processor.tokenizer.eos_token_id
        self._word, self._max_pixels = reward_word, max_pixels

    def __call__(self, rows: list[Row]) -> Batch:
        """Input ids, attention and completion mask, each [2 * rows, tokens], and pixels."""
        batch: Batch = self._collate([self._example(row) for row in rows])
        learnt = batch["completion_mask"]
        ends = (batch["input_ids"] == self._end) & (learnt == 1)
        batch["completion_mask"] = learnt.masked_fill(behind_last(ends), 0)
        return batch

    def _example(self, row: Row) -> Row:
        return {"prompt": conditioned(row["prompt"], self._word),
                "images": pictures(row, self._max_pixels),
                "chosen": closed(row["chosen"], self._close),
                "rejected": closed(row["rejected"], self._close)}


def conditioned(prompt: list[Row], word: str) -> list[Row]:
    """A row's prompt with the reward word, as the engines build it; as it is for ""."""
    if not word:
        return prompt
    messages = [Message(message["role"], tuple(
        IMAGE if part["type"] == "image" else part["text"] for part in message["content"]))
        for message in prompt]
    return to_conversation(with_reward_word(messages, word))


def closed(reply: list[Row], end: str) -> list[Row]:
    """A reply's messages with *end* behind the last text."""
    if not end:
        return reply
    *parts, last = reply[-1]["content"]
    content = [*parts, {"type": "text", "text": last["text"] + end}]
    return [*reply[:-1], {"role": "assistant", "content": content}]


def behind_last(marks: torch.Tensor) -> torch.Tensor:
    """True behind the last mark of each row ([rows, tokens]); nowhere in a row without marks."""
    from_here = marks.flip(1).cumsum(dim=1).flip(1)  # marks at this place or later
    return (from_here == 0) & marks.any(dim=1, keepdim=True)


def pictures(row: Row, max_pixels: int | None) -> list[Image]:
    """The row's images, decoded and shrunk to *max_pixels* as for the engines."""
    return [shrink(decode(image["bytes"], _NO_LIMIT), max_pixels) for image in row["images"]]


def missing_end_of_turn(processor: ProcessorMixin) -> str:
    """"" if the chat template ends an assistant message with EOS, else the EOS token to add.

    Without it a model learns to never stop (LLaVA-1.5's template, for one, leaves it out).
    """
    marker = "@@"
    messages = [{"role": "user", "content": [{"type": "text", "text": "?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": marker}]}]
    text: str = processor.apply_chat_template(messages, tokenize=False)
    end = str(processor.tokenizer.eos_token)
    return "" if end in text.rpartition(marker)[2] else end


def rendered(prompt: list[Row], processor: ProcessorMixin) -> str:
    """The prompt as text, up to where the reply begins; one placeholder per image."""
    text: str = processor.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return text
