"""Supervised fine-tuning: TRL's SFTTrainer on prompt-completion rows with images.

Its one idea: TRL does the work, and one small change makes it fit self-made data. The loss is the
mean *per row*, times the row's weight: a token mean would let long descriptions drown one-word
answers. What a batch is made of is left to `batches`, the rest of a training to `trainer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_ops.training.batches import Collator, RowCollator
from model_ops.training.job import Fitted, Session, TrainJob
from model_ops.training.trainer import (
    Start,
    adapter,
    begin,
    load_model,
    run,
    session_callback,
    trl_arguments,
)

if TYPE_CHECKING:
    import torch
    from trl import SFTConfig as TrlConfig
    from trl import SFTTrainer


def fit(job: TrainJob, session: Session) -> Fitted:
    """Train on this worker; rank 0 saves the model. `TrainingError` if the loss is not finite."""
    start = begin(job, session)
    return fit_rows(job, session, start, RowCollator(
        start.processor, job.reward_word, job.max_image_pixels))


def fit_rows(job: TrainJob, session: Session, start: Start, collator: Collator) -> Fitted:
    """Train with the loss of this file on the batches of *collator*."""
    trainer = row_mean_trainer()(
        model=load_model(start.folder, job.config, start.dtype),
        args=arguments(job, start.dtype, session.scratch / "trainer"),
        train_dataset=start.rows,
        processing_class=start.processor,
        data_collator=collator,
        peft_config=adapter(job.config),
        callbacks=[session_callback(job, session)],
    )
    return run(trainer, start, session)


def row_mean_trainer() -> type[SFTTrainer]:
    """TRL's trainer with the loss of this file."""
    from trl import SFTTrainer

    class RowMeanTrainer(SFTTrainer):
        """SFTTrainer whose loss is the weighted mean over rows instead of over tokens."""

        loss_is_scaled_for_ga = False

        def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
                         num_items_in_batch: Any = None) -> Any:
            """`row_mean_loss` of a batch; TRL's patched head gives each token's log-probability."""
            weight = inputs.pop("weight")
            outputs = model(**inputs, use_cache=False, fused_lm_head=True)
            loss = row_mean_loss(outputs.log_probs, outputs.label_mask, weight)
            return (loss, outputs) if return_outputs else loss

    return RowMeanTrainer


def row_mean_loss(log_probs: torch.Tensor, mask: torch.Tensor,
                  weight: torch.Tensor) -> torch.Tensor:
    """mean_i weight_i * (-sum_t mask_it log_probs_it / sum_t mask_it).

    `log_probs` and `mask`: [rows, tokens], the former 0 where masked; `weight`: [rows].
    Divided by the number of rows, not by the sum of weights: a row's pull must not depend on which
    rows share its batch.
    """
    num_tokens = mask.sum(dim=1).clamp(min=1)
    return (weight * -log_probs.float().sum(dim=1) / num_tokens).mean()


def arguments(job: TrainJob, dtype: torch.dtype, output: Path) -> TrlConfig:
    """TRL's settings."""
    from trl import SFTConfig as TrlConfig

    return trl_arguments(TrlConfig, job, dtype, output)
