"""The endpoint engine: a model behind an OpenAI-compatible URL.

Its one idea: a bounded set of threads keeps up to `max_concurrency` calls in flight; the `openai`
client does timeouts and retries with backoff. A failed call drops its program; an endpoint that
refuses us or is down for everybody is a dead engine, not a thousand dropped rows.
"""

import json
import math
import os
import re
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

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
_LABEL = "label"
"""The one field of the object that a choice is asked for in: OpenAI wants an object at the root."""
_ENVELOPE_TOKENS = 32
"""What that object needs beside the choice itself."""
_NOT_EVERYWHERE = {"logprobs": r"logprob",
                   "response_format": r"response_format|schema|structured|guided|grammar"}
"""Options that an endpoint may refuse, and how its refusal names them."""


class EndpointEngine:
    """Answers `Generate` calls through the chat completions API.

    How many images the remote model saw cannot be known from outside: it is taken to be those sent,
    and image tokens are what the endpoint reports (0 if nothing). Log-probabilities are asked for
    with `choices` alone, elsewhere they are 0. What an endpoint refuses (`_NOT_EVERYWHERE`) is left
    out from then on.
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
        self._refused: set[str] = set()

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
            return _to_reply(call, self._completion(call, messages, seed))
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

    def _completion(self, call: Generate, messages: list[dict[str, Any]], seed: int | None) -> Any:
        """The endpoint's answer. Asked again without an option that it refuses, which is kept in
        mind: so every endpoint refuses each option about once."""
        import openai

        while True:
            options = _options(call, seed, self._refused)
            try:
                return self._client.chat.completions.create(
                    model=self._config.model_name, messages=messages, **options)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                named = {name for name, says in _NOT_EVERYWHERE.items()
                         if name in options and re.search(says, error.message, re.IGNORECASE)}
                if not named:
                    raise
                self._refused |= named


def _options(call: Generate, seed: int | None, refused: Collection[str]) -> dict[str, Any]:
    """The request's options; none of *refused* is among them."""
    sampling = call.sampling
    options: dict[str, Any] = {
        "temperature": sampling.temperature, "top_p": sampling.top_p, "n": sampling.num_samples,
        "max_tokens": sampling.max_tokens, "seed": seed}
    if sampling.stop:
        options["stop"] = list(sampling.stop)
    if sampling.choices and "logprobs" not in refused:
        options |= {"logprobs": True, "top_logprobs": _TOP_LOGPROBS}
    schema = json.loads(sampling.json_schema) if sampling.json_schema else None
    if sampling.choices and not call.prefix:  # what a prefix begins, no object ends
        schema = choice_schema(sampling.choices)
    if schema is not None and "response_format" not in refused:
        options["response_format"] = {"type": "json_schema", "json_schema": {
            "name": "reply", "strict": True, "schema": schema}}
        if sampling.choices:
            options["max_tokens"] += _ENVELOPE_TOKENS
    if call.prefix:
        options["extra_body"] = {"continue_final_message": True, "add_generation_prompt": False}
    return options


def choice_schema(choices: Sequence[str]) -> dict[str, Any]:
    """JSON schema of an object that holds one of *choices*."""
    return {"type": "object", "properties": {_LABEL: {"type": "string", "enum": list(choices)}},
            "required": [_LABEL], "additionalProperties": False}


def _to_reply(call: Generate, completion: Any) -> Reply:
    if not completion.choices:
        raise DropError("endpoint_error", "the reply has no choices")
    usage = completion.usage
    told = (getattr(usage, "completion_tokens", 0) or 0) // len(completion.choices)
    samples = tuple(_to_sample(call, choice, told) for choice in completion.choices)
    details = getattr(usage, "prompt_tokens_details", None)
    return Reply(samples, getattr(usage, "prompt_tokens", 0) or 0, len(call.images),
                 getattr(details, "image_tokens", 0) or 0)


def _to_sample(call: Generate, choice: Any, told: int) -> Sample:
    """A sample; *told*: its number of tokens as the endpoint reports it, for want of a better."""
    text = choice.message.content
    if not isinstance(text, str):
        raise DropError("endpoint_error", "the reply has no text")
    tokens = (choice.logprobs.content or []) if choice.logprobs else []
    num_tokens = len(tokens) or told or len(text.split())
    logprob = sum(token.logprob for token in tokens)
    reason = choice.finish_reason or "stop"
    choices = call.sampling.choices
    if not choices:
        return Sample(text, num_tokens, logprob, reason)
    if (named := named_choice(choices, text)) is None:
        raise DropError("not_a_choice", f"{text[:80]!r} is none of {', '.join(choices)}")
    probs = choice_probs(choices, named.number, tokens)
    return Sample(choices[named.number], num_tokens, logprob, reason, probs)


class Named(NamedTuple):
    """A choice (counted from 0), and the character of the text at which it begins."""

    number: int
    start: int


def named_choice(choices: Sequence[str], text: str) -> Named | None:
    """The choice that *text* begins with; None if it is none.

    In any case, quotes and markup, alone or as the object of `choice_schema`: whether an endpoint
    keeps to a schema cannot be known. Of several (`red`, `red cube`) the longest counts.
    """
    found = [(len(choice), Named(index, match.start(1))) for index, choice in enumerate(choices)
             if (match := re.match(rf"[\W_]*(?:{_LABEL}[\W_]+)?({re.escape(choice)})(?![^\W_])",
                                   text, re.IGNORECASE))]
    return max(found)[1] if found else None


def choice_probs(choices: Sequence[str], chosen: int, tokens: Sequence[Any]) -> tuple[float, ...]:
    """Probability of each choice, from the alternatives of the token at which the chosen one
    begins, renormalised.

    An alternative counts for the choices that begin with it (shared equally), if what stands before
    a choice in that token (a quote) stands before it too. Without that token, or where the chosen
    one is not among the alternatives, the text alone decides.
    """
    weights = [0.0] * len(choices)
    lead, alternatives = _place(choices, chosen, tokens)
    for token in alternatives:
        said = token.token.strip().lower()
        word = said.removeprefix(lead) if said.startswith(lead) else ""
        matches = [i for i, choice in enumerate(choices)
                   if word and choice.lower().startswith(word)]
        for i in matches:
            weights[i] += math.exp(token.logprob) / len(matches)
    if not weights[chosen]:
        weights = [float(index == chosen) for index in range(len(choices))]
    return tuple(weight / sum(weights) for weight in weights)


def _place(choices: Sequence[str], chosen: int, tokens: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """Where the chosen one begins: what its token has before it, and that token's alternatives."""
    named, end = named_choice(choices, "".join(token.token for token in tokens)), 0
    for token in tokens if named is not None and named.number == chosen else ():
        begin, end = end, end + len(token.token)
        if named is not None and end > named.start:
            return token.token[:named.start - begin].strip().lower(), token.top_logprobs or []
    return "", []
