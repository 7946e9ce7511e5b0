"""Reading replies: what is usable and what is not."""

import json

import pytest

from model_ops.engines.scripted import reply_with
from model_ops.programs.calls import Generate, Program, Reply, Sample, Sampling
from model_ops.programs.guesser_joint import QUESTION_SCHEMA, decision_schema
from model_ops.programs.guesser_per_image import beliefs_after
from model_ops.programs.replies import (
    normalise,
    parse_decision,
    parse_object,
    parse_position,
    parse_question,
    question_json,
    yes_probability,
)
from model_ops.programs.steps import Meter, generate_all, metered
from schemas.errors import DropError

DECISION = {"summary": "red  one", "images": ["fits", "ruled out"], "ready": True, "guess": 1,
            "confidence": 0.9}


def test_json_is_found_in_prose_and_fences() -> None:
    assert parse_object('Sure!\n```json\n{"a": {"b": "}"}}\n``` done') == {"a": {"b": "}"}}
    assert parse_object("[1]") is None
    assert parse_object('{"a": ') is None


def test_questions() -> None:
    assert parse_question(question_json("Is it\n red?")) == "Is it red?"
    assert parse_question('{"question": ""}') is None
    assert parse_question('{"question": 3}') is None
    assert parse_question("Is it red?") is None


def test_a_decision_counts_from_zero_and_survives_a_round_trip() -> None:
    decision = parse_decision(json.dumps(DECISION), 2)
    assert decision is not None
    assert (decision.guess, decision.summary) == (0, "red one")
    assert parse_decision(decision.as_json(), 2) == decision
    undecided = parse_decision(json.dumps(DECISION | {"guess": None}), 2)
    assert undecided is not None
    assert json.loads(undecided.as_json())["guess"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"guess": 3}, {"guess": 0}, {"guess": True}, {"guess": "1"}, {"ready": "yes"},
        {"images": ["fits"]}, {"images": ["fits", "perhaps"]}, {"images": "fits"},
        {"confidence": 2}, {"confidence": "high"}, {"summary": None},
    ],
)
def test_a_decision_out_of_range_is_none(change: dict[str, object]) -> None:
    assert parse_decision(json.dumps(DECISION | change), 2) is None


def test_positions() -> None:
    assert [parse_position(text, 4) for text in ("1", " 4.", "Image 2")] == [0, 3, 1]
    assert [parse_position(text, 4) for text in ("5", "0", "", "1 or 2")] == [None] * 4


def test_yes_probability_prefers_the_engines() -> None:
    sample = Sample("no", 1, 0.0, "stop", (0.3, 0.7))
    assert yes_probability(Reply((sample,), 1, 1, 1)) == 0.3
    call = Generate((), ())
    assert yes_probability(reply_with(call, "Yes.")) == 1.0
    assert yes_probability(reply_with(call, "no")) == 0.0
    assert yes_probability(reply_with(call, "maybe")) is None


def test_normalise() -> None:
    assert normalise(" Top-Left. ") == "top left"


def test_beliefs_multiply_pair_verdicts_and_replace_dialog_verdicts() -> None:
    fits = [[0.9, 0.1], [0.8, 0.5]]
    assert beliefs_after(fits, "pair", 0.02) == pytest.approx([0.72 / 0.77, 0.05 / 0.77])
    assert beliefs_after(fits, "dialog", 0.02) == pytest.approx([0.8 / 1.3, 0.5 / 1.3])


def test_one_wrong_verdict_can_be_made_good() -> None:
    beliefs = beliefs_after([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], "pair", 0.02)
    assert beliefs == pytest.approx([0.98, 0.02])
    many = beliefs_after([[1.0, 0.0]] * 500, "pair", 0.02)
    assert many[0] == pytest.approx(1.0)
    assert sum(many) == pytest.approx(1.0)


def test_schemas_name_every_field_and_number() -> None:
    schema = json.loads(decision_schema(4))
    assert set(schema["required"]) == set(DECISION)
    assert schema["properties"]["guess"]["enum"] == [1, 2, 3, 4, None]
    assert schema["properties"]["images"]["minItems"] == 4
    assert json.loads(QUESTION_SCHEMA)["required"] == ["question"]


def test_no_calls_means_no_question_asked() -> None:
    with pytest.raises(StopIteration) as stop:
        next(generate_all([]))
    assert stop.value.value == []


def test_the_meter_passes_errors_on_and_counts_only_replies() -> None:
    call = Generate((), (), Sampling())

    def careful() -> Program[str]:
        try:
            yield call
        except DropError as error:
            yield [call, call]
            return error.reason
        return "no error"

    meter = Meter()
    program = metered(careful(), meter)
    assert next(program) == call
    assert program.throw(DropError("engine_error")) == [call, call]
    with pytest.raises(StopIteration) as stop:
        program.send([reply_with(call, "a b"), reply_with(call, "c")])
    assert stop.value.value == "engine_error"
    assert (meter.num_calls, meter.num_output_tokens) == (2, 3)
