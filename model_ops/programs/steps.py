"""Typed steps of programs: ask one call, ask several together, count what was used.

A step is itself a small program, used with `yield from`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from model_ops.programs.calls import Generate, Program, Reply
from model_ops.programs.replies import Unparseable
from schemas.errors import DropError

RowT = TypeVar("RowT")
ParsedT = TypeVar("ParsedT")
RETRY_TEMPERATURE = 0.7
"""A second try is sampled at least this warm: a greedy one would repeat the first."""


def generate(call: Generate) -> Program[Reply]:
    """Ask one call and return its reply."""
    reply = yield call
    assert isinstance(reply, Reply), "a Generate is answered by a Reply"
    return reply


def generate_all(calls: Sequence[Generate]) -> Program[list[Reply]]:
    """Ask *calls* together and return their replies in order; without calls, ask nothing."""
    if not calls:
        return []
    replies = yield list(calls)
    assert isinstance(replies, list), "a list of calls is answered by a list"
    return [reply for reply in replies if isinstance(reply, Reply)]


def parsed(
    call: Generate, parse: Callable[[str], ParsedT | None]
) -> Program[tuple[Reply, ParsedT]]:
    """Ask *call* and parse its text; ask once more if that fails, then raise `Unparseable`."""
    reply = yield from generate(call)
    found = parse(reply.text)
    if found is None:
        warm = replace(
            call.sampling, temperature=max(call.sampling.temperature, RETRY_TEMPERATURE)
        )
        reply = yield from generate(replace(call, sampling=warm))
        found = parse(reply.text)
    if found is None:
        raise Unparseable(reply.text)
    return reply, found


@dataclass(slots=True)
class Meter:
    """What a program has used so far."""

    num_calls: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_image_tokens: int = 0

    def count(self, reply: Reply) -> None:
        """Add one reply."""
        self.num_calls += 1
        self.num_prompt_tokens += reply.num_prompt_tokens
        self.num_image_tokens += reply.num_image_tokens
        self.num_output_tokens += sum(sample.num_tokens for sample in reply.samples)


def metered(program: Program[RowT], meter: Meter) -> Program[RowT]:
    """Run *program* as it is and count the replies that it receives on *meter*."""
    try:
        asked = next(program)
        while True:
            try:
                answered = yield asked
            except DropError as error:
                asked = program.throw(error)
                continue
            for reply in answered if isinstance(answered, list) else [answered]:
                if isinstance(reply, Reply):
                    meter.count(reply)
            asked = program.send(answered)
    except StopIteration as stop:
        result: RowT = stop.value
        return result
