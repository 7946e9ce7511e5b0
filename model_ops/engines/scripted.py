"""The scripted engine: a function answers every call.

Its one idea: what a program does is then a pure function of its input, so programs, driver and
pool are tested without a model; the same configuration gives the same rows to the byte.
"""

import importlib
from collections.abc import Callable

from model_ops.engines.driver import Result
from model_ops.programs.calls import Call, Generate, Reply, Sample, ScoreReply
from schemas.errors import ConfigError, DropError

Answer = Callable[[Call, int], "Reply | ScoreReply | str"]
"""From a call and its seed to the reply; a text stands for the plain `Reply` with that text."""

SCHEME = "scripted:"


def reply_with(call: Generate, *texts: str) -> Reply:
    """The reply of an engine that saw every image (one token each) and said *texts*."""
    num_words = sum(len(part.split()) for message in call.messages for part in message.parts)
    samples = tuple(_sample(call, text) for text in texts)
    return Reply(samples, num_words, len(call.images), len(call.images))


def _sample(call: Generate, text: str) -> Sample:
    choices = call.sampling.choices
    probs = tuple(float(text == choice) for choice in choices) if choices else None
    stop = call.sampling.stop if call.sampling.keep_stop else ()
    stopped_by = next((end for end in stop if text.endswith(end)), None)
    return Sample(text, max(1, len(text.split())), 0.0, "stop", probs, stopped_by)


class ScriptedEngine:
    """Answers call and seed by *answer*; a reply is ready after `latency(call, seed)` steps."""

    determinism = "call"

    def __init__(self, answer: Answer, latency: Callable[[Call, int], int] | None = None) -> None:
        self._answer = answer
        self._latency = latency or (lambda call, seed: 1)
        self._pending: dict[int, tuple[Call, int, int]] = {}
        self._clock = 0
        self.num_steps = 0
        self.most_pending = 0

    def submit(self, call_id: int, call: Call, seed: int | None) -> None:
        """Take a call."""
        due = self._clock + max(1, self._latency(call, seed or 0))
        self._pending[call_id] = (call, seed or 0, due)
        self.most_pending = max(self.most_pending, len(self._pending))

    def step(self) -> list[tuple[int, Result]]:
        """Advance the clock by one; answer what is due, in the order of submission."""
        self._clock += 1
        self.num_steps += 1
        due = [call_id for call_id, entry in self._pending.items() if entry[2] <= self._clock]
        return [(call_id, self._result(*self._pending.pop(call_id)[:2])) for call_id in due]

    def close(self) -> None:
        """Forget what is pending."""
        self._pending.clear()

    def _result(self, call: Call, seed: int) -> Result:
        try:
            said = self._answer(call, seed)
        except DropError as error:
            return error
        if isinstance(said, str):
            assert isinstance(call, Generate), "a text answers only Generate calls"
            return reply_with(call, *[said] * call.sampling.num_samples)
        return said


def load_scripted(path: str) -> ScriptedEngine:
    """The engine named `scripted:<module>:<function>` (how tests run the pool without a model)."""
    module_name, _, name = path.removeprefix(SCHEME).partition(":")
    try:
        answer = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"no scripted engine at {path!r}: {error}") from error
    return ScriptedEngine(answer)
