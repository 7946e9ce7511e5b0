"""Direct preference optimisation with TRL's own trainer: its losses by hand, and that it moves."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from model_ops.models import fetch_model, hash_files, publish_model
from model_ops.training import dpo
from model_ops.training.job import TrainJob
from model_ops.training.trainer import begin
from schemas.config import DpoConfig
from schemas.errors import TrainingError
from tests.model_ops.training.conftest import MODEL, LocalSession
from tests.model_ops.training.logits import Floats, nursery_model, token_log_probs

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]
MakeJob = Callable[..., TrainJob]
LN2 = math.log(2)
LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "learning_rate": 1e-2}


def shift(model: Any) -> None:
    """Move the trained weights, as training would."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and "lora_A" not in name:
                weight += 0.02 * torch.randn_like(weight)


def margins_by_hand(policy: list[Floats], reference: list[Floats]) -> Floats:
    """beta * (log-ratio of the chosen reply - of the rejected one); the chosen ones come first."""
    ratios = np.array([p.sum() - r.sum() for p, r in zip(policy, reference, strict=True)])
    num = len(ratios) // 2
    margins: Floats = 0.1 * (ratios[:num] - ratios[num:])
    return margins


@pytest.mark.parametrize("adapter", [{"adapter": "full"}, LORA])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5]])
def test_sigmoid_and_sft_add_up_as_by_hand(make_job: MakeJob, tmp_path: Path,
                                           adapter: dict[str, Any],
                                           weights: list[float] | None) -> None:
    """`sft` is the mean over all chosen tokens of the batch, not over rows."""
    job = make_job(objective="dpo", preset="paper", loss_weights=weights, mixed_precision="off",
                   **adapter)
    assert isinstance(job.config, DpoConfig)
    session = LocalSession(tmp_path)
    start = begin(job, session)
    trainer = dpo.make_trainer(job, job.config, start, session)
    batch = trainer.data_collator(list(start.rows)[:5])
    shift(trainer.model)
    found = float(trainer.compute_loss(trainer.model, dict(batch)).detach())

    learnt = batch["completion_mask"].numpy()
    policy = token_log_probs(trainer.model, dict(batch), learnt)
    reference = token_log_probs(nursery_model(start.folder), dict(batch), learnt)
    margins = margins_by_hand(policy, reference)
    chosen_tokens = np.concatenate(policy[:5])
    by_row = np.mean([tokens.mean() for tokens in policy[:5]])
    assert abs(chosen_tokens.mean() - by_row) > 1e-3, "the two means differ"
    first, second = weights or [1.0, 1.0]
    expected = first * np.log1p(np.exp(-margins)).mean() - second * chosen_tokens.mean()
    assert abs(margins).min() > 1e-3, "the shift shows"
    assert found == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("adapter", [{"adapter": "full"}, LORA], ids=["full", "lora"])
def test_the_first_loss_is_against_the_reference_that_is_given(
        make_job: MakeJob, tmp_path: Path, adapter: dict[str, Any]) -> None:
    """As with `reference: base` from the second round on: no longer ln 2."""
    job = make_job(objective="dpo", mixed_precision="off", **adapter)
    folder, made = fetch_model(job.store, job.start), tmp_path / "other"
    copytree(folder, made)
    other = nursery_model(folder)
    shift(other)
    other.save_pretrained(made)
    job = replace(job, reference=publish_model(job.store, made, f"{MODEL}-other", "other", {}))
    assert isinstance(job.config, DpoConfig)
    session = LocalSession(tmp_path)
    start = begin(job, session)
    trainer = dpo.make_trainer(job, job.config, start, session)
    batch = trainer.data_collator(list(start.rows)[:5])
    found = float(trainer.compute_loss(trainer.model, dict(batch)).detach())

    learnt = batch["completion_mask"].numpy()
    policy, reference = (token_log_probs(model, dict(batch), learnt)
                         for model in (nursery_model(folder), other))
    expected = np.log1p(np.exp(-margins_by_hand(policy, reference))).mean()
    assert abs(found - LN2) > 1e-3, "another model shows"
    assert found == pytest.approx(float(expected), abs=1e-5)


def test_a_pair_of_one_reply_teaches_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    """methods/calibrated_csr.md, section 7: identical pair, zero gradient."""
    job = make_job(objective="dpo", mixed_precision="off")
    assert isinstance(job.config, DpoConfig)
    session = LocalSession(tmp_path)
    start = begin(job, session)
    trainer = dpo.make_trainer(job, job.config, start, session)
    rows = list(start.rows)[:3]

    def largest_gradient(rows: list[Any]) -> float:
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, dict(trainer.data_collator(rows))).backward()
        return max(float(weight.grad.abs().max()) for weight in trainer.model.parameters()
                   if weight.grad is not None)

    same = largest_gradient([{**row, "rejected": row["chosen"]} for row in rows])
    assert same < 1e-5 * largest_gradient(rows)


