"""`transformers` generate as an engine, one call at a time: how the public scripts of the papers
play. The same programs run on it, so both sides ask the same questions under the same rules."""

from collections import deque
from pathlib import Path
from typing import Any

from model_ops.engines.chat import ChatRenderer, to_conversation
from model_ops.engines.choosing import Choosing
from model_ops.engines.driver import Result
from model_ops.engines.pictures import PictureMemory, ReadImage
from model_ops.programs.calls import Call, Generate, Reply, Sample
from schemas.errors import DropError


class TransformersEngine:
    """Answers a call per step; choices by one forward pass and the choices' own tokens."""

    determinism = "engine"

    def __init__(self, path: Path, read: ReadImage, num_threads: int) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        torch.set_num_threads(num_threads)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForImageTextToText.from_pretrained(path)
        self._model = model.eval().to(self._device)
        self._processor: Any = AutoProcessor.from_pretrained(path)
        self._chat = ChatRenderer(path)
        self._pictures = PictureMemory(read)
        self._waiting: deque[tuple[int, Generate]] = deque()

    def submit(self, call_id: int, call: Call, seed: int | None) -> None:
        """Take a call."""
        if not isinstance(call, Generate):
            raise DropError("no_engine", "transformers answers Generate calls only")
        self._waiting.append((call_id, call))

    def step(self) -> list[tuple[int, Result]]:
        """Answer the oldest call."""
        import torch

        call_id, call = self._waiting.popleft()
        with torch.inference_mode():
            inputs = self._inputs(call)
            samples = self._choose(call, inputs) if call.sampling.choices else self._generate(
                call, inputs)
        return [(call_id, Reply(samples, inputs["input_ids"].shape[1], len(call.images), 0))]

    def close(self) -> None:
        """Forget the model."""
        del self._model

    def _inputs(self, call: Generate) -> Any:
        text = self._processor.apply_chat_template(
            to_conversation(call.messages), add_generation_prompt=True, tokenize=False)
        pictures = [self._pictures.picture(ref, call.look) for ref in call.images]
        return self._processor(text=text + call.prefix, images=pictures or None,
                               return_tensors="pt").to(self._device)

    def _generate(self, call: Generate, inputs: Any) -> tuple[Sample, ...]:
        sampling = call.sampling
        warm = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        made = self._model.generate(
            **inputs, max_new_tokens=sampling.max_tokens, do_sample=sampling.temperature > 0,
            num_return_sequences=sampling.num_samples, **(warm if sampling.temperature else {}))
        replies = made[:, inputs["input_ids"].shape[1]:].tolist()
        return tuple(self._sample(tokens, sampling.max_tokens) for tokens in replies)

    def _sample(self, tokens: list[int], most: int) -> Sample:
        end = self._chat.end_id
        said = tokens[:tokens.index(end) + 1] if end in tokens else tokens
        reason = "length" if len(said) == most and said[-1] != end else "stop"
        return Sample(self._chat.decode(said), len(said), 0.0, reason)

    def _choose(self, call: Generate, inputs: Any) -> tuple[Sample, ...]:
        choosing = Choosing(self._chat.choice_tokens(call))
        assert call.sampling.choices and not choosing.forced, "one token has to decide"
        logprobs = self._model(**inputs).logits[0, -1].float().log_softmax(-1)
        told = {token: float(logprobs[token]) for token in choosing.deciding}
        choosing.decide(max(told, key=told.__getitem__), told)
        assert choosing.chosen is not None
        return (Sample(call.sampling.choices[choosing.chosen], 1, told[max(
            told, key=told.__getitem__)], "stop", tuple(choosing.probs)),)
