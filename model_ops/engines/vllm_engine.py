"""The vLLM engine: continuous batching in this process, request by request.

Its one idea: the driver's calls go straight into vLLM's own step loop (`add_request`, `step`), so a
reply is available in the step in which its last token was sampled. Images carry their id as cache
key, so an image is preprocessed once (`processed`) and its prompt prefix computed once per actor.
"""

import gc
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_ops.engines.chat import ChatRenderer
from model_ops.engines.choosing import Choosing
from model_ops.engines.driver import Result
from model_ops.engines.pictures import PictureMemory, ReadImage
from model_ops.engines.processed import ProcessedImages
from model_ops.programs.calls import Call, Generate, Reply, Sample
from schemas.config import EngineConfig
from schemas.errors import DropError, EngineError, FlywheelError

MAX_IMAGES = 16
"""Images that a prompt may hold."""

_MAX_DECIDING_TOKENS = 128
_CPU_BLOCK_TOKENS = 32
"""Prompt prefixes are shared in whole blocks: 128 tokens, vLLM's own choice on a CPU, is more than
most prompts have. The least that its CPU attention takes."""
_GARBAGE_THRESHOLDS = (10_000, 20, 50)
"""vLLM makes thousands of objects a step, hardly any in cycles: Python need not look so often."""


@dataclass(slots=True)
class _Asked:
    """A call in flight: what it was, and what the engine's processor made of it."""

    call: Generate
    seed: int | None
    choosing: Choosing | None
    image_ranges: list[int] = field(default_factory=list)
    stops: Mapping[int, str] = field(default_factory=dict)
    """Tokens that end the reply, each with the text of `Sampling.stop` that it ends with."""


class VllmEngine:
    """vLLM V1 with one model. Raises `EngineError` if it cannot start or dies."""

    def __init__(self, path: Path | str, config: EngineConfig, read: ReadImage, dtype: str = "auto",
                 seed: int = 0) -> None:
        self._asked: dict[str, _Asked] = {}
        self._pictures = PictureMemory(read, config.max_image_pixels)
        self._max_len = config.max_model_len
        try:
            self._engine = _start(path, config, dtype, seed)
            self._chat = ChatRenderer(path)
            self._processed = ProcessedImages(self._render)
        except Exception as error:
            raise EngineError(f"vLLM cannot start on {path}: {_brief(error)}; see `flywheel "
                              f"doctor`, and engine.max_model_len / gpu_memory_utilization / "
                              f"kv_cache_gib") from error
        self._seeds_calls = not _on_cpu()
        self.determinism = "call" if self._seeds_calls else "engine"

    def submit(self, call_id: int, call: Call, seed: int | None) -> None:
        """Render the prompt, hand it to vLLM. Raises `DropError` for what vLLM cannot take."""
        if not isinstance(call, Generate):
            raise DropError("no_engine", "the vLLM engine answers Generate calls only")
        choosing = None
        if call.sampling.choices:
            choosing = Choosing(self._chat.choice_tokens(call))
            if choosing.chosen is None and call.sampling.num_samples > 1 and not _flat(choosing):
                raise DropError("engine_error", "several samples need choices that differ in "
                                                "their first differing token")
        sampling = call.sampling
        stops = self._chat.stop_tokens(sampling.stop) if sampling.keep_stop else {}
        self._send(str(call_id),
                   _Asked(call, seed if self._seeds_calls else None, choosing, stops=stops))

    def step(self) -> list[tuple[int, Result]]:
        """One engine step (one token for every running request); the calls it finished."""
        finished = []
        for output in self._engine.step():
            if output.finished:
                result = self._result(output)
                if result is not None:
                    finished.append((int(output.request_id), result))
        return finished

    def close(self) -> None:
        """Shut the engine down; its memory is free again."""
        self._asked.clear()
        self._engine.engine_core.shutdown()

    def _send(self, request_id: str, asked: _Asked) -> None:
        prompt_ids = self._chat.prompt_ids(asked.call)
        if asked.choosing is not None:
            prompt_ids += asked.choosing.forced
        try:
            inputs = self._process(asked.call, prompt_ids)
            asked.image_ranges = _image_ranges(inputs)
            self._engine.add_request(request_id, inputs, _sampling_params(asked))
        except FlywheelError:
            raise
        except Exception as error:  # vLLM's refusals have no common base that is public
            raise _refusal(error) from error
        self._asked[request_id] = asked

    def _process(self, call: Generate, prompt_ids: list[int]) -> Any:
        """What the engine takes: image placeholders expanded, pictures preprocessed."""
        keys = tuple(f"{ref.image_id}{call.look}" for ref in call.images)
        inputs = self._processed.inputs(prompt_ids, keys, lambda: [
            self._pictures.picture(ref, call.look) for ref in call.images])
        length = len(inputs["prompt_token_ids"])
        if length >= self._max_len:
            raise DropError("context_overflow", f"{length} prompt tokens, {self._max_len} allowed")
        return inputs

    def _render(self, prompt_ids: list[int], keys: Sequence[str], pictures: list[Any]) -> Any:
        """vLLM's own processing of one prompt; *keys* name the pictures in its caches."""
        prompt: dict[str, Any] = {"prompt_token_ids": prompt_ids}
        if pictures:
            prompt["multi_modal_data"] = {"image": pictures}
            prompt["multi_modal_uuids"] = {"image": list(keys)}
        (inputs,) = self._engine.renderer.render_cmpl([prompt])
        return inputs

    def _result(self, output: Any) -> Result | None:
        """What came of a finished request; None if its choice has to be asked further on."""
        asked = self._asked.pop(output.request_id)
        reasons = {str(sample.finish_reason) for sample in output.outputs}
        if not reasons <= {"stop", "length"}:
            return DropError("engine_error", f"vLLM ended the request: {', '.join(reasons)}")
        if asked.choosing is None:
            prompt_ids = output.prompt_token_ids
            samples = tuple(self._sample(asked, prompt_ids, each) for each in output.outputs)
        else:
            chosen = [_decide(asked, sample) for sample in output.outputs]
            if None in chosen:
                return self._send_again(output.request_id, asked)
            samples = tuple(sample for sample in chosen if sample is not None)
        return Reply(samples, len(output.prompt_token_ids), len(asked.image_ranges),
                     sum(asked.image_ranges))

    def _send_again(self, request_id: str, asked: _Asked) -> DropError | None:
        try:
            self._send(request_id, asked)
        except DropError as error:
            return error
        return None

    def _sample(self, asked: _Asked, prompt_ids: Sequence[int], output: Any) -> Sample:
        if _stop_texts(asked):
            text = output.text
        elif asked.stops:
            text = self._chat.decode_after(prompt_ids, output.token_ids)
        else:
            text = self._chat.decode(output.token_ids)
        ended_by = output.stop_reason  # a token's id where that ended it
        return Sample(text, len(output.token_ids), output.cumulative_logprob or 0.0,
                      output.finish_reason,
                      stopped_by=ended_by if isinstance(ended_by, str)
                      else asked.stops.get(ended_by))


