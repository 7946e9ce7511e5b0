"""Direct preference optimisation (arXiv 2305.18290): TRL's DPOTrainer on pairs with images.

Its one idea: the trainer is TRL's own, unmodified. A pair's reward difference is
d = beta * ((log p - log p_ref)(chosen) - (log p - log p_ref)(rejected)), log-probabilities summed
over a reply's tokens, its end token included; the reference is the model that training starts from
(with LoRA: the model with its adapter off; in full: a frozen copy) or the job's `reference`.
`loss_types` are added up, each times its weight:

- `sigmoid`: mean over pairs of -log sigmoid(d), ln 2 before the first step;
- `sft`: minus the mean log-probability of the chosen replies' tokens, over *all* such tokens of the
  micro-batch: long replies weigh more, unlike in `sft.py` (with `batch_size: 1` they do not);
- `ipo` and `hinge`: as TRL has them.

Preset `paper` (methods/contrastive_macaroon.md, 4.2) is sigmoid + sft at beta 0.1, lr 5e-5, steps
of 128 pairs. It deviates where the reference trains the last ten decoder layers in full, at a
constant rate, for at most 10,000 pairs, and clips gradients only after each step: here it is LoRA,
a cosine after warm-up, no cap on pairs, and clipping at 1.

Preset `csr` (methods/calibrated_csr.md, section 3) is sigmoid at beta 0.1, LoRA of rank 128 and
alpha 256 on the language model, lr 1e-7, steps of one pair, a cosine after 3 % warm-up, one epoch.
Steps so small need an adapter of 32 bits, which is checked, as is that the published weights moved.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from model_ops.models import WEIGHTS, fetch_model
from model_ops.training.batches import PairCollator
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
from schemas.config import DpoConfig
from schemas.errors import TrainingError

if TYPE_CHECKING:
    import torch
    from trl import DPOConfig as TrlConfig
    from trl import DPOTrainer


def fit(job: TrainJob, session: Session) -> Fitted:
    """Train on this worker; rank 0 saves the model.

    Raises `TrainingError` if the loss is not finite, or if the published weights are the start's.
    """
    start = begin(job, session)
    assert isinstance(job.config, DpoConfig)
    fitted = run(make_trainer(job, job.config, start, session), start, session)
    if fitted.folder is not None and not has_moved(start.folder, fitted.folder):
        raise TrainingError(
            f"{job.prefix}: no weight moved in {fitted.stats['steps']} steps; look at the loss "
            f"and grad_norm in its metrics.jsonl, then train for more steps than the warm-up has, "
            f"raise train.learning_rate, or publish in a finer type (model.dtype)")
    return fitted


def make_trainer(job: TrainJob, config: DpoConfig, start: Start, session: Session) -> DPOTrainer:
    """TRL's trainer, its reference model included."""
    from trl import DPOTrainer

    reference = None
    if job.reference is not None or config.adapter == "full":
        folder = fetch_model(job.store, job.reference) if job.reference else start.folder
        reference = load_model(folder, config, start.dtype).requires_grad_(False)
    trainer = DPOTrainer(
        model=load_model(start.folder, config, start.dtype), ref_model=reference,
        args=arguments(job, config, start.dtype, session.scratch / "trainer"),
        train_dataset=start.rows, processing_class=start.processor,
        data_collator=PairCollator(start.processor, job.reward_word, job.max_image_pixels),
        peft_config=adapter(config), callbacks=[session_callback(job, session)],
    )
    _check_precision(trainer)
    return trainer


def _check_precision(trainer: DPOTrainer) -> None:
    """Steps of 1e-7 are lost on weights of 16 bits: those that are trained have to have 32."""
    import torch

    coarse = [name for name, weight in trainer.model.named_parameters()
              if weight.requires_grad and weight.dtype != torch.float32]
    if coarse:
        raise TrainingError(f"{len(coarse)} of the trained weights are not float32 (such as "
                            f"{coarse[0]}): this version of peft or TRL does not keep adapters in "
                            f"float32, use the locked ones")


def arguments(job: TrainJob, config: DpoConfig, dtype: torch.dtype, output: Path) -> TrlConfig:
    """TRL's settings. Its own default silences every dropout, the adapter's too."""
    from trl import DPOConfig as TrlConfig

    return trl_arguments(TrlConfig, job, dtype, output, beta=config.beta,
                         loss_type=list(config.loss_types), loss_weights=config.loss_weights,
                         label_smoothing=0.0, disable_dropout=not config.lora_dropout)


def has_moved(start: Path, folder: Path) -> bool:
    """Whether a weight in *folder* differs from the start model's, compared in the former's type:
    an update may be lost on the way to 16 bits. Stops at the first that does."""
    import torch

    before, after = _weights(start), _weights(folder)
    return any(not torch.equal(before[name]().to(tensor.dtype), tensor)
               for name, read in after.items() if name in before for tensor in (read(),))


def _weights(folder: Path) -> dict[str, Callable[[], torch.Tensor]]:
    """Name -> how to read it, of all tensors of a model."""
    from safetensors import safe_open

    found: dict[str, Callable[[], torch.Tensor]] = {}
    for path in sorted(folder.glob(f"*{WEIGHTS}")):
        file = safe_open(path, framework="pt")
        found |= {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118
    return found
