"""The vLLM engine with the nursery's model: what it says, what it saw, and how it fails."""

import io
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from model_ops.engines.choosing import Choosing
from model_ops.engines.driver import Outcome, drive
from model_ops.engines.vllm_engine import VllmEngine, _Asked, _sampling_params
from model_ops.programs.calls import IMAGE, Generate, Message, Program, Reply, Sampling
from schemas.config import EngineConfig
from schemas.errors import DropError, EngineError
from schemas.rows import ImageRef

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

MODEL = Path(__file__).parents[3] / "model_ops/nursery/weights/vlm"
YES_NO = Sampling(choices=("yes", "no"))
IMAGE_TOKENS = 9


def png(ref: ImageRef) -> bytes:
    if ref.image_id == "broken":
        return b"\x89PNG\r\n"
    buffer = io.BytesIO()
    pixels = random.Random(ref.image_id).randbytes(48 * 48 * 3)
    Image.frombytes("RGB", (48, 48), pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    config = EngineConfig(max_model_len=256, max_num_seqs=16)
    made = VllmEngine(MODEL, config, png, dtype="float32", seed=1)
    yield made
    made.close()


def look(*names: str, text: str = "is there a red circle ?", sampling: Sampling = YES_NO,
         prefix: str = "") -> Generate:
    refs = tuple(ImageRef(image_id=name, shard=0, row=0) for name in names)
    return Generate((Message("user", (*[IMAGE] * len(refs), text)),), refs, sampling, prefix)


def one(call: Generate) -> Program[Reply]:
    reply = yield call
    assert isinstance(reply, Reply)
    return reply


def play(engine: VllmEngine, *calls: Generate) -> list[Outcome]:
    programs = [(f"p{number}", one(call)) for number, call in enumerate(calls)]
    outcomes = drive(programs, {"": engine}, live=64, run_seed=0)
    return sorted(outcomes, key=lambda outcome: int(outcome.key[1:]))


def reply_to(engine: VllmEngine, call: Generate) -> Reply:
    (outcome,) = play(engine, call)
    assert outcome.error is None, outcome.error
    return outcome.row


def test_a_reply_counts_the_images_that_the_engine_placed(engine: VllmEngine) -> None:
    for names in [(), ("a",), ("a", "b", "a")]:
        reply = reply_to(engine, look(*names))
        assert reply.num_images_seen == len(names)
        assert reply.num_image_tokens == IMAGE_TOKENS * len(names)
        assert reply.num_prompt_tokens > reply.num_image_tokens


def test_choice_probabilities_are_those_of_the_model(engine: VllmEngine) -> None:
    import torch
    from transformers import AutoProcessor, Idefics3ForConditionalGeneration

    call = look("a")
    processor = AutoProcessor.from_pretrained(MODEL)
    model = Idefics3ForConditionalGeneration.from_pretrained(MODEL).eval()
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text",
                                                           "text": "is there a red circle ?"}]}],
        add_generation_prompt=True)
    picture = Image.open(io.BytesIO(png(call.images[0])))
    inputs = processor(text=prompt, images=[picture], return_tensors="pt",
                       add_special_tokens=False)
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    ids = processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
    expected = torch.softmax(logits[ids].float(), -1).tolist()
    reply = reply_to(engine, call)
    assert reply.samples[0].choice_probs == pytest.approx(expected, abs=2e-3)
    assert reply.text == ("yes" if expected[0] > expected[1] else "no")


def test_choices_of_several_words_are_told_apart(engine: VllmEngine) -> None:
    choices = ("top left", "top right", "top", "bottom left")
    reply = reply_to(engine, look("a", sampling=Sampling(choices=choices)))
    assert reply.text in choices
    assert sum(reply.samples[0].choice_probs or ()) == pytest.approx(1.0)


def test_a_prefix_is_continued_and_not_repeated(engine: VllmEngine) -> None:
    plain = reply_to(engine, look("a", sampling=Sampling(max_tokens=3)))
    longer = reply_to(engine, look("a", sampling=Sampling(max_tokens=3), prefix="a big red"))
    assert longer.num_prompt_tokens == plain.num_prompt_tokens + 3
    assert not longer.text.startswith("a big red")


def test_a_kept_stop_stands_at_the_end_and_is_named(engine: VllmEngine) -> None:
    ask = "describe the image ."
    sampling = Sampling(temperature=0.9, max_tokens=40, num_samples=8, stop=(".",), keep_stop=True)
    samples = reply_to(engine, look("a", text=ask, sampling=sampling)).samples
    assert any(sample.stopped_by for sample in samples)
    for sample in samples:
        assert (sample.stopped_by == ".") == sample.text.endswith(" .")
        assert sample.finish_reason in ("stop", "length")
    cut = replace(sampling, num_samples=1, temperature=0.0, keep_stop=False)
    assert not reply_to(engine, look("a", text=ask, sampling=cut)).text.endswith(".")


