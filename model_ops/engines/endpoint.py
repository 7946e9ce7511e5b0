"""The endpoint engine: a model behind an OpenAI-compatible URL.

Its one idea: a bounded set of threads keeps up to `max_concurrency` calls in flight; the `openai`
client does timeouts and retries with backoff. A failed call drops its program; an endpoint that
refuses us or is down for everybody is a dead engine, not a thousand dropped rows.
"""

import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from model_ops.engines.driver import Result
from model_ops.engines.pictures import PictureMemory, ReadImage
from model_ops.programs.calls import IMAGE, Call, Generate, Reply, Sample
from schemas.config import EngineConfig
from schemas.errors import ConfigError, DropError, EngineError
from schemas.rows import ImageRef

_TOP_LOGPROBS = 20
_STEP_SECONDS = 1.0
BESIDE_SECONDS = 0.01
"""What a step may wait where a local engine is stepped in turn with this one."""
_LEAST_FAILURES = 20


class EndpointEngine:
    """Answers `Generate` calls through the chat completions API.

    How many images the remote model saw cannot be known from outside: it is taken to be those sent,
    and image tokens are what the endpoint reports (0 if nothing).
    """

    determinism = "engine"
    """Each call carries its seed, but a server may ignore it: no seed per call is promised."""

    def __init__(self, config: EngineConfig, read: ReadImage,
                 step_seconds: float = _STEP_SECONDS) -> None:
        from openai import OpenAI

        self._config = config
        self._step_seconds = step_seconds
        self._pictures = PictureMemory(read, config.max_image_pixels)
        self._client: Any = OpenAI(  # Any: our messages and options are built as plain JSON
            base_url=config.base_url, timeout=config.timeout_s, max_retries=config.max_retries,
            api_key=os.environ.get(config.api_key_env) or "none")
        self._threads = ThreadPoolExecutor(config.max_concurrency, "endpoint")
        self._pending: dict[Future[Reply], int] = {}
        self._failures = 0

    def submit(self, call_id: int, call: Call, seed: int | None) -> None:
        """Queue a call; it is sent as soon as a thread is free. Raises `ConfigError` for
        `keep_stop`, which the API has not."""
        if not isinstance(call, Generate):
            raise DropError("no_engine", "an endpoint answers Generate calls only")
        if call.sampling.keep_stop:
            raise ConfigError("an endpoint does not tell which text ended a reply, so sentences "
                              "cannot be searched for there: use engine.kind vllm")
        messages = self._messages(call)
        self._pending[self._threads.submit(self._ask, call, messages, seed)] = call_id

    def step(self) -> list[tuple[int, Result]]:
        """Wait (`step_seconds` at most) for replies. Raises `EngineError` if the endpoint refuses
        us, or if so many calls failed in a row that it must be down."""
        done = wait(self._pending, self._step_seconds, FIRST_COMPLETED).done
        return [(self._pending.pop(future), self._outcome(future)) for future in done]

    def close(self) -> None:
        """Drop what is queued and close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _outcome(self, future: "Future[Reply]") -> Result:
        try:
            reply = future.result()
        except DropError as error:
            self._count_failure(error)
            return error
        self._failures = 0
        return reply

    def _count_failure(self, error: DropError) -> None:
        if error.reason not in ("endpoint_error", "endpoint_timeout"):
            return
        self._failures += 1
        if self._failures >= max(_LEAST_FAILURES, 2 * self._config.max_concurrency):
            raise EngineError(f"{self._failures} calls in a row failed at {self._config.base_url}, "
                              f"last: {error}; check that the endpoint is up")

    def _messages(self, call: Generate) -> list[dict[str, Any]]:
        images = iter(call.images)
        messages: list[dict[str, Any]] = []
        for message in call.messages:
            content = [self._image(next(images), call.look) if part == IMAGE
                       else {"type": "text", "text": part} for part in message.parts]
            messages.append({"role": message.role, "content": content})
        if call.prefix:
            messages.append({"role": "assistant", "content": call.prefix})
        return messages

    def _image(self, ref: ImageRef, look: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": self._pictures.data_url(ref, look)}}

    def _ask(self, call: Generate, messages: list[dict[str, Any]], seed: int | None) -> Reply:
        import openai

        try:
            completion = self._client.chat.completions.create(
                model=self._config.model_name, messages=messages, **_options(call, seed))
            return _to_reply(call, completion)
        except DropError:
            raise
        except openai.APITimeoutError as error:
            raise DropError("endpoint_timeout", f"{self._config.timeout_s:g} s") from error
        except (openai.AuthenticationError, openai.PermissionDeniedError,
                openai.NotFoundError) as error:
            raise EngineError(f"{self._config.base_url} refuses model {self._config.model_name!r}: "
                              f"{error.message}; check base_url, model_name and the key in "
                              f"${self._config.api_key_env}") from error
        except openai.BadRequestError as error:
            overflow = "context length" in error.message or "longer than" in error.message
            raise DropError("context_overflow" if overflow else "endpoint_error",
                            error.message[:400]) from error
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise DropError("endpoint_error", f"{type(error).__name__}: {error}"[:400]) from error


def _options(call: Generate, seed: int | None) -> dict[str, Any]:
    sampling = call.sampling
    options: dict[str, Any] = {
        "temperature": sampling.temperature, "top_p": sampling.top_p, "n": sampling.num_samples,
        "max_tokens": sampling.max_tokens, "seed": seed, "logprobs": True}
    if sampling.stop:
        options["stop"] = list(sampling.stop)
    if sampling.choices:
        options["top_logprobs"] = _TOP_LOGPROBS
    if sampling.json_schema:
        import json

        options["response_format"] = {"type": "json_schema", "json_schema": {
            "name": "reply", "strict": True, "schema": json.loads(sampling.json_schema)}}
    if call.prefix:
        options["extra_body"] = {"continue_final_message": True, "add_generation_prompt": False}
    return options


def _to_reply(call: Generate, completion: Any) -> Reply:
    if not completion.choices:
        raise DropError("endpoint_error", "the reply has no choices")
    samples = tuple(_to_sample(call, choice) for choice in completion.choices)
    usage = completion.usage
    details = getattr(usage, "prompt_tokens_details", None)
    return Reply(samples, getattr(usage, "prompt_tokens", 0) or 0, len(call.images),
                 getattr(details, "image_tokens", 0) or 0)


def _to_sample(call: Generate, choice: Any) -> Sample:
    text = choice.message.content
    if not isinstance(text, str):
        raise DropError("endpoint_error", "the reply has no text")
    tokens = (choice.logprobs.content or []) if choice.logprobs else []
    num_tokens = len(tokens) or len(text.split())
    logprob = sum(token.logprob for token in tokens)
    reason = choice.finish_reason or "stop"
    if not call.sampling.choices:
        return Sample(text, num_tokens, logprob, reason)
    probs = choice_probs(call.sampling.choices, text, tokens)
    chosen = max(range(len(probs)), key=probs.__getitem__)
    return Sample(call.sampling.choices[chosen], num_tokens, logprob, reason, probs)


def choice_probs(choices: Sequence[str], text: str, tokens: Sequence[Any]) -> tuple[float, ...]:
    """Probability of each choice, from the first token's alternatives, renormalised.

    Endpoints cannot be told to restrict a reply in a portable way: so the text has to begin with a
    choice (in any case and quotes), or it is a `DropError` (`not_a_choice`), whatever stray
    alternatives say. An alternative counts for the choices that begin with it (shared equally);
    without any, the text alone decides.
    """
    named = [bool(re.match(rf"\W*{re.escape(choice)}\b", text, re.IGNORECASE))
             for choice in choices]
    if not any(named):
        raise DropError("not_a_choice", f"{text[:80]!r} is none of {', '.join(choices)}")
    weights = [0.0] * len(choices)
    for token in (tokens[0].top_logprobs or []) if tokens else []:
        word = token.token.strip().lower()
        matches = [i for i, choice in enumerate(choices)
                   if word and choice.lower().startswith(word)]
        for i in matches:
            weights[i] += math.exp(token.logprob) / len(matches)
    if not sum(weights):
        weights = [float(one) for one in named]
    return tuple(weight / sum(weights) for weight in weights)
