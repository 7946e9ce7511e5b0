"""The scripted engine: a function answers, and the same configuration gives the same rows."""

import pytest

from model_ops.engines.driver import drive
from model_ops.engines.scripted import ScriptedEngine, load_scripted, reply_with
from model_ops.programs.calls import Program, Sampling
from schemas.errors import ConfigError
from tests.model_ops.engines.plays import HERE, answer, ask


def chatty(num_calls: int) -> Program[list[str]]:
    said = []
    for _ in range(num_calls):
        said.append((yield ask("?", Sampling(temperature=1.0))).text)
    return said


def rows_with(latency: int, live: int) -> dict[str, list[str]]:
    engine = ScriptedEngine(answer, latency=lambda call, seed: 1 + seed % latency)
    programs = ((f"row{n}", chatty(n % 5)) for n in range(40))
    return {o.key: o.row for o in drive(programs, {"": engine}, live, run_seed=9) if o.row}


def test_rows_do_not_depend_on_timing() -> None:
    assert rows_with(latency=1, live=1) == rows_with(latency=7, live=13)


def test_choices_are_answered_with_their_probabilities() -> None:
    call = ask("?", Sampling(choices=("yes", "no")))
    assert reply_with(call, "no").samples[0].choice_probs == (0.0, 1.0)


def test_a_text_that_ends_in_a_kept_stop_was_stopped_by_it() -> None:
    def stopped_by(text: str, keep_stop: bool) -> str | None:
        call = ask("?", Sampling(stop=(".", "!"), keep_stop=keep_stop))
        return reply_with(call, text).samples[0].stopped_by

    assert [stopped_by(text, True) for text in ("a.", "a!", "a. b", "")] == [".", "!", None, None]
    assert stopped_by("a.", False) is None


def test_a_text_stands_for_all_samples() -> None:
    engine = ScriptedEngine(lambda call, seed: "word")
    engine.submit(3, ask("?", Sampling(num_samples=2)), seed=None)
    ((call_id, reply),) = engine.step()
    assert call_id == 3
    assert [sample.text for sample in reply.samples] == ["word", "word"]  # type: ignore[union-attr]


def test_an_engine_is_found_by_name_and_a_wrong_name_says_so() -> None:
    assert isinstance(load_scripted(f"scripted:{HERE}:answer"), ScriptedEngine)
    with pytest.raises(ConfigError, match="no scripted engine at 'scripted:nowhere:f'"):
        load_scripted("scripted:nowhere:f")