def test_a_kept_stop_of_several_tokens_stands_at_the_end_too(engine: VllmEngine) -> None:
    sampling = Sampling(max_tokens=40, stop=(".", " at the"), keep_stop=True)
    call = look("a", text="describe the image .", sampling=sampling)
    sample = reply_to(engine, call).samples[0]
    assert sample.stopped_by == " at the" and sample.text.endswith(" at the")
    (rest,) = reply_to(engine, replace(call, prefix=sample.text)).samples
    assert rest.stopped_by == "." and rest.text.endswith(".")


def test_a_reply_asked_for_sentence_by_sentence_is_the_reply(engine: VllmEngine) -> None:
    ask, greedy = "describe the image .", Sampling(max_tokens=200)
    whole = reply_to(engine, look("a", text=ask, sampling=greedy)).samples[0]
    step, text, logprob = replace(greedy, stop=(".",), keep_stop=True), "", 0.0
    for _ in range(20):
        sample = reply_to(engine, look("a", text=ask, sampling=step, prefix=text)).samples[0]
        text, logprob = text + sample.text, logprob + sample.logprob
        if sample.stopped_by is None:
            break
    assert (text.strip(), sample.finish_reason) == (whole.text.strip(), "stop")
    assert logprob == pytest.approx(whole.logprob, abs=1e-3)


def test_greedy_replies_are_the_same_alone_and_in_a_crowd(engine: VllmEngine) -> None:
    greedy = Sampling(max_tokens=8)
    calls = [look(name, text="describe the image .", sampling=greedy) for name in "abcdefgh" * 4]
    alone = reply_to(engine, calls[0])
    crowd = [outcome.row for outcome in play(engine, *calls)]
    assert {reply.text for reply in crowd[::8]} == {alone.text}
    assert crowd[0].samples[0].logprob == pytest.approx(alone.samples[0].logprob, abs=1e-3)


@pytest.mark.parametrize("names", [("a",), ("a", "b", "a")])
def test_a_remembered_picture_gives_the_same_prompt(
    engine: VllmEngine, names: tuple[str, ...]
) -> None:
    engine._processed.forget()
    for text in ("describe the image .", "is there a star ?", "ask a question ."):
        call = look(*names, text=text)
        prompt_ids = engine._chat.prompt_ids(call)
        remembered = engine._process(call, prompt_ids)
        plain = engine._render(prompt_ids, names, [engine._pictures.picture(ref)
                                                   for ref in call.images])
        for part in ("prompt_token_ids", "mm_hashes", "mm_placeholders"):
            assert remembered[part] == plain[part]
    assert len(engine._processed._held) == 1


def test_several_samples_and_stop_words(engine: VllmEngine) -> None:
    sampling = Sampling(temperature=1.5, max_tokens=12, num_samples=3, stop=(" a",))
    reply = reply_to(engine, look("a", text="describe the image .", sampling=sampling))
    assert len(reply.samples) == 3
    assert all(" a" not in f" {sample.text} " or sample.finish_reason == "length"
               for sample in reply.samples)
    assert all(sample.logprob < 0 < sample.num_tokens for sample in reply.samples)


def test_what_cannot_be_asked_drops_that_call_only(engine: VllmEngine) -> None:
    too_long = look("a", text="red " * 300)
    mismatch = Generate((Message("user", (IMAGE, IMAGE, "?")),), look("a").images, YES_NO)
    outcomes = play(engine, too_long, look("broken"), mismatch, look("a"))
    reasons = [outcome.error and outcome.error.reason for outcome in outcomes]
    assert reasons[0] == "context_overflow"
    assert reasons[1] in {"undecodable_image", "truncated_image", "not_an_image"}
    assert reasons[2:] == ["placeholder_mismatch", None]


def test_on_a_cpu_only_the_engine_is_seeded(engine: VllmEngine) -> None:
    import torch

    assert engine.determinism == ("call" if torch.cuda.is_available() else "engine")


def test_a_schema_becomes_a_grammar_and_choices_become_tokens() -> None:
    schema = '{"type": "object", "properties": {"choice": {"enum": [1, 2]}}}'
    asked = look("a", sampling=Sampling(max_tokens=24, json_schema=schema))
    params = _sampling_params(_Asked(asked, 7, None, []))
    assert params.structured_outputs.json == schema
    assert (params.max_tokens, params.seed, params.allowed_token_ids) == (24, 7, None)
    choosing = Choosing([(5, 9, 2), (5, 8, 2)])
    params = _sampling_params(_Asked(look("a"), None, choosing, []))
    assert (params.structured_outputs, params.max_tokens) == (None, 1)
    assert params.allowed_token_ids == params.logprob_token_ids == [8, 9]
    plain = look("a", sampling=Sampling())
    assert _sampling_params(_Asked(plain, None, None, [])).structured_outputs is None


def test_a_score_call_is_not_for_it(engine: VllmEngine) -> None:
    from model_ops.programs.calls import Score

    with pytest.raises(DropError, match="no_engine"):
        engine.submit(0, Score(look("a").images[0], ("x",)), None)


def test_a_folder_without_a_model_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"vLLM cannot start on {tmp_path}"):
        VllmEngine(tmp_path, EngineConfig(), png)
