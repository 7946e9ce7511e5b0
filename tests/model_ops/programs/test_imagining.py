"""Self-imagination and its judge: two calls, clear questions as asked, tries, verdicts, ids."""

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from model_ops.criteria import load_criteria, locate_criteria
from model_ops.curation.pair_checks import form_problem
from model_ops.engines.scripted import reply_with
from model_ops.programs.calls import Call, Generate, Reply, Sample, Sampling
from model_ops.programs.contrastive_messages import (
    imagine_messages,
    label_texts,
    question_messages,
    render_rubric,
)
from model_ops.programs.imagining import imagined_id
from model_ops.programs.judging import Verdict, judge_call, read_verdict
from schemas.config import ImagineConfig
from schemas.errors import DropError
from schemas.questions import CLEAR, HAS_MIDDLE, QUESTION_TYPES
from schemas.rows import ImaginedRow
from tests.model_ops.contrastive_world import (
    CRITERIA,
    DESIRED,
    PROMPTS,
    UNDESIRED,
    Imaginer,
    asked,
    imagine_all,
    imagine_context,
    is_bare,
)

MIDDLE, TWO = CRITERIA.of("Subject Ambiguity"), CRITERIA.of("False Premise")
UNDER_A_CRITERION = Sampling(temperature=0.7, top_p=0.9, max_tokens=256, num_samples=4)


@pytest.mark.parametrize("clear_as_asked", [True, False])
def test_both_replies_of_all_kinds_are_imagined_and_judged(clear_as_asked: bool) -> None:
    world, context = Imaginer(), imagine_context(ImagineConfig(clear_as_asked=clear_as_asked))
    questions = [asked(number, kind) for number, kind in enumerate(QUESTION_TYPES)]
    outcomes = imagine_all(questions, world, context)
    for outcome, question in zip(outcomes, questions, strict=True):
        row = outcome.row
        assert row is not None
        kind = question.question_type
        assert (row.desired, row.undesired) == (DESIRED[kind], UNDESIRED[kind])
        assert (row.desired_label, row.undesired_label) == ("True", "False")
        assert (row.desired_probability, row.undesired_probability) == (0.8, 0.1)
        assert (row.image, row.question) == (question.image, question.question)
        assert (row.num_calls, row.criteria_version) == (4, CRITERIA.digest)
        assert (row.desired_logprob, row.desired_finish) == (-2.0, "stop")
        num_samples = 5 if question.question_type == CLEAR and clear_as_asked else 8
        assert row.num_output_tokens == 5 * num_samples + 2, "all samples and both verdicts"
        assert row.num_prompt_tokens == 2 * 30 + 2 * 20
    bare = [call for call in world.calls if is_bare(call)]
    assert len(bare) == clear_as_asked
    assert all(call.reward == "" for call in world.calls if call not in bare)
    imagined = [c for c in world.calls if not c.sampling.choices and c not in bare]
    assert len(imagined) == 14 - len(bare)
    assert {call.sampling for call in imagined} == {UNDER_A_CRITERION}
    judged = [call for call in world.calls if call.sampling.choices]
    assert {(c.sampling.temperature, c.sampling.top_p) for c in judged} == {(0.0, 1.0)}
    assert sorted(len(c.sampling.choices or ()) for c in judged) == [2] * 8 + [3] * 6


