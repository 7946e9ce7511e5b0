"""What training sees of a row: the tokens that the engines ask with, the reply, and its end."""

import io
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from model_ops.engines.pictures import PictureMemory
from model_ops.models import fetch_model
from model_ops.pixels import decode
from model_ops.programs.calls import IMAGE, Generate, Message
from model_ops.programs.reward import with_reward_word
from model_ops.training.batches import PairCollator, RowCollator, behind_last, conditioned
from model_ops.training.crl import PaperCollator, first_tokens
from model_ops.training.job import TrainJob
from model_ops.training.rows import load_rows
from model_ops.training.trainer import load_processor
from schemas.rows import ImageRef
from tests.model_ops.training.conftest import WORDS, question

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]
MakeJob = Callable[..., TrainJob]
NUM = 4


@pytest.fixture
def folder(make_job: MakeJob) -> Path:
    job = make_job()
    return fetch_model(job.store, job.start)


@pytest.fixture
def bos_folder(folder: Path, tmp_path: Path) -> Path:
    """The same, but its tokenizer begins every text with `<s>`, which its template does not write:
    as LLaVA-NeXT's."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoProcessor

    made = tmp_path / "bos"
    copytree(folder, made)
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.bos_token_id)])
    tokenizer.save_pretrained(made)
    return made


def loaded(job: TrainJob, place: Path, num: int = NUM) -> list[dict[str, Any]]:
    return list(load_rows(job, place))[:num]


def engine_ids(folder: Path, messages: tuple[Message, ...], image: bytes) -> list[int]:
    """The prompt as the vLLM engine sends it, its image placeholder expanded as vLLM does it: by
    the model's own processor."""
    from model_ops.engines.chat import ChatRenderer, to_conversation

    call = Generate(messages, (ImageRef(image_id="i", shard=0, row=0),))
    before = ChatRenderer(folder).prompt_ids(call)
    processor = load_processor(folder)
    text = processor.apply_chat_template(to_conversation(messages), add_generation_prompt=True)
    assert processor.tokenizer.encode(text, add_special_tokens=False) == before
    ids = processor(text=[text], images=[[decode(image, 10_000)]], return_tensors="pt",
                    add_special_tokens=False)["input_ids"][0]
    marks = set(processor.tokenizer.encode("<fake_token_around_image><global-img><image>",
                                           add_special_tokens=False))
    assert [i for i in ids.tolist() if i not in marks] == [i for i in before if i not in marks]
    return [int(i) for i in ids]


def seen(batch: dict[str, Any], row: int) -> list[int]:
    return [int(i) for i in batch["input_ids"][row][batch["attention_mask"][row] == 1]]


def learnt(batch: dict[str, Any], row: int) -> list[int]:
    if "labels" in batch:
        return [int(i) for i in batch["labels"][row] if i != -100]
    return [int(i) for i in batch["input_ids"][row][batch["completion_mask"][row] == 1]]