def _flat(choosing: Choosing) -> bool:
    """Whether one token decides."""
    return len(choosing.deciding) == len(choosing.sequences)


def _sampling_params(asked: _Asked) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling, stop = asked.call.sampling, _stop_texts(asked)
    common: dict[str, Any] = {
        "n": sampling.num_samples, "temperature": sampling.temperature,
        "top_p": sampling.top_p, "seed": asked.seed, "skip_clone": True,
        "output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": bool(stop),
        "stop": stop, "stop_token_ids": list(asked.stops) or None,
        "include_stop_str_in_output": sampling.keep_stop}
    if asked.choosing is not None:
        deciding = asked.choosing.deciding
        return SamplingParams(max_tokens=1, allowed_token_ids=deciding,
                              logprob_token_ids=deciding[:_MAX_DECIDING_TOKENS], **common)
    grammar = StructuredOutputsParams(json=sampling.json_schema) if sampling.json_schema else None
    return SamplingParams(max_tokens=sampling.max_tokens, logprobs=0, flat_logprobs=True,
                          structured_outputs=grammar, **common)


def _stop_texts(asked: _Asked) -> list[str] | None:
    """Those of `Sampling.stop` that no token stands for."""
    return [end for end in asked.call.sampling.stop if end not in asked.stops.values()] or None


def _decide(asked: _Asked, output: Any) -> Sample | None:
    """The choice as a sample: its log-probability is that among the choices."""
    call, choosing = asked.call, asked.choosing
    assert choosing is not None and call.sampling.choices
    if call.sampling.num_samples > 1:
        choosing = Choosing(choosing.sequences)
    logprobs = {token: entry.logprob for token, entry in output.logprobs[0].items()}
    choosing.decide(output.token_ids[0], logprobs)
    if choosing.chosen is None:
        return None
    probs = tuple(choosing.probs)
    logprob = math.log(max(probs[choosing.chosen], 1e-38))
    return Sample(call.sampling.choices[choosing.chosen], 1, logprob, "stop", probs)


def _start(path: Path | str, config: EngineConfig, dtype: str, seed: int) -> Any:
    _set_environment(config)
    from vllm import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments = EngineArgs(
        model=str(path), dtype=dtype, seed=seed % 2**32, max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs, tensor_parallel_size=config.tensor_parallel_size,
        gpu_memory_utilization=config.gpu_memory_utilization, enable_prefix_caching=True,
        enforce_eager=config.enforce_eager or _on_cpu(), disable_log_stats=True,
        block_size=_CPU_BLOCK_TOKENS if _on_cpu() else None,
        limit_mm_per_prompt={"image": MAX_IMAGES})
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    return LLMEngine.from_engine_args(arguments, UsageContext.LLM_CLASS)  # its tokens a step


def _set_environment(config: EngineConfig) -> None:
    """vLLM and OpenMP read these when they are first imported; what the user set stays."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(config.kv_cache_gib))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(config.num_cpus))))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _image_ranges(inputs: Any) -> list[int]:
    """Image tokens of each image that the processor really placed into the prompt."""
    placed = inputs.get("mm_placeholders", {}).get("image", ())
    return [int(place.get_num_embeds()) for place in placed]


def _refusal(error: Exception) -> DropError:
    if "longer than" in str(error) or "context length" in str(error):
        return DropError("context_overflow", _brief(error))
    return DropError("engine_error", _brief(error))


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
