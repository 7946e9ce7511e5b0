"""Fine-tuning with the real TRL on the nursery's model, in this process."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from model_ops.models import fetch_model, hash_files
from model_ops.training import trainer
from model_ops.training.batches import RowCollator, missing_end_of_turn
from model_ops.training.job import TrainJob
from model_ops.training.rows import load_rows
from schemas.errors import TrainingError
from tests.model_ops.training.conftest import LocalSession

pytestmark = pytest.mark.engine
MakeJob = Callable[..., TrainJob]


@pytest.fixture(scope="module")
def sft() -> ModuleType:
    import torch

    from model_ops.training import sft

    torch.set_num_threads(1)
    return sft


def loaded(job: TrainJob, folder: Path) -> list[dict[str, Any]]:
    return list(load_rows(job, folder))


def test_datasets_and_trl_read_the_published_rows_with_no_adapter(make_job: MakeJob,
                                                                  tmp_path: Path) -> None:
    from datasets import load_dataset
    from PIL.Image import Image
    from trl import SFTConfig, SFTTrainer

    job = make_job()
    files = [job.store.uri(f"{m.prefix}/{s.path}") for m in job.rows for s in m.shards]
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert isinstance(rows[0]["images"][0], Image)
    assert rows[0]["images"][0].size == (48, 48)
    args = SFTConfig(output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=4,
                     max_length=None, use_cpu=True, report_to="none", bf16=False,
                     save_strategy="no")
    trainer = SFTTrainer(str(fetch_model(job.store, job.start)), args=args, train_dataset=rows)
    assert np.isfinite(trainer.train().training_loss)


def test_rows_stay_encoded_and_empty_sets_say_what_to_do(make_job: MakeJob, tmp_path: Path) -> None:
    from dataclasses import replace

    job = make_job(max_rows=10)
    rows = load_rows(job, tmp_path)
    assert len(rows) == 10
    assert rows[0]["images"][0]["bytes"].startswith(b"\x89PNG")
    with pytest.raises(TrainingError, match="loosen `curation`"):
        load_rows(replace(job, rows=()), tmp_path)


def test_the_loss_is_the_weighted_mean_over_rows(sft: ModuleType, make_job: MakeJob,
                                                 tmp_path: Path) -> None:
    import torch

    job = make_job(mixed_precision="off")
    start = fetch_model(job.store, job.start)
    batch = RowCollator(trainer.load_processor(start))(loaded(job, tmp_path)[:6])
    model = trainer.load_model(start, job.config, torch.float32)
    labels, weight = batch["labels"].numpy(), batch["weight"].numpy()
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "weight")}
    with torch.no_grad():
        logits = model(**inputs).logits.double().numpy()
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    by_row = []
    for row in range(len(labels)):
        at = np.flatnonzero(labels[row] != -100)
        by_row.append(-np.mean([log_probs[row, place - 1, labels[row, place]] for place in at]))
    expected = float(np.mean(weight * np.array(by_row)))
    assert sorted(set(weight)) == [0.5, 1.0]
    assert len({int((row != -100).sum()) for row in labels}) > 1, "rows of different lengths"

    trains = sft.row_mean_trainer()(
        model=model, args=sft.arguments(job, torch.float32, tmp_path / "out"),
        train_dataset=load_rows(job, tmp_path), processing_class=trainer.load_processor(start),
        data_collator=lambda rows: batch)
    found = trains.compute_loss(model, dict(batch)).detach()
    assert float(found) == pytest.approx(expected, abs=1e-5)


def test_prompt_ids_are_those_of_inference_and_completions_end_with_eos(
        sft: ModuleType, make_job: MakeJob, tmp_path: Path) -> None:
    from model_ops.pixels import decode

    job = make_job()
    processor = trainer.load_processor(fetch_model(job.store, job.start))
    rows = loaded(job, tmp_path)[:6]
    batch = RowCollator(processor)(rows)
    for number, row in enumerate(rows):
        seen = batch["input_ids"][number][batch["attention_mask"][number] == 1]
        learnt = batch["labels"][number][batch["labels"][number] != -100]
        text = processor.apply_chat_template(row["prompt"], add_generation_prompt=True)
        picture = decode(row["images"][0]["bytes"], 10_000)
        prompt = processor(text=[text], images=[[picture]], return_tensors="pt")["input_ids"][0]
        assert seen.tolist() == prompt.tolist() + learnt.tolist()
        assert learnt[-1] == processor.tokenizer.eos_token_id
        said = processor.tokenizer.decode(learnt, skip_special_tokens=True)
        assert said.split() == row["completion"][0]["content"][0]["text"].split()


def test_a_template_without_end_of_turn_gets_one(sft: ModuleType, make_job: MakeJob,
                                                 tmp_path: Path) -> None:
    job = make_job()
    processor = trainer.load_processor(fetch_model(job.store, job.start))
    assert missing_end_of_turn(processor) == ""
    open_ended = processor.chat_template.replace(
        "{{ '<end_of_utterance>' if message['role'] == 'assistant' else '' }}", "")
    processor.chat_template = open_ended
    assert missing_end_of_turn(processor) == "<end_of_utterance>"
    labels = RowCollator(processor)(loaded(job, tmp_path)[:2])["labels"]
    assert all(row[row != -100][-1] == processor.tokenizer.eos_token_id for row in labels)


def test_full_training_leaves_the_vision_tower_and_the_other_files(
        sft: ModuleType, make_job: MakeJob, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    job = make_job()
    start = fetch_model(job.store, job.start)
    session = LocalSession(tmp_path / "s")
    fitted = sft.fit(job, session)
    old, new = (load_file(folder / "model.safetensors") for folder in (start, fitted.folder))
    changed = {name for name in old if not old[name].equal(new[name])}
    assert old.keys() == new.keys()
    assert changed and not any("vision_model" in name for name in changed)
    kept, made = hash_files(start), hash_files(fitted.folder)
    assert {name for name in kept if kept[name] != made[name]} == {"model.safetensors"}
    assert fitted.stats["steps"] == 4 and fitted.stats["rows"] == 24
    assert [step.step for step in session.steps] == [1, 2, 3, 4]


def test_the_loss_on_the_same_rows_falls(sft: ModuleType, make_job: MakeJob,
                                         tmp_path: Path) -> None:
    """Whole passes are compared: single steps see different rows."""
    session = LocalSession(tmp_path)
    sft.fit(make_job(epochs=6), session)
    losses = [step.loss for step in session.steps]
    assert len(losses) == 24
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


def test_weights_are_published_in_the_configured_type(sft: ModuleType, make_job: MakeJob,
                                                      tmp_path: Path) -> None:
    import json
    from dataclasses import replace

    import torch
    from safetensors.torch import load_file

    job = make_job(max_steps=1)
    job = replace(job, model=job.model.model_copy(update={"dtype": "bfloat16"}))
    folder = sft.fit(job, LocalSession(tmp_path)).folder
    assert {w.dtype for w in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True


def test_an_interrupted_training_ends_in_the_same_bytes(sft: ModuleType, make_job: MakeJob,
                                                        tmp_path: Path) -> None:
    job = make_job(epochs=2)
    whole = sft.fit(job, LocalSession(tmp_path / "whole"))
    cut = LocalSession(tmp_path / "cut", die_at=4)
    with pytest.raises(KeyboardInterrupt):
        sft.fit(job, cut)
    session = LocalSession(tmp_path / "again", start=cut.saved[4])
    resumed = sft.fit(job, session)
    assert resumed.stats["resumed_at"] == 4 and whole.stats["resumed_at"] == 0
    assert hash_files(resumed.folder) == hash_files(whole.folder)
    assert [step.step for step in session.steps] == list(range(1, 9))


def test_a_merged_adapter_gives_the_logits_of_base_plus_adapter(
        sft: ModuleType, make_job: MakeJob, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    job = make_job(adapter="lora", lora_r=4, lora_alpha=8, learning_rate=1e-2)
    start = fetch_model(job.store, job.start)
    session = LocalSession(tmp_path / "s")
    fitted = sft.fit(job, session)
    assert not list(fitted.folder.glob("adapter*"))
    base = trainer.load_model(start, job.config, torch.float32).eval()
    batch = RowCollator(trainer.load_processor(start))(loaded(job, tmp_path)[:4])
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "weight")}
    with torch.no_grad():
        before = base(**inputs).logits
        together = PeftModel.from_pretrained(base, str(session.saved[4])).eval()(**inputs).logits
        merged = trainer.load_model(fitted.folder, job.config, torch.float32).eval()(
            **inputs).logits
    assert float((merged - together).abs().max()) < 1e-4
    assert float((merged - before).abs().max()) > 1e-2


def test_a_diverged_training_ends_with_advice(sft: ModuleType, make_job: MakeJob,
                                              tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"lower train\.learning_rate"):
        sft.fit(make_job(learning_rate=1e30, warmup_ratio=0.0), LocalSession(tmp_path))


def test_a_model_without_a_known_vision_tower_is_refused() -> None:
    import torch

    with pytest.raises(TrainingError, match="freeze_vision: false"):
        trainer.freeze_vision(torch.nn.Linear(2, 2))