def heard_by_the_model(kind: str, config: ImagineConfig) -> list[tuple[Generate, int]]:
    """The calls, with their seeds, that one question of a kind takes."""
    heard: list[tuple[Generate, int]] = []

    def answer(call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        heard.append((call, seed))
        return reply_with(call, *["x"] * call.sampling.num_samples)

    imagine_all([asked(0, kind)], answer, imagine_context(config))
    return heard


@pytest.mark.parametrize("kind", QUESTION_TYPES)
@pytest.mark.parametrize("clear_as_asked", [True, False])
def test_replies_differ_in_their_criterion_alone_and_are_asked_together(
    kind: str, clear_as_asked: bool
) -> None:
    config = ImagineConfig(judge=False, clear_as_asked=clear_as_asked)
    (first, one), (second, two) = heard_by_the_model(kind, config)
    criterion, image = CRITERIA.of(kind), asked(0, kind).image
    assert one != two, "equal seeds would couple the two samples"
    assert second == Generate(imagine_messages(PROMPTS, criterion.undesired, "What is it?"),
                              (image,), UNDER_A_CRITERION, reward="")
    if kind == CLEAR and clear_as_asked:
        assert first == Generate(question_messages(PROMPTS, "What is it?"), (image,),
                                 Sampling(max_tokens=256), reward=None)
        return
    texts = [call.messages[-1].parts[-1] for call in (first, second)]
    assert criterion.desired in texts[0] and criterion.undesired in texts[1]
    assert texts[0].replace(criterion.desired, "") == texts[1].replace(criterion.undesired, "")
    assert replace(first, messages=second.messages) == second


def test_a_clear_question_as_asked_is_as_long_as_the_others_and_no_warmer() -> None:
    config = ImagineConfig(judge=False, temperature=1.3, max_tokens=9)
    (first, _), (second, _) = heard_by_the_model(CLEAR, config)
    assert (first.sampling, first.reward) == (Sampling(max_tokens=9), None)
    assert second.sampling == Sampling(1.3, 0.9, 9, 4)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("num_tries", [1, 3])
def test_a_reply_is_tried_as_often_as_told_but_once_if_all_tries_were_the_same(
    num_tries: int, temperature: float
) -> None:
    config = ImagineConfig(num_tries=num_tries, temperature=temperature)
    calls = [call for call, _ in heard_by_the_model("False Premise", config)]
    wanted = num_tries if temperature else 1
    assert [call.sampling.num_samples for call in calls] == [wanted, wanted, 1, 1]


@pytest.mark.parametrize("kind", ["False Premise", CLEAR])
def test_without_a_judge_there_are_two_calls_and_no_labels(kind: str) -> None:
    world = Imaginer()
    context = imagine_context(ImagineConfig(judge=False))
    [outcome] = imagine_all([asked(0, kind)], world, context)
    assert outcome.row is not None and outcome.row.num_calls == len(world.calls) == 2
    assert outcome.row.desired_label is outcome.row.undesired_probability is None


# --- tries ---


def sampled(
    kind: str, desired: tuple[str, ...], undesired: tuple[str, ...], config: ImagineConfig
) -> tuple[ImaginedRow, list[Generate]]:
    """The row when these are the samples of the two replies, and the judge's calls."""
    judged: list[Generate] = []

    def answer(call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        if call.sampling.choices:
            judged.append(call)
            return reply_with(call, call.sampling.choices[0])
        texts = undesired if CRITERIA.of(kind).undesired in call.messages[-1].parts[-1] else desired
        assert len(texts) == call.sampling.num_samples
        samples = [Sample(text, number + 1, -float(number), "length" if number else "stop")
                   for number, text in enumerate(texts)]
        return Reply(tuple(samples), 30, 1, 9)

    [outcome] = imagine_all([asked(0, kind)], answer, imagine_context(config))
    assert isinstance(outcome.row, ImaginedRow)
    return outcome.row, judged


ASKING, CONFIDENT = DESIRED["Subject Ambiguity"], UNDESIRED["Subject Ambiguity"]
THREE = ImagineConfig(num_tries=3)


@pytest.mark.parametrize(("desired", "undesired", "picked"), [
    ((ASKING, "Or is it which?", "Red."), (CONFIDENT, "It is blue.", "Which?"), (0, 0)),
    (("It is red.", f" {ASKING}\n", "Which?"), ("Which?", "Why?", CONFIDENT), (1, 2)),
    (("It is red.", "Blue.", ASKING), (CONFIDENT, "It is blue.", "Which?"), (2, 0)),
    (("It is red.", "Blue.", "Green."), ("Which?", "Why?", "Who?"), (0, 0)),
    (("It is red.", "Blue.", ASKING), ("Which?", "Why?", "Who?"), (2, 0)),
    (("Which you you?", "which?", "Which?"), ("Blue", "it is red.", "It is red."), (1, 1)),
])
def test_what_most_samples_of_the_right_form_say_is_taken_or_else_the_first(
    desired: tuple[str, ...], undesired: tuple[str, ...], picked: tuple[int, int]
) -> None:
    row, judged = sampled("Subject Ambiguity", desired, undesired, THREE)
    one, other = picked
    assert (row.desired, row.undesired) == (desired[one].strip(), undesired[other].strip())
    assert (row.desired_logprob, row.undesired_logprob) == (-one, -other)
    assert (row.desired_finish, row.undesired_finish) == tuple(
        "length" if number else "stop" for number in picked)
    assert (row.num_calls, row.num_output_tokens) == (4, 2 * (1 + 2 + 3) + 2)
    told = [call.messages[-1].parts[-1] for call in judged]
    for text, chosen, samples in zip(told, picked, (desired, undesired), strict=True):
        assert [sample.strip() in text for sample in samples] == [
            number == chosen for number in range(3)], "the judge reads what was taken, alone"


@pytest.mark.parametrize("kind", QUESTION_TYPES)
def test_one_well_formed_sample_of_each_reply_is_enough_for_curation(kind: str) -> None:
    config = ImagineConfig(num_tries=3, clear_as_asked=False, judge=False)
    right, wrong = DESIRED[kind], UNDESIRED[kind]
    row, _ = sampled(kind, (wrong, right, wrong), (right, right, wrong), config)
    assert row.desired == right and form_problem(row, CRITERIA.of(kind)) is None
    row, _ = sampled(kind, (wrong,) * 3, (right,) * 3, config)
    assert row.desired == wrong and form_problem(row, CRITERIA.of(kind)) is not None


def test_a_clear_question_as_asked_is_answered_once_and_its_refusal_tried() -> None:
    right, wrong = DESIRED[CLEAR], UNDESIRED[CLEAR]
    row, _ = sampled(CLEAR, (wrong,), (right, wrong, "Sorry?"), THREE)
    assert (row.desired, row.undesired) == (wrong, wrong), "what the model says is what it says"
    row, _ = sampled(CLEAR, (right,), (right, "Red.", "Blue."), THREE)
    assert (row.desired, row.undesired, row.undesired_logprob) == (right, right, 0.0)


def test_what_is_sampled_changes_no_id() -> None:
    rows = [sampled("Subject Ambiguity", *texts, THREE)[0] for texts in (
        ((ASKING, "Red.", "Blue."), (CONFIDENT, "Red.", "Blue.")),
        (("Red.", "Blue.", "Which?"), ("Which?", "Red.", "Blue.")),
        (("", "", ""), ("Which?", "Which?", "Which?")))]
    assert len({row.row_id for row in rows}) == 1
    assert len({(row.desired, row.undesired) for row in rows}) == 3
    assert rows[0].row_id == imagined_id(asked(0, "Subject Ambiguity"), imagine_context(THREE),
                                         CRITERIA)


# --- the judge ---


def test_a_judge_that_names_no_label_loses_nothing() -> None:
    def by_text(call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        return Reply((Sample("dunno", 1, 0.0, "stop", None),), 1, 1, 1)

    def refusing(call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        if call.sampling.choices:
            raise DropError("not_a_choice", "'dunno' is none of True, False")
        return reply_with(call, "x")

    for answer in (by_text, refusing):
        [outcome] = imagine_all([asked(0, "Clear")], answer)
        assert outcome.row is not None
        assert (outcome.row.desired_label, outcome.row.undesired_label) == ("ParseError",) * 2
        assert outcome.row.desired_probability == 0.0


@pytest.mark.parametrize("judging", [True, False])
def test_other_failures_of_a_call_drop_the_row(judging: bool) -> None:
    def answer(call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        if bool(call.sampling.choices) == judging:
            raise DropError("endpoint_timeout", "60 s")
        return reply_with(call, "x")

    [outcome] = imagine_all([asked(0, "Clear")], answer)
    assert outcome.error is not None and outcome.error.reason == "endpoint_timeout"


@pytest.mark.parametrize(("said", "probs", "expected"), [
    ("True", (0.7, 0.2, 0.1), Verdict("True", 0.7)),
    ("Ambiguous", (0.3, 0.4, 0.3), Verdict("Ambiguous", 0.3)),
    ("False", (0.1, 0.2, 0.7), Verdict("False", 0.1)),
    (" **true**. ", None, Verdict("True", 1.0)), ("false", None, Verdict("False", 0.0)),
    ("Flag: True", None, Verdict("ParseError", 0.0)), ("", None, Verdict("ParseError", 0.0)),
    ("Truefalse", (0.5, 0.3, 0.2), Verdict("ParseError", 0.0)),
])
def test_a_verdict_is_read_by_its_label(
    said: str, probs: tuple[float, ...] | None, expected: Verdict
) -> None:
    reply = Reply((Sample(said, 1, 0.0, "stop", probs),), 1, 1, 1)
    assert read_verdict(reply, MIDDLE, PROMPTS) == expected


def test_a_kind_without_a_middle_has_no_ambiguous_label() -> None:
    reply = Reply((Sample("Ambiguous", 1, 0.0, "stop", None),), 1, 1, 1)
    assert read_verdict(reply, TWO, PROMPTS).label == "ParseError"
    for kind in QUESTION_TYPES:
        texts = label_texts(PROMPTS, CRITERIA.of(kind))
        assert list(texts) == (["True", "Ambiguous", "False"] if kind in HAS_MIDDLE
                               else ["True", "False"])
        assert len(render_rubric(PROMPTS, CRITERIA.of(kind)).splitlines()) == len(texts)


def test_a_judge_sees_image_question_reply_and_rubric_and_sits_where_it_is_told() -> None:
    image = asked(0, "Clear").image
    call = judge_call(PROMPTS, MIDDLE, "Which {car}?", "The red {one}.", image, seat="judge")
    text = call.messages[-1].parts[-1]
    assert call.images == (image,) and call.seat == "judge" and call.reward == ""
    assert all(said in text for said in ("Which {car}?", "The red {one}.", MIDDLE.definition,
                                         MIDDLE.rubric.true, MIDDLE.rubric.false))


def test_the_question_is_asked_bare() -> None:
    assert question_messages(PROMPTS, "Is it {red}?")[-1].parts == ("<image>", "Is it {red}?")


def test_ids_come_from_inputs_and_not_from_where_the_criteria_lie(tmp_path: Path) -> None:
    def id_of(**changes: object) -> str:
        config = ImagineConfig().model_copy(update=changes)
        return imagined_id(asked(0, "Clear"), imagine_context(config),
                           load_criteria(config.criteria))

    copy = copytree(locate_criteria("default"), tmp_path / "copy")
    assert id_of() == id_of(criteria=str(copy))
    (copy / "clear.yaml").write_text((copy / "clear.yaml").read_text() + "\n")
    context = imagine_context()
    other_model = imagined_id(asked(0, "Clear"), replace(context, model_digest="n"), CRITERIA)
    ids = [id_of(), id_of(criteria=str(copy)), id_of(temperature=1.0), id_of(judge=False),
           id_of(num_tries=1), id_of(clear_as_asked=False), other_model]
    assert len(set(ids)) == len(ids)


def test_a_clear_question_is_looked_at_again_and_most_looks_decide() -> None:
    said = {"": "red", "deeper": "blue", "deepest": "Blue."}
    heard: list[str] = []

    def answer(call: Call, seed: int) -> str:
        assert isinstance(call, Generate)
        if not is_bare(replace(call, look="")):
            return "Which one do you mean?"
        heard.append(call.look)
        return said[call.look]

    settings = ImagineConfig(looks=["deeper", "deepest"], judge=False)
    (outcome,) = imagine_all([asked(0, CLEAR)], answer, imagine_context(settings))
    assert heard == ["", "deeper", "deepest"]
    assert outcome.row is not None
    assert outcome.row.desired == "blue"


def test_among_equally_many_looks_the_image_as_it_is_decides() -> None:
    def answer(call: Call, seed: int) -> str:
        assert isinstance(call, Generate)
        return call.look or "as it is"

    settings = ImagineConfig(looks=["deeper", "deepest"], judge=False)
    (outcome,) = imagine_all([asked(0, CLEAR)], answer, imagine_context(settings))
    assert outcome.row is not None
    assert outcome.row.desired == "as it is"


def test_a_desired_reply_is_imagined_in_every_light_and_most_of_the_right_form_decide() -> None:
    said = {"": "which you ?", "deeper": "which one ?", "deepest": "Which one?", "dimmed": "red"}
    settings = ImagineConfig(looks=["deeper", "deepest", "dimmed"], num_tries=3, judge=False)

    def answer(call: Call, seed: int) -> str:
        assert isinstance(call, Generate)
        under = CRITERIA.of("Subject Ambiguity").undesired
        if under in call.messages[-1].parts[-1]:
            assert (call.look, call.sampling.num_samples) == ("", 3)
            return "red"
        assert call.sampling.num_samples == 1
        return said[call.look]

    (outcome,) = imagine_all([asked(0, "Subject Ambiguity")], answer, imagine_context(settings))
    assert outcome.row is not None
    assert (outcome.row.desired, outcome.row.undesired) == ("which one ?", "red")
