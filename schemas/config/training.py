"""How a model is fine-tuned: one model per objective."""

from typing import Literal

from pydantic import Field

from schemas.config.base import Config


class SftConfig(Config):
    """Supervised fine-tuning with TRL (training/sft.py)."""

    objective: Literal["sft"] = "sft"
    """The training objective."""
    adapter: Literal["lora", "full"] = "lora"
    """Train a LoRA adapter (published merged) or all weights."""
    lora_r: int = Field(default=32, ge=1)
    """LoRA rank."""
    lora_alpha: int = Field(default=64, ge=1)
    """LoRA scale."""
    lora_targets: str = r".*(language_model|text_model).*\.(q|k|v|o|gate|up|down)_proj"
    """Regular expression of the modules that get an adapter."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of steps with rising learning rate."""
    epochs: float = Field(default=1, gt=0)
    """Passes over the rows."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many optimizer steps."""
    batch_size: int = Field(default=8, ge=1)
    """Rows per worker and step."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Batches per optimizer step."""
    max_rows: int | None = Field(default=None, ge=1)
    """Train on at most so many rows (drawn by seed)."""
    replay: float = Field(default=0.0, ge=0, lt=1)
    """Share of rows taken from earlier rounds of the same stage."""
    freeze_vision: bool = True
    """Leave the vision tower as it is (adapter `full` only)."""
    save_steps: int = Field(default=100, ge=1)
    """Optimizer steps between checkpoints (a killed job resumes from the last)."""
    num_workers: int = Field(default=1, ge=1)
    """Ray Train workers."""
    num_cpus: float = Field(default=1, gt=0)
    """CPUs per worker."""
    use_gpu: bool = False
    """One GPU per worker."""
    gradient_checkpointing: bool = False
    """Trade compute for memory."""
    mixed_precision: Literal["auto", "off"] = "auto"
    """`auto`: matrix products in bfloat16 where the processor has them; weights keep their type."""
