"""What all objectives share around TRL's trainers: the start model, its adapter, settings, metrics.

Its one idea: an objective is a loss and a collator; everything else of a training is here, and says
each setting that shapes the model. Where jobs run and restart is left to `launch`.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from model_ops.engines import chat
from model_ops.models import WEIGHTS, fetch_model, model_files
from model_ops.training.job import Fitted, Session, Step, TrainJob
from model_ops.training.rows import count_rows, load_rows
from schemas.config import TrainConfig
from schemas.errors import TrainingError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedModel, ProcessorMixin, Trainer, TrainerCallback

ArgumentsT = TypeVar("ArgumentsT")
_VISION = ("vision_model.", "vision_tower.", "visual.", "vision_encoder.")
"""What models call their vision tower."""
_DATA_WORKERS = 4
"""Processes that prepare batches beside a GPU; on a CPU they would only take its cores."""
_SHARD = "2GB"
"""Largest weight file: one is in memory at a time when it is published."""


class Start(NamedTuple):
    """What a training begins with."""

    folder: Path
    dtype: torch.dtype
    """The type that the weights are published in."""
    rows: Dataset
    processor: ProcessorMixin


def begin(job: TrainJob, session: Session) -> Start:
    """Fetch the start model and load the rows."""
    folder = fetch_model(job.store, job.start)
    return Start(folder, wanted_dtype(folder, job.model.dtype),
                 load_rows(job, session.scratch / "rows"), load_processor(folder))


def run(trainer: Trainer, start: Start, session: Session) -> Fitted:
    """Train from the last checkpoint, if there is one; rank 0 saves the model.

    Raises `TrainingError` if the loss is not finite.
    """
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    with session.checkpoint() as checkpoint:
        resumed_at = checkpoint_step(checkpoint)
        trainer.train(resume_from_checkpoint=checkpoint)
    steps = read_steps(trainer.state.log_history, trainer.state.max_steps)
    stats = {"steps": trainer.state.global_step, "rows": len(start.rows),
             "resumed_at": resumed_at, "final_loss": steps[-1].loss}
    if session.rank:
        return Fitted(None, stats)
    session.log(steps, last=True)
    folder = save_model(trainer.model, start.folder, session.scratch / "model", start.dtype)
    return Fitted(folder, stats)


def load_processor(folder: Path) -> ProcessorMixin:
    """The model's processor as in the engines, with a padding token."""
    processor: ProcessorMixin = chat.load_processor(folder)
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def wanted_dtype(folder: Path, dtype: str) -> torch.dtype:
    """The type that the weights are published in: as configured, or as they are (`auto`)."""
    import torch
    from transformers import AutoConfig

    if dtype == "auto":
        return AutoConfig.from_pretrained(folder).dtype or torch.float32
    wanted: torch.dtype = getattr(torch, dtype)
    return wanted


