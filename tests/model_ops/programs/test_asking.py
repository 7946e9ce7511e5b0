"""Writing and checking questions: what is asked, what is dropped and why, ids and provenance."""

import json
from pathlib import Path
from shutil import copytree

import pytest

from model_ops.criteria import load_criteria, locate_criteria
from model_ops.engines.scripted import reply_with
from model_ops.programs.asking import asked_id
from model_ops.programs.calls import Call, Generate, Reply, Sample
from model_ops.programs.context import JobContext
from model_ops.prompts import Prompts
from schemas.config import QuestionsConfig
from schemas.errors import ConfigError, DropError
from schemas.questions import QUESTION_TYPES
from schemas.rows import AskedRow
from tests.model_ops.contrastive_world import (
    CRITERIA,
    PROMPTS,
    Imaginer,
    ask_all,
    ask_context,
    slot,
)

UNCHECKED = ask_context(QuestionsConfig(min_type_probability=None))


def test_every_kind_is_written_about_its_image_and_checked() -> None:
    world = Imaginer()
    slots = [slot(number, kind) for number, kind in enumerate(QUESTION_TYPES)]
    rows = [outcome.row for outcome in ask_all(slots, world)]
    assert [row.question_type for row in rows] == list(QUESTION_TYPES)
    for row, planned in zip(rows, slots, strict=True):
        assert isinstance(row, AskedRow)
        assert row.question.startswith(f"What about {row.question_type} number ")
        assert (row.image, row.source, row.type_probability) == (planned.image, "model", 0.9)
        assert (row.num_calls, row.model_digest, row.seed) == (2, "model-digest", 7)
        assert row.prompt_version == PROMPTS.digest
    written = [call for call in world.calls if call.sampling.json_schema]
    checks = [call for call in world.calls if call.sampling.choices]
    assert len(written) == len(checks) == 7
    assert all(call.reward == "" and call.images for call in world.calls)
    assert {(c.sampling.temperature, c.sampling.top_p) for c in written} == {(0.9, 0.95)}
    assert {c.sampling.temperature for c in checks} == {0.0}
    for call in written:
        text = call.messages[-1].parts[-1]
        criterion = next(c for k, c in CRITERIA.criteria.items() if f'"{k}"' in text)
        assert criterion.definition in text and all(e in text for e in criterion.examples)


def test_a_question_that_is_there_is_only_checked() -> None:
    world = Imaginer()
    config = QuestionsConfig(source="file", uri="q.jsonl")
    [outcome] = ask_all([slot(0, "Clear", "How many {things}?")], world, ask_context(config))
    assert (outcome.row.question, outcome.row.source) == ("How many {things}?", "file")
    [check] = world.calls
    assert "How many {things}?" in check.messages[-1].parts[-1]
    assert CRITERIA.of("Clear").definition in check.messages[-1].parts[-1]


def test_without_a_check_nothing_is_asked_about_a_given_question() -> None:
    world = Imaginer()
    [outcome] = ask_all([slot(0, "Clear", "How many?")], world, UNCHECKED)
    assert outcome.row.type_probability is None and outcome.row.num_calls == 0
    assert world.calls == []


@pytest.mark.parametrize(("probability", "least", "reason"), [
    (0.49, 0.5, "type_mismatch"), (0.5, 0.5, None), (0.0, 0.0, None), (0.99, 1.0, "type_mismatch"),
])
def test_a_question_of_another_kind_is_dropped(
    probability: float, least: float, reason: str | None
) -> None:
    context = ask_context(QuestionsConfig(min_type_probability=least))
    [outcome] = ask_all([slot(0, "False Premise")], Imaginer(is_of_kind=probability), context)
    assert (outcome.error.reason if outcome.error else None) == reason
    assert outcome.error is None or "What about False Premise" in outcome.error.detail


def test_a_check_that_cannot_be_read_is_a_mismatch() -> None:
    def answer(call: Call, seed: int) -> Reply | str:
        assert isinstance(call, Generate)
        if not call.sampling.choices:
            return json.dumps({"question": "What?", "why": "so"})
        return Reply((Sample("perhaps", 1, 0.0, "stop", None),), 1, 1, 1)

    [outcome] = ask_all([slot(0, "Clear")], answer)
    assert outcome.error is not None and outcome.error.reason == "type_mismatch"
    assert "'perhaps'" in outcome.error.detail


