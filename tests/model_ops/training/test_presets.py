"""The presets give the documented numbers, what is written beside them counts more, and all of it
arrives at the trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_ops.training import dpo, sft, trainer
from model_ops.training.job import TrainJob
from schemas.config import CrlConfig, DpoConfig, SftConfig, TrainConfig

MakeJob = Callable[..., TrainJob]

CRL = {"adapter": "lora", "lora_r": 16, "lora_alpha": 16, "lora_dropout": 0.1,
       "learning_rate": 1e-4, "weight_decay": 0.01, "warmup_steps": 100, "max_grad_norm": None,
       "batch_size": 1, "gradient_accumulation": 64, "epochs": 1, "max_steps": 312,
       "freeze_vision": False}
"""methods/contrastive_macaroon.md, section 4.1."""
DPO = {"beta": 0.1, "loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0],
       "learning_rate": 5e-5, "batch_size": 1, "gradient_accumulation": 128, "epochs": 1,
       "adapter": "lora"}
"""Section 4.2."""
CSR = {"beta": 0.1, "loss_types": ["sigmoid"], "adapter": "lora", "lora_r": 128, "lora_alpha": 256,
       "learning_rate": 1e-7, "warmup_ratio": 0.03, "weight_decay": 0.0, "batch_size": 1,
       "gradient_accumulation": 1, "epochs": 1}
"""methods/calibrated_csr.md, section 3."""
FIXED = {"warmup_ratio": 0.03, "warmup_steps": None, "max_grad_norm": 1.0, "max_steps": None,
         "weight_decay": 0.0, "lora_dropout": 0.0}
"""Section 9.1."""


def values(config: TrainConfig, names: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def test_the_documented_numbers() -> None:
    assert values(CrlConfig(preset="paper"), CRL) == CRL
    assert values(DpoConfig(preset="paper"), DPO) == DPO
    assert values(DpoConfig(preset="csr"), CSR) == CSR
    assert values(CrlConfig(), FIXED) == FIXED
    assert CrlConfig().preset == DpoConfig().preset == "fixed"
    assert DpoConfig().loss_types == ["sigmoid"]


def test_paper_targets_q_k_v_of_both_towers_and_nothing_else() -> None:
    import re

    targets = CrlConfig(preset="paper").lora_targets
    tower = "vision_tower.vision_model.encoder.layers.0.self_attn"
    for part in ("model.language_model.layers.0.self_attn", tower):
        matched = [name for name in "qkvo" if re.fullmatch(targets, f"{part}.{name}_proj")]
        assert matched == ["q", "k", "v"]


@pytest.mark.parametrize("objective", [CrlConfig, DpoConfig])
def test_an_explicit_value_beats_the_preset(objective: type[CrlConfig] | type[DpoConfig]) -> None:
    config = objective(preset="paper", learning_rate=3e-6, batch_size=2, max_grad_norm=0.5)
    assert (config.learning_rate, config.batch_size, config.max_grad_norm) == (3e-6, 2, 0.5)
    assert config.gradient_accumulation > 1


@pytest.mark.parametrize(("num_rows", "changes", "limit"), [
    (20_000, {"preset": "paper"}, 312),       # 313 steps without the cap
    (500, {"preset": "paper"}, None),         # 8 steps: the cap must not mean 312 passes
    (64, {"batch_size": 8, "max_steps": 5}, 5),
    (64, {"batch_size": 8, "max_steps": 8}, None),
    (64, {"batch_size": 8, "max_steps": 8, "num_workers": 2}, None),
    (64, {"batch_size": 8, "max_steps": 8, "epochs": 2}, 8),
])
def test_max_steps_only_ever_shortens(num_rows: int, changes: dict[str, Any],
                                      limit: int | None) -> None:
    assert trainer.step_limit(CrlConfig.model_validate(changes), num_rows) == limit


@pytest.mark.engine
def test_the_settings_arrive_at_trl(make_job: MakeJob, tmp_path: Path) -> None:
    import torch

    paper = sft.arguments(make_job(objective="crl", preset="paper", batch_size=1,
                                   learning_rate=1e-4), torch.float32, tmp_path)
    assert (paper.warmup_steps, paper.max_grad_norm, paper.weight_decay) == (100, 0.0, 0.01)
    assert (paper.gradient_accumulation_steps, paper.max_length, paper.max_steps) == (64, None, -1)
    plain = sft.arguments(make_job(), torch.float32, tmp_path)
    assert (plain.warmup_steps, plain.max_grad_norm, plain.weight_decay) == (0.03, 1.0, 0.0)
    job = make_job(objective="dpo", preset="paper")
    assert isinstance(job.config, DpoConfig)
    pairs = dpo.arguments(job, job.config, torch.float32, tmp_path)
    assert (pairs.loss_type, pairs.loss_weights, pairs.beta) == (["sigmoid", "sft"], [1, 1], 0.1)
    assert pairs.max_length is None and pairs.disable_dropout


@pytest.mark.engine
def test_the_adapter_is_the_configured_one() -> None:
    config = trainer.adapter(CrlConfig(preset="paper"))
    assert config is not None
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (16, 16, 0.1, "none")
    assert trainer.adapter(SftConfig(adapter="full")) is None