def load_model(folder: Path, config: TrainConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The start model. Trained in full it is float32, as 16-bit weights lose small updates."""
    import torch
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32 if config.adapter == "full" else dtype,
        # On a CPU the fused attention's bfloat16 backward takes half of a small model's step.
        attn_implementation=None if config.use_gpu else "eager")
    if config.adapter == "full" and config.freeze_vision:
        freeze_vision(model)
    return model


def freeze_vision(model: PreTrainedModel) -> None:
    """Leave the vision tower as it is."""
    tower = [weight for name, weight in model.named_parameters()
             if any(part in name for part in _VISION)]
    if not tower:
        raise TrainingError(f"no vision tower found in {type(model).__name__} (looked for "
                            f"{', '.join(_VISION)}): set train.freeze_vision: false")
    for weight in tower:
        weight.requires_grad_(False)


def adapter(config: TrainConfig) -> LoraConfig | None:
    """The LoRA adapter; None if all weights are trained."""
    from peft import LoraConfig

    if config.adapter == "full":
        return None
    return LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha, bias="none",
                      lora_dropout=config.lora_dropout, target_modules=config.lora_targets,
                      task_type="CAUSAL_LM")


def has_bfloat16(use_gpu: bool) -> bool:
    """Whether matrix products are faster in bfloat16 where the job runs (CPU: avx512_bf16, AMX)."""
    import torch

    if use_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def trl_arguments(kind: Callable[..., ArgumentsT], job: TrainJob, dtype: torch.dtype,
                  output: Path, **own: Any) -> ArgumentsT:
    """TRL's settings, with nothing left to a default that shapes the model; *own* are those of one
    trainer alone."""
    import torch

    config = job.config
    fast = config.mixed_precision == "auto" and has_bfloat16(config.use_gpu)
    return kind(
        output_dir=str(output), seed=job.seed, data_seed=job.seed, max_length=None,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        gradient_checkpointing=config.gradient_checkpointing,
        num_train_epochs=config.epochs, max_steps=step_limit(config, count_rows(job)) or -1,
        learning_rate=config.learning_rate, lr_scheduler_type="cosine",
        warmup_steps=config.warmup_steps or config.warmup_ratio,
        optim="adamw_torch", weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm or 0.0,  # 0: the norm is logged, nothing is clipped
        bf16=fast and dtype != torch.float16, fp16=dtype == torch.float16,
        use_cpu=not config.use_gpu,
        save_strategy="steps", save_steps=config.save_steps, save_total_limit=1,
        logging_strategy="steps", logging_steps=0.01, logging_first_step=True,
        logging_nan_inf_filter=False,
        dataloader_num_workers=_DATA_WORKERS if config.use_gpu else 0,
        dataloader_pin_memory=config.use_gpu, remove_unused_columns=False,
        disable_tqdm=True, report_to="none", **own,
    )


def step_limit(config: TrainConfig, num_rows: int) -> int | None:
    """`config.max_steps` if it comes before the end of the epochs, else None.

    The trainer would pass over the rows again and again until it had done that many.
    """
    batches = math.ceil(math.ceil(num_rows / config.batch_size) / config.num_workers)
    total = math.ceil(config.epochs * max(1, math.ceil(batches / config.gradient_accumulation)))
    return config.max_steps if config.max_steps and config.max_steps < total else None


def session_callback(job: TrainJob, session: Session) -> TrainerCallback:
    """What the trainer tells the session while it works."""
    from transformers import TrainerCallback

    class SessionCallback(TrainerCallback):
        """Hands checkpoints and metrics to the session, and stops a training that diverged."""

        def __init__(self) -> None:
            self._since, self._step = time.monotonic(), 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._since, self._step = time.monotonic(), state.global_step

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            now, num_steps = time.monotonic(), state.global_step - self._step
            rows = num_steps * rows_per_step(job.config)
            state.log_history[-1]["rows_per_second"] = rows / max(now - self._since, 1e-9)
            self._since, self._step = now, state.global_step
            steps = read_steps(state.log_history, state.max_steps)
            if steps and not math.isfinite(steps[-1].loss):
                raise TrainingError(
                    f"{job.prefix}: the loss is {steps[-1].loss} at step {steps[-1].step} of "
                    f"{steps[-1].num_steps}; lower train.learning_rate or raise train.warmup_ratio")
            if session.rank == 0:
                session.log(steps, last=False)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            session.save(folder, state.global_step)

    return SessionCallback()


def rows_per_step(config: TrainConfig) -> int:
    """Rows that one optimizer step learns from, over all workers."""
    return config.batch_size * config.gradient_accumulation * config.num_workers


def read_steps(history: list[dict[str, float]], num_steps: int) -> list[Step]:
    """The trainer's log as metrics; it is part of a checkpoint, so a resumed job has all of it."""
    return [Step(step=int(log["step"]), num_steps=num_steps, epoch=log["epoch"], loss=log["loss"],
                 learning_rate=log["learning_rate"], grad_norm=log["grad_norm"],
                 rows_per_second=log.get("rows_per_second", 0.0),
                 reward_accuracy=log.get("rewards/accuracies"),
                 reward_margin=log.get("rewards/margins"))
            for log in history if "loss" in log]


def checkpoint_step(folder: str | None) -> int:
    """The optimizer step that a checkpoint was taken after; 0 without one."""
    if folder is None:
        return 0
    state = json.loads((Path(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    return int(state["global_step"])


def save_model(model: PreTrainedModel, start: Path, folder: Path, dtype: torch.dtype) -> Path:
    """Write the model, an adapter merged in, with the start model's other files as they are."""
    from transformers import AutoConfig

    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.to(dtype).save_pretrained(folder, max_shard_size=_SHARD)
    for name in model_files(start):
        if WEIGHTS not in name:
            shutil.copyfile(start / name, folder / name)
    if AutoConfig.from_pretrained(start).dtype != dtype:
        _declare_dtype(folder / "config.json", str(dtype).removeprefix("torch."))
    return folder


def _declare_dtype(path: Path, dtype: str) -> None:
    """The rest of a trainer's configuration is its own (it switches the cache off)."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, *(part for part in config.values() if isinstance(part, dict))):
        part.pop("torch_dtype", None)
        if part is config or "dtype" in part:
            part["dtype"] = dtype
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
