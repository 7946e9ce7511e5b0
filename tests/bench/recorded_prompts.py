"""The prompts of a game run, recorded on their way into vLLM, and vLLM offline on the same ones.

Offline is given all that it can be given: finished token ids, decoded images and every prompt at
once, through vLLM's own `LLM.generate`, on the very engine that the games are played on. Rendering
templates, decoding images and playing are counted against the driver alone.
"""

import time
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from model_ops.engines.pictures import PictureMemory, ReadImage
from model_ops.engines.vllm_engine import VllmEngine, _Asked, _sampling_params
from model_ops.programs.calls import Generate
from schemas.config import EngineConfig


class Recorded(NamedTuple):
    """A request as it was sent: the call, what its choice put into the prompt, its sampling."""

    call: Generate
    forced: tuple[int, ...]
    params: Any


class Offline(NamedTuple):
    """One timed run of `LLM.generate`."""

    seconds: float
    num_calls: int
    num_samples: int
    num_tokens: int


class RecordingEngine(VllmEngine):
    """The vLLM engine, which remembers what it was sent and can forget what it has cached."""

    def __init__(self, path: Path, config: EngineConfig, read: ReadImage, dtype: str) -> None:
        super().__init__(path, config, read, dtype)
        self.sent: list[Recorded] = []
        self._memory = (read, config.max_image_pixels)
        self._offline = _offline(self._engine, path)

    def forget(self) -> None:
        """Make every cache cold, vLLM's and ours, so that no run profits from the one before."""
        self.sent = []
        self._pictures = PictureMemory(*self._memory)
        self._processed.forget()
        for cache in (self._chat._render, self._chat._prompt_ids, self._chat._choices):
            cache.cache_clear()
        self._forget_vllm()

    def replay_offline(self, recorded: list[Recorded]) -> Offline:
        """Have `LLM.generate` answer the recorded prompts, all known in advance."""
        prompts = [self._prompt(each) for each in recorded]
        params = [deepcopy(each.params) for each in recorded]
        self._forget_vllm()
        started = time.perf_counter()
        answered = self._offline.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        samples = [sample for each in answered for sample in each.outputs]
        assert len(samples) == sum(each.params.n for each in recorded)
        return Offline(seconds, len(answered), len(samples),
                       sum(len(sample.token_ids) for sample in samples))

    def _send(self, request_id: str, asked: _Asked) -> None:
        forced = asked.choosing.forced if asked.choosing else ()
        self.sent.append(Recorded(asked.call, tuple(forced), _sampling_params(asked)))
        super()._send(request_id, asked)

    def _prompt(self, recorded: Recorded) -> dict[str, Any]:
        call = recorded.call
        return {"prompt_token_ids": [*self._chat.prompt_ids(call), *recorded.forced],
                "multi_modal_data": {"image": [self._pictures.picture(ref, call.look)
                                              for ref in call.images]},
                "multi_modal_uuids": {"image": [f"{ref.image_id}{call.look}"
                                                for ref in call.images]}}

    def _forget_vllm(self) -> None:
        assert self._engine.reset_prefix_cache()
        self._engine.reset_mm_cache()
        self._engine.reset_encoder_cache()


def _offline(engine: Any, path: Path) -> Any:
    """vLLM's offline entry point on an engine that is there already: same weights, same caches."""
    from vllm import LLM
    from vllm.v1.engine.llm_engine import LLMEngine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LLMEngine, "from_engine_args", lambda *_args, **_named: engine)
        return LLM(model=str(path))