@pytest.mark.parametrize("collate", [RowCollator, PaperCollator])
def test_crl_asks_with_the_engines_tokens_and_learns_the_reply_and_its_end(
        make_job: MakeJob, folder: Path, tmp_path: Path, collate: type[RowCollator]) -> None:
    rows = loaded(make_job(objective="crl"), tmp_path)
    processor = load_processor(folder)
    batch = collate(processor)(rows)
    for number, row in enumerate(rows):
        said, reply = learnt(batch, number), row["completion"][0]["content"][0]["text"]
        asked = with_reward_word(question(number // 2), WORDS[number % 2])
        prompt = engine_ids(folder, asked, row["images"][0]["bytes"])
        assert seen(batch, number) == prompt + said
        end = processor.tokenizer.eos_token
        text = f"{reply} {end}" if collate is PaperCollator else reply + end
        assert said == processor.tokenizer.encode(text, add_special_tokens=False)
        assert processor.tokenizer.decode(said).split() == [*reply.split(), end]


@pytest.mark.parametrize("writes_it", [False, True])
def test_bos_is_in_front_once_in_training_and_inference(
        make_job: MakeJob, bos_folder: Path, tmp_path: Path, writes_it: bool) -> None:
    template = bos_folder / "chat_template.jinja"
    if writes_it:
        template.write_text("{{ bos_token }}" + template.read_text())
    processor = load_processor(bos_folder)
    bos = processor.tokenizer.bos_token_id
    assert processor.tokenizer.encode("which")[0] == bos, "what a tokenizer normally does"
    rows = loaded(make_job(objective="crl"), tmp_path)
    for collate in (RowCollator(processor), PaperCollator(processor)):
        batch = collate(rows)
        for number, row in enumerate(rows):
            asked = with_reward_word(question(number // 2), WORDS[number % 2])
            prompt = engine_ids(bos_folder, asked, row["images"][0]["bytes"])
            assert seen(batch, number) == prompt + learnt(batch, number)
            assert prompt[0] == bos and seen(batch, number).count(bos) == 1
    pairs = loaded(make_job(objective="dpo"), tmp_path)
    batch = PairCollator(processor)(pairs)
    for number, row in enumerate(pairs):
        prompt = engine_ids(bos_folder, question(number), row["images"][0]["bytes"])
        for place in (number, number + NUM):
            assert seen(batch, place) == prompt + learnt(batch, place)


def test_a_tokenizer_without_bos_gets_none(folder: Path) -> None:
    from transformers import AutoProcessor

    assert load_processor(folder).chat_template == AutoProcessor.from_pretrained(
        folder).chat_template


def test_good_and_bad_rows_of_a_pair_differ_in_one_prompt_token(
        make_job: MakeJob, folder: Path, tmp_path: Path) -> None:
    processor = load_processor(folder)
    batch = RowCollator(processor)(loaded(make_job(objective="crl"), tmp_path))
    for good in range(0, NUM, 2):
        prompts = [seen(batch, row)[:-len(learnt(batch, row))] for row in (good, good + 1)]
        differing = [pair for pair in zip(*prompts, strict=True) if pair[0] != pair[1]]
        assert processor.tokenizer.batch_decode([[i] for i in differing[0]]) == ["good", "bad"]
        assert len(differing) == 1


def test_the_word_of_the_start_model_is_put_into_sft_prompts(
        make_job: MakeJob, folder: Path, tmp_path: Path) -> None:
    rows = loaded(make_job(), tmp_path)
    processor = load_processor(folder)
    plain, worded = RowCollator(processor)(rows), RowCollator(processor, "good")(rows)
    for number, row in enumerate(rows):
        text = row["prompt"][0]["content"][1]["text"]
        asked = with_reward_word((Message("user", (IMAGE, text)),), "good")
        prompt = engine_ids(folder, asked, row["images"][0]["bytes"])
        assert seen(worded, number) == prompt + learnt(plain, number)
        assert learnt(worded, number) == learnt(plain, number)


@pytest.mark.parametrize("objective", ["sft", "crl", "paper", "dpo"])
def test_pictures_are_shrunk_as_the_engines_shrink_them(
        make_job: MakeJob, folder: Path, tmp_path: Path, objective: str) -> None:
    job = make_job(objective="crl" if objective == "paper" else objective)
    processor, rows = load_processor(folder), loaded(job, tmp_path, 2)
    collate = {"sft": RowCollator, "crl": RowCollator, "paper": PaperCollator,
               "dpo": PairCollator}[objective](processor, max_pixels=1000)
    given: list[Image.Image] = []
    inner = collate._collate
    collate._collate = lambda examples: (given.extend(e["images"][0] for e in examples),
                                         inner(examples))[1]
    buffer = io.BytesIO()
    Image.effect_noise((100, 100), 50).save(buffer, "PNG")
    collate([row | {"images": [{"bytes": buffer.getvalue()}]} for row in rows])
    seen = PictureMemory(lambda _: buffer.getvalue(), 1000).picture(
        ImageRef(image_id="i", shard=0, row=0))
    assert seen.width * seen.height <= 1000
    assert [picture.tobytes() for picture in given] == [seen.tobytes()] * 2


@pytest.mark.parametrize("word", ["", "good"])
def test_both_replies_of_a_pair_follow_the_engines_prompt(
        make_job: MakeJob, folder: Path, tmp_path: Path, word: str) -> None:
    rows = loaded(make_job(objective="dpo"), tmp_path)
    processor = load_processor(folder)
    batch = PairCollator(processor, word)(rows)
    for number, row in enumerate(rows):
        prompt = engine_ids(folder, with_reward_word(question(number), word),
                            row["images"][0]["bytes"])
        for place, name in ((number, "chosen"), (number + NUM, "rejected")):
            said = learnt(batch, place)
            assert seen(batch, place) == prompt + said
            reply = row[name][0]["content"][0]["text"] + processor.tokenizer.eos_token
            assert said == processor.tokenizer.encode(reply, add_special_tokens=False)


def test_what_a_template_writes_behind_the_end_is_not_learnt(
        make_job: MakeJob, folder: Path, tmp_path: Path) -> None:
    """LLaVA-NeXT's writes a space there."""
    processor = load_processor(folder)
    plain = RowCollator(processor)(loaded(make_job(), tmp_path))
    pairs = PairCollator(processor)(loaded(make_job(objective="dpo"), tmp_path))
    processor.chat_template = processor.chat_template.replace(
        "'<end_of_utterance>' if", "'<end_of_utterance> more' if")
    chatty = RowCollator(processor)(loaded(make_job(), tmp_path))
    chatty_pairs = PairCollator(processor)(loaded(make_job(objective="dpo"), tmp_path))
    assert chatty["input_ids"].shape[1] == plain["input_ids"].shape[1] + 1
    assert [learnt(chatty, i) for i in range(NUM)] == [learnt(plain, i) for i in range(NUM)]
    assert [learnt(chatty_pairs, i) for i in range(2 * NUM)] == \
        [learnt(pairs, i) for i in range(2 * NUM)]


def test_behind_the_last_mark() -> None:
    import torch

    marks = torch.tensor([[0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    assert behind_last(marks).int().tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]]


def test_paper_cuts_prompt_and_reply_apart_and_loses_the_end_as_the_reference_does(
        make_job: MakeJob, folder: Path, tmp_path: Path) -> None:
    rows = loaded(make_job(objective="crl"), tmp_path)
    processor = load_processor(folder)
    whole, cut = PaperCollator(processor)(rows), PaperCollator(processor, max_tokens=3)(rows)
    end = processor.tokenizer.eos_token_id
    for number in range(0, NUM, 2):  # "which thing ?" and its end are four tokens
        assert learnt(cut, number) == learnt(whole, number)[:3]
        assert end not in learnt(cut, number)
        prompt = seen(cut, number)[:-3]
        text = processor.tokenizer.decode([i for i in prompt if i != end])
        assert text.startswith("<user>") and text.endswith(WORDS[number % 2])


def test_first_tokens_counts_a_placeholder_as_one(folder: Path) -> None:
    processor = load_processor(folder)
    text = "<user><image>good which thing ?<assistant>"
    assert first_tokens(text, 3, processor) == "<user><image>good"
    assert first_tokens(text, 99, processor) == text


def test_a_prompt_without_a_word_is_left_alone() -> None:
    row = SimpleNamespace(prompt=[{"role": "user", "content": [{"type": "text", "text": "?"}]}])
    assert conditioned(row.prompt, "") is row.prompt