@pytest.mark.parametrize("said", ["no json", "{}", '{"question": 3}', '{"question": "  "}', "[]",
                                  '{"question": "cut o', ""])
def test_an_unusable_reply_is_asked_for_again_then_dropped(said: str) -> None:
    calls: list[Call] = []

    def answer(call: Call, seed: int) -> str:
        calls.append(call)
        return said

    [outcome] = ask_all([slot(0, "Clear")], answer)
    assert outcome.error is not None and outcome.error.reason == "no_question"
    assert len(calls) == 2


def test_a_second_try_may_be_usable() -> None:
    tries: list[int] = []

    def answer(call: Call, seed: int) -> str:
        tries.append(seed)
        return "sorry" if len(tries) == 1 else '{"question": "What\\n is it?", "why": "x"}'

    [outcome] = ask_all([slot(0, "Clear")], answer, UNCHECKED)
    assert outcome.row.question == "What is it?"
    assert outcome.row.num_calls == 2 and len(set(tries)) == 2


LINES = Prompts("lines", {**PROMPTS.texts, "contrastive.write_reply": "line"}, PROMPTS.digest)


def with_prompts(prompts: Prompts) -> JobContext:  # type: ignore[type-arg]
    return JobContext(prompts, UNCHECKED.settings, 1, "s", "m", 7)


@pytest.mark.parametrize(("said", "finish", "expected"), [
    (" is it\n red ? ", "stop", "is it red ?"), ("", "stop", None), ("is it", "length", None),
])
def test_a_set_may_have_questions_written_on_a_line(
    said: str, finish: str, expected: str | None
) -> None:
    def answer(call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate) and call.sampling.json_schema is None
        return Reply((Sample(said, 3, 0.0, finish),), 1, 1, 1)

    [outcome] = ask_all([slot(0, "Clear")], answer, with_prompts(LINES))
    assert (outcome.row.question if outcome.row else None) == expected
    assert outcome.row or (outcome.error and outcome.error.reason == "no_question")


def test_another_form_of_reply_is_a_configuration_error() -> None:
    odd = Prompts("odd", {**PROMPTS.texts, "contrastive.write_reply": "xml"}, "d")
    with pytest.raises(ConfigError, match="write_reply of the prompt set 'odd' is 'xml': write"):
        ask_all([slot(0, "Clear")], Imaginer(), with_prompts(odd))


def test_a_bad_criteria_set_ends_the_job_not_a_row() -> None:
    with pytest.raises(ConfigError, match="no criteria set 'klingon'"):
        ask_all([slot(0, "Clear")], Imaginer(), ask_context(criteria="klingon"))


def test_a_failed_call_drops_the_question() -> None:
    def answer(call: Call, seed: int) -> Reply:
        raise DropError("context_overflow", "too long")

    [outcome] = ask_all([slot(0, "Clear")], answer)
    assert outcome.error is not None and outcome.error.reason == "context_overflow"


def test_ids_come_from_inputs_and_not_from_where_the_criteria_lie(tmp_path: Path) -> None:
    def id_of(context: JobContext, number: int = 0) -> str:  # type: ignore[type-arg]
        criteria = load_criteria(context.settings.criteria)
        return asked_id(slot(number, "Clear"), context, criteria)

    copy = copytree(locate_criteria("default"), tmp_path / "copy")
    edited = copytree(copy, tmp_path / "edited")
    (edited / "clear.yaml").write_text((edited / "clear.yaml").read_text() + "\n# edited\n")
    warm = ask_context(QuestionsConfig(temperature=1.3))
    assert id_of(ask_context()) == id_of(ask_context(criteria=str(copy)))
    ids = [id_of(ask_context()), id_of(warm), id_of(ask_context(criteria=str(edited))),
           id_of(ask_context(), 1)]
    assert len(set(ids)) == len(ids)
    first, second = (ask_all([slot(0, "Clear")], Imaginer())[0].row for _ in range(2))
    assert first == second


def test_what_the_model_says_is_never_a_template() -> None:
    def answer(call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        if call.sampling.choices:
            assert "{definition} {0} %s" in call.messages[-1].parts[-1]
            return reply_with(call, "yes")
        return reply_with(call, json.dumps({"question": "{definition} {0} %s", "why": ""}))

    [outcome] = ask_all([slot(0, "Clear")], answer)
    assert outcome.row.question == "{definition} {0} %s"
