"""The driver: many live programs, few engines, no turn barrier.

Its one idea: a program is resumed the moment *its own* reply is there, and the engine always has
every call that any live program is waiting for. Which engine, which Ray actor and what becomes of
the rows is left to the pool; what is asked is left to the programs.
"""

import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from model_ops.programs.calls import Call, Generate, Program, Reply, ScoreReply
from schemas.errors import ConfigError, DropError, EngineError, StoreError

SCORER = "scorer"
"""The seat that answers `Score` calls."""

Result = Reply | ScoreReply | DropError
"""What an engine hands back for a call: its reply, or why there is none."""


class Engine(Protocol):
    """Answers calls. `step` does a slice of work and returns what got finished meanwhile.

    `submit` may raise `DropError` (that call failed) or `EngineError` (the engine is dead); both
    may raise `StoreError` (a picture cannot be read). Whatever else `step` raises means that the
    engine is dead.
    """

    @property
    def determinism(self) -> str:
        """`call`: every call is surely seeded by itself; `engine`: at most the engine is."""
        ...

    def submit(self, call_id: int, call: Call, seed: int | None) -> None:
        """Take a call; its result comes out of a later `step` under *call_id*."""
        ...

    def step(self) -> list[tuple[int, Result]]:
        """Work a little; return the calls that got finished (perhaps none)."""
        ...

    def close(self) -> None:
        """Release what the engine holds."""
        ...


@dataclass(slots=True)
class Usage:
    """What a program has used so far. Tokens are counted by the engine, not guessed."""

    num_calls: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_image_tokens: int = 0
    num_truncated: int = 0

    def add(self, reply: Reply | ScoreReply) -> None:
        """Count one reply."""
        if isinstance(reply, ScoreReply):
            self.num_truncated += reply.num_truncated
            return
        self.num_prompt_tokens += reply.num_prompt_tokens
        self.num_image_tokens += reply.num_image_tokens
        self.num_output_tokens += sum(sample.num_tokens for sample in reply.samples)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: with a row, or with an error that says why there is none."""

    key: str
    row: Any | None
    error: DropError | None
    usage: Usage
    tag: Any = None
    """What was given with the program, for the caller's bookkeeping."""


@dataclass(slots=True)
class _Play:
    """A live program, who answers it, and the calls that it waits for."""

    key: str
    program: Program[Any]
    seed: int
    tag: Any
    seats: Mapping[str, Engine]
    usage: Usage = field(default_factory=Usage)
    waiting: int = 0
    as_list: bool = False
    calls: list[Call] = field(default_factory=list)
    results: list[Result | None] = field(default_factory=list)


def call_seed(run_seed: int, key: str, number: int) -> int:
    """The seed of call *number* of program *key*: 48 bits, the same on every machine."""
    text = f"{run_seed}/{key}/{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


