"""Conditional RL: its loss by hand, and what its presets make of a batch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_ops.models import fetch_model
from model_ops.training import crl, sft, trainer
from model_ops.training.batches import RowCollator
from model_ops.training.crl import PaperCollator
from model_ops.training.job import TrainJob
from model_ops.training.rows import load_rows
from schemas.config import CrlConfig
from tests.model_ops.training.conftest import LocalSession
from tests.model_ops.training.logits import nursery_model, token_log_probs

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]
MakeJob = Callable[..., TrainJob]


@pytest.mark.parametrize("preset", ["fixed", "paper"])
def test_the_loss_is_the_mean_over_rows_of_the_mean_over_reply_tokens(
        make_job: MakeJob, tmp_path: Path, preset: str) -> None:
    import torch

    job = make_job(objective="crl", preset=preset, adapter="full", mixed_precision="off")
    assert isinstance(job.config, CrlConfig)
    folder, rows = fetch_model(job.store, job.start), load_rows(job, tmp_path)
    collate = crl.collator(job.config, trainer.load_processor(folder))
    batch = collate(list(rows)[:6])
    by_row = token_log_probs(nursery_model(folder), batch, batch["labels"].numpy() != -100)
    expected = float(np.mean([-np.mean(tokens) for tokens in by_row]))
    assert len({len(tokens) for tokens in by_row}) > 1, "rows of different lengths"

    trains = sft.row_mean_trainer()(
        model=trainer.load_model(folder, job.config, torch.float32), train_dataset=rows,
        args=sft.arguments(job, torch.float32, tmp_path / "out"), data_collator=collate,
        processing_class=trainer.load_processor(folder))
    found = trains.compute_loss(trains.model, dict(batch)).detach()
    assert float(found) == pytest.approx(expected, abs=1e-5)


def test_the_preset_names_the_batches(make_job: MakeJob) -> None:
    job = make_job()
    processor = trainer.load_processor(fetch_model(job.store, job.start))
    assert type(crl.collator(CrlConfig(preset="paper"), processor)) is PaperCollator
    assert type(crl.collator(CrlConfig(), processor)) is RowCollator
    assert crl.PAPER_TOKENS == 1024


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "crl"])
def test_accumulated_batches_of_one_row_train_as_one_batch_of_four(
        make_job: MakeJob, tmp_path: Path, objective: str) -> None:
    """Rows of different lengths (with `sft`: and weights) count alike however they are batched.
    Gradients are compared too, as Adam does not see a factor that all of them have."""
    from safetensors.torch import load_file

    fit, ends, norms = {"sft": sft.fit, "crl": crl.fit}[objective], [], []
    for name, sizes in (("whole", (4, 1)), ("split", (1, 4))):
        session = LocalSession(tmp_path / name)
        job = make_job(objective=objective, batch_size=sizes[0], gradient_accumulation=sizes[1],
                       mixed_precision="off", max_steps=3)
        ends.append(load_file(fit(job, session).folder / "model.safetensors"))
        norms.append([step.grad_norm for step in session.steps])
    start = load_file(fetch_model(job.store, job.start) / "model.safetensors")
    apart = max(float((ends[0][name] - ends[1][name]).abs().max()) for name in start)
    moved = max(float((ends[0][name] - start[name]).abs().max()) for name in start)
    assert moved > 1e-4 and apart < 0.01 * moved
    assert norms[0] == pytest.approx(norms[1], rel=1e-3) and len(norms[0]) == 3


@pytest.mark.slow
def test_it_learns_both_replies(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(objective="crl", epochs=2, reward_word="good")
    session = LocalSession(tmp_path)
    fitted = crl.fit(job, session)
    assert fitted.folder is not None and fitted.stats["rows"] == 24
    losses = [step.loss for step in session.steps]
    assert len(losses) == 8 and sum(losses[4:]) < 0.8 * sum(losses[:4])
    assert session.steps[-1].reward_margin is None
