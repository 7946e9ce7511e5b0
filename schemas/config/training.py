"""How a model is fine-tuned: one model per objective."""

from typing import Any, Literal

from pydantic import Field, model_validator

from schemas.config.base import Config

PAPER_CRL: dict[str, Any] = {
    "adapter": "lora", "lora_r": 16, "lora_alpha": 16, "lora_dropout": 0.1,
    "lora_targets": r".*\.(q|k|v)_proj", "learning_rate": 1e-4, "weight_decay": 0.01,
    "warmup_steps": 100, "max_grad_norm": None, "batch_size": 1, "gradient_accumulation": 64,
    "epochs": 1, "max_steps": 312, "freeze_vision": False,
}
"""methods/contrastive_macaroon.md, section 4.1: 20,000 rows of batch 1 in steps of 64."""
PAPER_DPO: dict[str, Any] = {
    "beta": 0.1, "loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0],
    "learning_rate": 5e-5, "batch_size": 1, "gradient_accumulation": 128, "epochs": 1,
}
"""Section 4.2, with LoRA instead of the last ten layers (a fair comparison at CRL's budget)."""

CSR_DPO: dict[str, Any] = {
    "beta": 0.1, "loss_types": ["sigmoid"], "lora_r": 128, "lora_alpha": 256,
    "lora_targets": r".*(language_model|text_model).*\.(q|k|v|o|gate|up|down)_proj",
    "learning_rate": 1e-7, "warmup_ratio": 0.03, "weight_decay": 0.0, "batch_size": 1,
    "gradient_accumulation": 1, "epochs": 1,
}
"""methods/calibrated_csr.md, section 3: many tiny steps of one pair."""


class TrainConfig(Config):
    """What all objectives share."""

    adapter: Literal["lora", "full"] = "lora"
    """Train a LoRA adapter (published merged) or all weights."""
    lora_r: int = Field(default=32, ge=1)
    """LoRA rank."""
    lora_alpha: int = Field(default=64, ge=1)
    """LoRA scale."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """LoRA dropout while training."""
    lora_targets: str = r".*(language_model|text_model).*\.(q|k|v|o|gate|up|down)_proj"
    """Regular expression of the modules that get an adapter."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of steps with rising learning rate."""
    warmup_steps: int | None = Field(default=None, ge=1)
    """Steps with rising learning rate, instead of `warmup_ratio`."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Clip gradients to this norm; null: never."""
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


class SftConfig(TrainConfig):
    """Supervised fine-tuning with TRL (training/sft.py)."""

    objective: Literal["sft"] = "sft"
    """The training objective."""


class CrlConfig(TrainConfig):
    """Conditional RL: a reward word in the prompt, both good and bad replies learnt
    (training/crl.py)."""

    objective: Literal["crl"] = "crl"
    """The training objective."""
    preset: Literal["fixed", "paper"] = "fixed"
    """`paper`: the reference code's settings, literally; `fixed`: without its defects. What is
    written beside it goes before the preset."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        return _with_preset(given, PAPER_CRL)


class DpoConfig(TrainConfig):
    """Direct preference optimisation with TRL (training/dpo.py)."""

    objective: Literal["dpo"] = "dpo"
    """The training objective."""
    preset: Literal["fixed", "paper", "csr"] = "fixed"
    """`paper`: DPO plus SFT on the chosen reply, as the MACAROON baseline; `csr`: as CSR trains;
    `fixed`: DPO alone."""
    beta: float = Field(default=0.1, gt=0)
    """How far the model may go from the reference."""
    loss_types: list[Literal["sigmoid", "sft", "ipo", "hinge"]] = ["sigmoid"]
    """TRL's loss types, added up."""
    loss_weights: list[float] | None = None
    """A weight for each of `loss_types`; null: all 1."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        return _with_preset(_with_preset(given, PAPER_DPO), CSR_DPO, "csr")

    @model_validator(mode="after")
    def _a_weight_each(self) -> "DpoConfig":
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_types):
            raise ValueError("train.loss_weights needs one weight for each of train.loss_types")
        return self


class MixConfig(Config):
    """What a stage learns from beside its own rows, so that it unlearns less."""

    uri: str
    """Pairs or instructions as JSON, JSONL or Parquet: the authors' layouts (pair, split,
    multi-turn), VLFeedback's, `prompt`/`completion`, `prompt`/`chosen`/`rejected`, `messages` or
    LLaVA's `conversations`, with `images` or `image`. Or `stage://METHOD`: what the last earlier
    stage of that method has made in the same round."""
    images_uri: str | None = None
    """Folder of the pictures that JSON rows name."""
    ratio: float | None = Field(default=1.0, gt=0)
    """Rows per row of the stage's own; fewer if there are fewer. null: all there are (at most
    `train.max_rows`), even where the stage has made none of its own."""

    @property
    def method(self) -> str | None:
        """The method of the earlier stage; None: `uri` is a place."""
        scheme, _, method = self.uri.partition("://")
        return method if scheme == "stage" else None


def _with_preset(given: Any, values: dict[str, Any], preset: str = "paper") -> Any:
    """The preset's values for whatever is not given, if it is asked for."""
    if isinstance(given, dict) and given.get("preset") == preset:
        return {**values, **given}
    return given
