"""The search on real engines: the log-probabilities that it ranks by are the model's own, whatever
vLLM caches and batches, and the scorer looks at an image once."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from model_ops.curation.ranking import mean_logprob
from model_ops.engines.chat import to_conversation
from model_ops.engines.clip_scorer import ClipScorer, resolve_encoder
from model_ops.engines.driver import SCORER, Result, drive
from model_ops.engines.pictures import DECLARED_LIMIT, ReadImage
from model_ops.engines.vllm_engine import VllmEngine
from model_ops.images import ImageReader, decode
from model_ops.programs.calls import Call, Generate, Reply, Sample
from model_ops.programs.context import JobContext
from model_ops.programs.describing import description_texts
from model_ops.programs.searching import search
from model_ops.prompts import load_prompts
from schemas.artifacts import read_manifest
from schemas.config import EngineConfig, SearchConfig
from schemas.rows import ImageRef
from schemas.searches import DescriptionRow, SearchNode, SearchRow
from schemas.store import Store
from tests.model_ops.engines.plays import collection, refs_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(600)]

MODEL = Path(__file__).parents[3] / "model_ops/nursery/weights/vlm"
PROMPTS = load_prompts("nursery")
SETTINGS = SearchConfig(preset="reference", sentence_ends=["."], max_sentence_tokens=16,
                        max_sentences=6, max_tokens=120)
NUM_IMAGES, NUM_SENTENCES = 6, 100


class Listener:
    """An engine, and all that it said to whom."""

    determinism = "engine"

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self._asked: dict[int, Generate] = {}
        self.said: list[tuple[Generate, Sample]] = []

    def submit(self, call_id: int, call: Call, seed: int | None) -> None:
        assert isinstance(call, Generate)
        self._asked[call_id] = call
        self._engine.submit(call_id, call, seed)

    def step(self) -> list[tuple[int, Result]]:
        results = self._engine.step()
        for call_id, result in results:
            assert isinstance(result, Reply), result
            self.said += [(self._asked[call_id], sample) for sample in result.samples]
        return results

    def close(self) -> None:
        self._engine.close()


class Said(NamedTuple):
    """Rows, what was said for them, and how many images the scorer encoded."""

    rows: list[SearchRow]
    said: Sequence[tuple[Generate, Sample]]
    num_encoded: int


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A few images."""
    made = Store(str(tmp_path_factory.mktemp("searched") / "root"))
    collection(made, NUM_IMAGES)
    return made


@pytest.fixture(scope="module")
def searched(store: Store) -> Said:
    """A search about each image, all at a time; vLLM has a process of its own: it looks at
    every loaded module, and Flask's (of the S3 server of other tests) do not like that."""
    with ProcessPoolExecutor(1, get_context("spawn")) as child:
        return child.submit(search_all, store.root).result()


def search_all(root: str) -> Said:
    """What the fixture does, in the process that it starts."""
    store = Store(root)
    images = read_manifest(store, "images")
    read = ImageReader(store, images).read
    config = EngineConfig(max_model_len=256, max_num_seqs=64)
    engine = Listener(VllmEngine(MODEL, config, read, dtype="float32", seed=1))
    scorer = ClipScorer(resolve_encoder("nursery://clip"), read)
    context = JobContext(PROMPTS, SETTINGS, 1, "00-calibrated", "model", 3)
    programs = ((ref.image_id, search(asked(ref), context)) for ref in refs_of(store, images))
    outcomes = list(drive(programs, {"": engine, SCORER: scorer}, NUM_IMAGES, 3))
    engine.close()
    assert not [outcome.error for outcome in outcomes if outcome.error]
    rows = [outcome.row for outcome in outcomes if outcome.row is not None]
    return Said(rows, engine.said, scorer.num_encoded)


def asked(ref: ImageRef) -> DescriptionRow:
    return DescriptionRow(row_id=ref.image_id, prompt_id=ref.image_id, image=ref, seed=3,
                          question=description_texts(PROMPTS)[0])


def sentences(searched: Said) -> Iterator[tuple[SearchNode, Generate, Sample]]:
    """Every scored node with its call, whose prefix is the exact text so far, and its sample."""
    said = {(call.images[0].image_id, call.prefix, sample.text.strip(), sample.num_tokens): (
        call, sample) for call, sample in searched.said}
    for row in searched.rows:
        prefixes = {0: ""}
        for node in row.nodes:
            if node.parent_id is None or node.dropped_reason is not None:
                continue
            before = prefixes[node.parent_id]
            call, sample = said[row.image.image_id, before, node.text, node.num_tokens]
            prefixes[node.node_id] = before + sample.text
            yield node, call, sample


class Forward:
    """The model in transformers: one forward pass over prompt, text so far and sentence."""

    def __init__(self, read: ReadImage) -> None:
        from transformers import AutoProcessor, Idefics3ForConditionalGeneration

        self._read = read
        self._processor: Any = AutoProcessor.from_pretrained(MODEL)
        model: Any = Idefics3ForConditionalGeneration.from_pretrained(MODEL, dtype="float32")
        self._model = model.eval()

    def logprobs(self, call: Generate, sample: Sample) -> list[float]:
        """Natural logs of the probabilities of the sentence's tokens, the end of the text as one
        of them if it ended the sentence."""
        import torch

        prompt = self._processor.apply_chat_template(
            to_conversation(call.messages), add_generation_prompt=True, tokenize=False)
        end = self._processor.tokenizer.eos_token if sample.stopped_by is None else ""
        begun = self._inputs(call, prompt + call.prefix)["input_ids"].shape[1]
        whole = self._inputs(call, prompt + call.prefix + sample.text + end)
        with torch.inference_mode():
            logprobs = self._model(**whole).logits[0].float().log_softmax(-1)
        ids = whole["input_ids"][0]
        return [float(logprobs[place - 1, ids[place]]) for place in range(begun, len(ids))]

    def _inputs(self, call: Generate, text: str) -> Any:
        picture = decode(self._read(call.images[0]), DECLARED_LIMIT)
        return self._processor(text=text, images=[picture], return_tensors="pt",
                               add_special_tokens=False)


def test_mean_log_probabilities_are_those_of_a_transformers_forward(
        searched: Said, store: Store) -> None:
    found = list(sentences(searched))
    assert len(found) >= NUM_SENTENCES
    step = len(found) // NUM_SENTENCES  # of all depths and images
    chosen = found[::step][:NUM_SENTENCES]
    assert max(node.depth for node, _, _ in chosen) > 2
    forward = Forward(ImageReader(store, read_manifest(store, "images")).read)
    for node, call, sample in chosen:
        logprobs = forward.logprobs(call, sample)
        assert len(logprobs) == node.num_tokens, (call.prefix, sample.text)
        expected = sum(logprobs) / len(logprobs)
        assert mean_logprob(node) == pytest.approx(expected, abs=1e-3), (call.prefix, sample.text)


def test_each_image_is_encoded_once_however_many_sentences_it_is_compared_with(
        searched: Said) -> None:
    assert searched.num_encoded == len(searched.rows) == NUM_IMAGES
    assert {row.num_truncated for row in searched.rows} == {0}
    for row in searched.rows:
        levels = {node.depth for node in row.nodes if node.cosine is not None}
        assert len(levels) > 1, "scored once a level"


def test_replies_are_found_that_a_pair_can_be_made_of(searched: Said) -> None:
    finals = [sum(node.is_final for node in row.nodes) for row in searched.rows]
    assert sum(num > 1 for num in finals) > NUM_IMAGES / 2, finals
