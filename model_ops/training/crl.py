"""Conditional RL (MACAROON): learn good and bad replies alike, each behind its reward word.

Its one idea: there is no contrastive term; the contrast lies in the prompt alone. A row's prompt
has one word before the question, `good` or `bad` (`programs.reward`), its completion is the desired
or the undesired reply, and asked with `good` the model says what followed `good`
(methods/contrastive_macaroon.md, section 4.1). The loss is cross-entropy on the reply's tokens, its
end token included, as a mean over a row's tokens, then over rows: that is `sft`'s loss, so the
words in the rows are the whole difference. The published manifest names the word to ask with.

Preset `paper` is the reference code: LoRA r 16, alpha 16, dropout 0.1 on q, k, v (the vision
tower's too), AdamW at 1e-4, weight decay 0.01, cosine after 100 warm-up steps, steps of 64 rows,
one epoch, at most 312 steps, no clipping. A reply is `R`, a space and the end token, tokenised by
itself; prompt and reply are cut at 1,024 text tokens each (an image counts as one), so a longer
reply has no end token. It deviates where
- the rest of the prompt is what the model's chat template gives, as in the engines (the reference
  writes `<s>[INST] <image>\\n` and ` [/INST]` by hand), BOS in front where the tokenizer has it;
- the cosine ends with the last step done, a last incomplete batch of 64 is a step too, and the
  order of rows is drawn by the stage's seed;
- adapter weights are float32, and matrix products are bfloat16 where `mixed_precision` and the
  processor allow (the reference: bfloat16 throughout);
- a broken row stops the training (the reference skips it; here it is in quarantine already), and
  checkpoints hold the adapter instead of the whole model.

Preset `fixed` is section 9.1: the same loss, the chat template's own end of turn, replies never
cut, warm-up of 3 %, clipping at 1, no cap on steps, LoRA on the language model alone as in `sft`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_ops.training.batches import RowCollator, rendered
from model_ops.training.job import Fitted, Row, Session, TrainJob
from model_ops.training.sft import fit_rows
from model_ops.training.trainer import begin
from schemas.config import CrlConfig

if TYPE_CHECKING:
    from transformers import ProcessorMixin

PAPER_TOKENS = 1024
"""Longest prompt, and longest reply, of preset `paper`."""


def fit(job: TrainJob, session: Session) -> Fitted:
    """Train on this worker; rank 0 saves the model. `TrainingError` if the loss is not finite."""
    start = begin(job, session)
    assert isinstance(job.config, CrlConfig)
    return fit_rows(job, session, start, collator(
        job.config, start.processor, job.max_image_pixels))


def collator(config: CrlConfig, processor: ProcessorMixin,
             max_pixels: int | None = None) -> RowCollator:
    """The preset's batches. The rows have their reward words already."""
    kind = PaperCollator if config.preset == "paper" else RowCollator
    return kind(processor, max_pixels=max_pixels)


class PaperCollator(RowCollator):
    """Rows as the reference code writes them."""

    def __init__(self, processor: ProcessorMixin, max_tokens: int = PAPER_TOKENS,
                 max_pixels: int | None = None) -> None:
        super().__init__(processor, max_pixels=max_pixels)
        self._processor, self._max_tokens = processor, max_tokens

    def example(self, row: Row) -> Row:
        """Prompt and reply as texts, tokenised apart by TRL's collator."""
        reply = "".join(part["text"] for message in row["completion"]
                        for part in message["content"])
        texts = {"prompt": rendered(row["prompt"], self._processor),
                 "completion": f"{reply} {self._processor.tokenizer.eos_token}"}
        return {name: first_tokens(text, self._max_tokens, self._processor)
                for name, text in texts.items()} | {"images": self.pictures(row)}


def first_tokens(text: str, num: int, processor: ProcessorMixin) -> str:
    """*text* up to the end of its token *num*; an image's placeholder is one token here."""
    ends = processor.tokenizer(text, add_special_tokens=False,
                               return_offsets_mapping=True)["offset_mapping"]
    return text if len(ends) <= num else text[:ends[num - 1][1]]