def test_the_adapter_of_a_16_bit_model_has_32_bits(make_job: MakeJob, tmp_path: Path) -> None:
    """methods/calibrated_csr.md, section 3: updates of 1e-7 are rounded away in bfloat16."""
    import torch

    job = make_job(objective="dpo", preset="csr", adapter="lora")
    job = replace(job, model=job.model.model_copy(update={"dtype": "bfloat16"}))
    assert isinstance(job.config, DpoConfig)
    session = LocalSession(tmp_path)
    model = dpo.make_trainer(job, job.config, begin(job, session), session).model
    types = {(weight.requires_grad, weight.dtype) for weight in model.parameters()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)}


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
def test_it_starts_at_ln_2_and_moves(make_job: MakeJob, tmp_path: Path,
                                     adapter: dict[str, Any]) -> None:
    job = make_job(objective="dpo", mixed_precision="off", epochs=2, **adapter)
    session = LocalSession(tmp_path)
    fitted = dpo.fit(job, session)
    steps, start = session.steps, fetch_model(job.store, job.start)
    assert len(steps) == 8 and steps[0].loss == pytest.approx(LN2, abs=1e-5)
    assert steps[-1].loss < 0.9 * LN2
    assert steps[0].reward_margin == pytest.approx(0, abs=1e-4)
    assert (steps[-1].reward_margin or 0) > 0.1 and (steps[-1].reward_accuracy or 0) > 0.5
    assert fitted.folder is not None and dpo.has_moved(start, fitted.folder)
    kept, made = hash_files(start), hash_files(fitted.folder)
    assert {name for name in kept if kept[name] != made[name]} == {"model.safetensors"}
    assert not dpo.has_moved(start, start)


@pytest.mark.slow
def test_the_csr_preset_moves_weights_by_its_tiny_rate(make_job: MakeJob, tmp_path: Path) -> None:
    """`fit` raises otherwise. methods/calibrated_csr.md, section 3: steps of 1e-7."""
    config = DpoConfig(preset="csr", max_steps=4, mixed_precision="off")
    job, session = replace(make_job(objective="dpo"), config=config), LocalSession(tmp_path)
    fitted = dpo.fit(job, session)
    assert config.adapter == "lora" and max(s.learning_rate for s in session.steps) == 1e-7
    assert fitted.folder is not None
    assert dpo.has_moved(fetch_model(job.store, job.start), fitted.folder)


@pytest.mark.slow
def test_an_interrupted_training_compares_with_the_same_reference(make_job: MakeJob,
                                                                  tmp_path: Path) -> None:
    job = make_job(objective="dpo", reward_word="good")
    whole = dpo.fit(job, LocalSession(tmp_path / "whole"))
    cut = LocalSession(tmp_path / "cut", die_at=2)
    with pytest.raises(KeyboardInterrupt):
        dpo.fit(job, cut)
    session = LocalSession(tmp_path / "again", start=cut.saved[2])
    resumed = dpo.fit(job, session)
    assert resumed.folder is not None and whole.folder is not None
    assert resumed.stats["resumed_at"] == 2 and len(session.steps) == 4
    assert hash_files(resumed.folder) == hash_files(whole.folder)
    worded = dpo.fit(replace(job, reward_word=""), LocalSession(tmp_path / "plain")).folder
    assert worded is not None and dpo.has_moved(whole.folder, worded), "the word was in the prompts"


def test_an_update_that_the_published_type_rounds_away_is_none(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folders = [tmp_path / name for name in ("start", "lost", "kept")]
    for folder, update, dtype in zip(folders, (0.0, 1e-4, 1e-1), (None, "b", "b"), strict=True):
        folder.mkdir()
        weight = torch.ones(3) + update
        save_file({"w": weight.bfloat16() if dtype else weight, f"only {update}": torch.ones(1)},
                  folder / "model.safetensors")
    assert not dpo.has_moved(folders[0], folders[1])
    assert dpo.has_moved(folders[0], folders[2])


@pytest.mark.slow
def test_a_training_that_moved_nothing_says_so(make_job: MakeJob, tmp_path: Path) -> None:
    """The first step of a warm-up has a rate of 0."""
    job = make_job(objective="dpo", max_steps=1, warmup_steps=1)
    with pytest.raises(TrainingError, match="no weight moved in 1 steps"):
        dpo.fit(job, LocalSession(tmp_path))