class Driver:
    """Holds the live programs. `add` one, `step`, and take the outcomes; `drive` is the loop.

    `engine_seconds` is the time spent inside the engines so far.
    """

    def __init__(self) -> None:
        self._engines: dict[int, Engine] = {}
        self._in_flight: dict[int, int] = {}
        self._owners: dict[int, tuple[_Play, int, Engine]] = {}
        self._arrived: deque[tuple[int, Result]] = deque()
        self._plays: dict[int, _Play] = {}
        self._ended: list[Outcome] = []
        self._next_id = 0
        self.engine_seconds = 0.0

    @property
    def num_live(self) -> int:
        """Programs that have begun and whose outcome was not taken yet."""
        return len(self._plays) + len(self._ended)

    @property
    def live_tags(self) -> list[Any]:
        """The tags of the programs that wait for an engine."""
        return [play.tag for play in self._plays.values()]

    def add(self, key: str, program: Program[Any], run_seed: int, seats: Mapping[str, Engine],
            tag: Any = None) -> None:
        """Begin *program*: run it up to its first call, and send that.

        *seats* says which engine answers which seat; `""` answers for those without one. The calls'
        seeds come from *run_seed*, *key* and the call's number.
        """
        for engine in seats.values():
            self._engines.setdefault(id(engine), engine)
            self._in_flight.setdefault(id(engine), 0)
        play = _Play(key, program, run_seed, tag, seats)
        self._plays[id(play)] = play
        self._resume(play, None)
        self._deliver()

    def step(self) -> list[Outcome]:
        """Step every engine that has work; resume whoever can go on; return who has ended.

        Raises `EngineError` if an engine died; the live programs are then lost.
        """
        for engine in self._engines.values():
            if self._in_flight[id(engine)]:
                begun = time.perf_counter()
                self._arrived.extend(_step_engine(engine))
                self.engine_seconds += time.perf_counter() - begun
                self._deliver()
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """Close the programs that are still live."""
        for play in self._plays.values():
            play.program.close()
        self._plays.clear()

    def _deliver(self) -> None:
        while self._arrived:
            call_id, result = self._arrived.popleft()
            play, position, engine = self._owners.pop(call_id)
            self._in_flight[id(engine)] -= 1
            if not isinstance(result, DropError):
                play.usage.add(result)
            play.results[position] = _checked(play.calls[position], result)
            play.waiting -= 1
            if not play.waiting:
                self._answer(play)

    def _answer(self, play: _Play) -> None:
        results = play.results
        error = next((r for r in results if isinstance(r, DropError)), None)
        self._resume(play, error or (results if play.as_list else results[0]))

    def _resume(self, play: _Play, value: Any) -> None:
        """Send *value* into the program (or throw it, if it is an error); send its next calls."""
        try:
            if isinstance(value, DropError):
                asked = play.program.throw(value)
            else:
                asked = play.program.send(value)
            while asked == []:
                asked = play.program.send([])
            self._ask(play, asked)
        except StopIteration as stop:
            self._end(play, stop.value, None)
        except DropError as error:
            self._end(play, None, error)
        except (EngineError, StoreError, ConfigError):
            raise
        except Exception as error:  # a bug or an odd reply ends one program, never the batch
            self._end(play, None, DropError("program_error", f"{type(error).__name__}: {error}"))

    def _ask(self, play: _Play, asked: Call | list[Call]) -> None:
        play.as_list = isinstance(asked, list)
        play.calls = asked if isinstance(asked, list) else [asked]
        play.results = [None] * len(play.calls)
        play.waiting = len(play.calls)
        targets = [_engine_of(call, play.seats) for call in play.calls]
        for position, (call, engine) in enumerate(zip(play.calls, targets, strict=True)):
            call_id, self._next_id = self._next_id, self._next_id + 1
            self._owners[call_id] = (play, position, engine)
            self._in_flight[id(engine)] += 1
            seed = call_seed(play.seed, play.key, play.usage.num_calls)
            play.usage.num_calls += 1
            begun = time.perf_counter()
            error = _submit(engine, call_id, call, seed)
            self.engine_seconds += time.perf_counter() - begun
            if error is not None:
                self._arrived.append((call_id, error))

    def _end(self, play: _Play, row: Any | None, error: DropError | None) -> None:
        if row is None and error is None:
            error = DropError("program_error", "the program returned no row")
        del self._plays[id(play)]
        self._ended.append(Outcome(play.key, row, error, play.usage, play.tag))


def _engine_of(call: Call, seats: Mapping[str, Engine]) -> Engine:
    if not isinstance(call, Generate):
        if (scorer := seats.get(SCORER)) is None:
            raise ConfigError("the program compares texts with images, but the job has no scorer: "
                              "give it a CLIP or SigLIP model (search.scorer)")
        return scorer
    engine = seats.get(call.seat) or seats.get("")
    if engine is None:
        raise DropError("no_engine", f"nothing answers {type(call).__name__} calls here")
    return engine


def _submit(engine: Engine, call_id: int, call: Call, seed: int) -> DropError | None:
    try:
        engine.submit(call_id, call, seed)
    except DropError as error:
        return error
    except (EngineError, StoreError, ConfigError):  # no fault of this program alone
        raise
    except Exception as error:  # the engine refused this call; the others go on
        return DropError("engine_error", f"{type(error).__name__}: {error}")
    return None


def _step_engine(engine: Engine) -> list[tuple[int, Result]]:
    try:
        return engine.step()
    except (EngineError, StoreError):  # a picture that cannot be read is no fault of the engine
        raise
    except Exception as error:
        raise EngineError(f"the engine died in a step: {type(error).__name__}: {error}") from error


def _checked(call: Call, result: Result) -> Result:
    """A reply that saw fewer images than were sent is an error, not a reply."""
    if isinstance(call, Generate) and isinstance(result, Reply):
        sent, seen = len(call.images), result.num_images_seen
        if seen < sent:
            return DropError("image_not_seen", f"{sent} images sent, {seen} seen by the engine")
    return result


def drive(
    programs: Iterable[tuple[str, Program[Any]]],
    engines: Mapping[str, Engine],
    live: int,
    run_seed: int,
) -> Iterator[Outcome]:
    """Play *programs* (pairs of row key and program), at most *live* at a time; yield outcomes as
    they come. *engines* maps seats to engines; `""` answers for seats without one of their own.

    Raises `EngineError` if an engine dies; what was yielded before stays valid.
    """
    driver = Driver()
    waiting = iter(programs)
    exhausted = False
    try:
        while driver.num_live or not exhausted:
            while not exhausted and driver.num_live < live:
                following = next(waiting, None)
                exhausted = following is None
                if following is not None:
                    driver.add(*following, run_seed, engines)
            yield from driver.step()
    finally:
        driver.close()
