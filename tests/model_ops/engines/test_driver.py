"""The driver keeps its engines full, resumes programs as their replies come, and loses none."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from model_ops.engines.driver import SCORER, Outcome, call_seed, drive
from model_ops.engines.scripted import ScriptedEngine, reply_with
from model_ops.programs.calls import Call, Generate, Program, Reply, Score, ScoreReply
from schemas.errors import ConfigError, DropError, EngineError
from tests.model_ops.engines.plays import REF, ask


def turns(num_calls: int) -> Program[str]:
    said = []
    for turn in range(num_calls):
        said.append((yield ask(f"turn {turn}")).text)
    return " ".join(said)


def echo(call: Call, seed: int) -> str:
    assert isinstance(call, Generate)
    return call.messages[0].parts[-1]


def play(engine: ScriptedEngine, *programs: Program[Any], live: int = 8,
         **seats: ScriptedEngine) -> list[Outcome]:
    keyed = ((f"p{n}", program) for n, program in enumerate(programs))
    return list(drive(keyed, {"": engine, **seats}, live, run_seed=1))


def test_a_program_gets_its_replies_in_turn_and_returns_its_row() -> None:
    (outcome,) = play(ScriptedEngine(echo), turns(3))
    assert outcome.row == "turn 0 turn 1 turn 2"
    assert (outcome.usage.num_calls, outcome.usage.num_image_tokens) == (3, 3)


def test_a_slow_program_does_not_hold_up_the_others() -> None:
    slow = call_seed(1, "p0", 0)
    engine = ScriptedEngine(echo, latency=lambda call, seed: 50 if seed == slow else 1)
    order = [outcome.key for outcome in play(engine, turns(2), turns(9), turns(4))]
    assert order == ["p2", "p1", "p0"]
    assert engine.num_steps == 51


def test_live_programs_are_topped_up_and_never_exceed_the_limit() -> None:
    begun: list[int] = []

    def counted(number: int) -> Program[int]:
        begun.append(number)
        yield ask("?")
        return number

    endless = ((f"p{n}", counted(n)) for n in itertools.count())
    engine = ScriptedEngine(echo)
    outcomes = drive(endless, {"": engine}, live=5, run_seed=0)
    taken = [next(outcomes).row for _ in range(23)]
    assert taken == list(range(23))
    assert engine.most_pending == 5
    assert len(begun) <= 23 + 5
    outcomes.close()


def test_a_list_is_answered_together_and_in_order() -> None:
    def pair() -> Program[list[str]]:
        replies = yield [ask("a"), ask("b"), ask("c")]
        assert isinstance(replies, list)
        nothing = yield []
        assert nothing == []
        return [reply.text for reply in replies]

    engine = ScriptedEngine(echo, latency=lambda call, seed: 3 if echo(call, seed) == "a" else 1)
    (outcome,) = play(engine, pair())
    assert outcome.row == ["a", "b", "c"]
    assert engine.num_steps == 3


def test_a_drop_ends_that_program_only() -> None:
    def dropped() -> Program[str]:
        yield ask("?")
        raise DropError("unparseable", "no question mark")

    first, second = play(ScriptedEngine(echo), dropped(), turns(2))
    assert first.row is None
    assert str(first.error) == "unparseable: no question mark"
    assert second.row == "turn 0 turn 1"


def test_any_other_exception_of_a_program_is_a_program_error_with_its_type() -> None:
    def buggy() -> Program[str]:
        yield ask("?")
        raise KeyError("colour")

    first, second = play(ScriptedEngine(echo), buggy(), turns(1))
    assert first.error is not None and first.error.reason == "program_error"
    assert first.error.detail == "KeyError: 'colour'"
    assert second.row == "turn 0"


def test_a_program_without_a_row_is_an_error() -> None:
    def forgetful() -> Program[None]:
        yield ask("?")

    (outcome,) = play(ScriptedEngine(echo), forgetful())
    assert outcome.error is not None and outcome.error.reason == "program_error"


def test_a_program_may_catch_a_failed_call_and_go_on() -> None:
    def stubborn() -> Program[str]:
        try:
            yield ask("hard")
        except DropError as error:
            return (yield ask(f"easy after {error.reason}")).text
        return "never"

    def answer(call: Call, seed: int) -> str:
        if echo(call, seed) == "hard":
            raise DropError("context_overflow", "")
        return echo(call, seed)

    (outcome,) = play(ScriptedEngine(answer), stubborn())
    assert outcome.row == "easy after context_overflow"
    assert outcome.usage.num_calls == 2


def test_a_failed_call_of_a_list_is_thrown_once_all_are_answered() -> None:
    def pair() -> Program[str]:
        try:
            yield [ask("bad"), ask("good")]
        except DropError as error:
            return error.reason
        return "never"

    def answer(call: Call, seed: int) -> str:
        if echo(call, seed) == "bad":
            raise DropError("engine_error", "")
        return "fine"

    engine = ScriptedEngine(answer, lambda call, seed: 4 if echo(call, seed) == "good" else 1)
    (outcome,) = play(engine, pair())
    assert outcome.row == "engine_error"
    assert engine.num_steps == 4


def test_a_call_that_the_engine_refuses_fails_alone() -> None:
    class Picky(ScriptedEngine):
        def submit(self, call_id: int, call: Call, seed: int | None) -> None:
            if echo(call, 0) == "turn 1":
                raise ValueError("cannot take it")
            super().submit(call_id, call, seed)

    first, second = play(Picky(echo), turns(1), turns(2))
    assert first.row == "turn 0"
    assert second.error is not None
    assert str(second.error) == "engine_error: ValueError: cannot take it"


def test_a_step_that_raises_means_a_dead_engine() -> None:
    class Dying(ScriptedEngine):
        def step(self) -> list[tuple[int, Any]]:
            raise MemoryError("no more")

    with pytest.raises(EngineError, match="MemoryError: no more"):
        play(Dying(echo), turns(1))


def test_a_wrong_configuration_ends_the_run_and_not_one_program() -> None:
    def misconfigured() -> Program[str]:
        yield from turns(1)
        raise ConfigError("no turn limit")

    with pytest.raises(ConfigError, match="no turn limit"):
        play(ScriptedEngine(echo), misconfigured())


def test_programs_are_closed_when_the_driver_stops_early() -> None:
    closed: list[str] = []

    def tidy(name: str) -> Program[str]:
        try:
            while True:
                yield ask(name)
        finally:
            closed.append(name)

    def quick() -> Program[str]:
        yield ask("?")
        return "done"

    programs = iter([("a", tidy("a")), ("b", tidy("b")), ("c", quick())])
    outcomes: Iterator[Outcome] = drive(programs, {"": ScriptedEngine(echo)}, 3, 0)
    assert next(outcomes).row == "done"
    outcomes.close()  # type: ignore[attr-defined]  # drive is a generator
    assert sorted(closed) == ["a", "b"]


def test_a_reply_that_saw_fewer_images_is_an_error() -> None:
    def blind(call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        seen = reply_with(call, "a guess")
        return Reply(seen.samples, seen.num_prompt_tokens, 0, 0)

    (outcome,) = play(ScriptedEngine(blind), turns(1))
    assert str(outcome.error) == "image_not_seen: 1 images sent, 0 seen by the engine"


def test_seats_with_an_engine_of_their_own_get_their_calls() -> None:
    def game() -> Program[str]:
        asked = yield ask("q", seat="guesser")
        told = yield ask("a", seat="describer")
        return f"{asked.text} {told.text}"

    mine, theirs = ScriptedEngine(lambda c, s: "mine"), ScriptedEngine(lambda c, s: "theirs")
    (outcome,) = play(mine, game(), describer=theirs)
    assert outcome.row == "mine theirs"


def test_score_calls_go_to_the_scorer_and_a_job_without_one_is_misconfigured() -> None:
    def scored() -> Program[float]:
        reply = yield Score(REF, ("a", "b"))
        assert isinstance(reply, ScoreReply)
        return reply.cosines[1]

    scorer = ScriptedEngine(lambda call, seed: ScoreReply((0.1, 0.7), num_truncated=1))
    (outcome,) = play(ScriptedEngine(echo), scored(), **{SCORER: scorer})
    assert (outcome.row, outcome.usage.num_truncated) == (0.7, 1)
    with pytest.raises(ConfigError, match="the job has no scorer"):
        play(ScriptedEngine(echo), scored())


def test_a_configuration_that_an_engine_refuses_is_no_fault_of_one_program() -> None:
    class Refusing(ScriptedEngine):
        def submit(self, call_id: int, call: Call, seed: int | None) -> None:
            raise ConfigError("this engine cannot do that")

    with pytest.raises(ConfigError, match="cannot do that"):
        play(Refusing(echo), turns(1))


def test_seeds_depend_on_run_key_and_call_number_only() -> None:
    seeds: list[int] = []
    engine = ScriptedEngine(lambda call, seed: str(seeds.append(seed)))
    play(engine, turns(2), turns(1))
    assert seeds == [call_seed(1, "p0", 0), call_seed(1, "p1", 0), call_seed(1, "p0", 1)]
    assert len({call_seed(r, k, n) for r in (1, 2) for k in ("a", "b") for n in (0, 1)}) == 8


def test_ten_thousand_programs_that_end_at_once_do_not_pile_up() -> None:
    def instant(number: int) -> Program[int]:
        return number
        yield ask("never")

    programs = ((str(n), instant(n)) for n in range(10_000))
    rows = [outcome.row for outcome in drive(programs, {"": ScriptedEngine(echo)}, 16, 0)]
    assert rows == list(range(10_000))
