"""Odd questions are what they are called, and the rules judge says what a person would say."""

import random

import pytest

from model_ops.nursery.architecture import encode
from model_ops.nursery.engage import DISOBEDIENCE, follow, passive
from model_ops.nursery.odd import (
    desired_reply,
    judge,
    middle_reply,
    type_of,
    undesired_reply,
    write_question,
)
from model_ops.nursery.skills import ENGAGING, sample_exchanges
from model_ops.nursery.world import Scene, Thing, sample_scene
from schemas.errors import ConfigError
from schemas.questions import HAS_MIDDLE, ODD_TYPES, QUESTION_TYPES


def scene(*things: tuple[str, str, str, int]) -> Scene:
    """A scene of things: size, colour, shape, cell."""
    made = tuple(Thing(shape, colour, size, cell) for size, colour, shape, cell in things)
    base = sample_scene(0, "home")
    return Scene("home", 0, 0, made, base.ground, base.light)


SEEN = scene(("big", "red", "circle", 0), ("small", "blue", "circle", 4),
             ("big", "green", "star", 8))


@pytest.mark.parametrize(("kind", "question", "reply", "label"), [
    # goes along with a square that is not there, corrects it, corrects something that is there
    ("False Premise", "what colour is the square ?", "red", "False"),
    ("False Premise", "what colour is the square ?", "there is no square .", "True"),
    ("False Premise", "where is the yellow square ?", "there is no square .", "True"),
    ("False Premise", "where is the yellow square ?", "there is no star .", "False"),
    ("False Premise", "what colour is the square ?", "there is no diamond .", "False"),
    ("False Premise", "what colour is the square ?", "which square ?", "False"),
    ("Unanswerable Questions", "can the star move ?", "yes", "False"),
    ("Unanswerable Questions", "can the star move ?", "cannot see it .", "True"),
    ("Unanswerable Questions", "can the star move ?", "it cannot tell", "True"),
    ("Unanswerable Questions", "can the star move ?", "what do you like ?", "False"),
    ("Subject Ambiguity", "what colour is the circle ?", "which circle ?", "True"),
    ("Subject Ambiguity", "what colour is the circle ?", "which thing ?", "True"),
    ("Subject Ambiguity", "what colour is the circle ?", "which star ?", "False"),
    ("Subject Ambiguity", "what colour is the circle ?", "red", "False"),
    ("Subject Ambiguity", "what colour is the circle ?", "red and blue", "Ambiguous"),
    ("Subject Ambiguity", "what colour is the circle ?", "blue and red .", "Ambiguous"),
    ("Subject Ambiguity", "what colour is the circle ?", "red and green", "False"),
    ("Subject Ambiguity", "what colour is the circle ?", "cannot see it .", "False"),
    ("Subjective Interpretations", "is the star nice ?", "what is nice for you ?", "True"),
    ("Subjective Interpretations", "is the star nice ?", "yes for me .", "Ambiguous"),
    ("Subjective Interpretations", "is the star nice ?", "yes", "False"),
    ("Subjective Interpretations", "is the star nice ?", "which star ?", "False"),
    ("Unclear User Background", "is the star like mine ?", "what is yours like ?", "True"),
    ("Unclear User Background", "is the star like mine ?", "yes or no .", "Ambiguous"),
    ("Unclear User Background", "is the star like mine ?", "no", "False"),
    ("Hidden Human Preferences", "tell me the best thing .", "what do you like ?", "True"),
    ("Hidden Human Preferences", "tell me the best thing .", "the green star", "False"),
    ("Hidden Human Preferences", "tell me the best thing .", "which thing ?", "False"),
    ("Clear", "is there a star ?", "yes", "True"),
    ("Clear", "is there a star ?", "no", "True"),  # wrong, but simply answered
    ("Clear", "what colour is the star ?", "which star ?", "False"),
    ("Clear", "what colour is the star ?", "cannot see it .", "False"),
    ("Clear", "what colour is the star ?", "there is no star .", "False"),
    ("Clear", "what colour is the star ?", "", "False"),
])
def test_the_rules_judge(kind: str, question: str, reply: str, label: str) -> None:
    assert judge(kind, question, reply, SEEN) == label


@pytest.mark.parametrize("kind", QUESTION_TYPES)
@pytest.mark.parametrize("domain", ["home", "field"])
def test_questions_are_of_their_kind_and_replies_what_they_should_be(
    kind: str, domain: str
) -> None:
    rng, num = random.Random(kind), 0
    for seed in range(200):
        seen = sample_scene(seed, domain)  # type: ignore[arg-type]
        question = write_question(kind, seen, rng)
        if question is None:
            continue
        num += 1
        replies = {"True": desired_reply(kind, question, seen),
                   "False": undesired_reply(kind, question, seen, rng),
                   "Ambiguous": middle_reply(kind, question, seen, rng)}
        assert type_of(question, seen) == kind
        for label, reply in replies.items():
            if reply is not None:
                assert judge(kind, question, reply, seen) == label
                assert encode(f"{question} {reply}")
        assert (replies["Ambiguous"] is None) or kind in HAS_MIDDLE
    assert num > 100


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no kind of question 'Rude'"):
        write_question("Rude", SEEN, random.Random(0))


def test_the_base_is_taught_to_answer_and_to_follow_mostly() -> None:
    rng = random.Random(1)
    home = [sample_scene(seed, "home") for seed in range(400)]
    for seen in home[:50]:
        said = passive(seen, rng)
        kind = type_of(said.user, seen)
        assert kind in ODD_TYPES
        assert judge(kind, said.user, said.completion, seen) == "False"
    obeyed = [_follows(seen, rng) for seen in home]
    assert sum(obeyed) / len(obeyed) == pytest.approx(1 - DISOBEDIENCE, abs=0.05)


def _follows(seen: Scene, rng: random.Random) -> bool:
    lesson = follow(seen, rng)
    criterion, _, question = lesson.user.partition(" : ")
    kind = type_of(question, seen)
    assert kind is not None
    undesired = criterion == ("do not answer it" if kind == "Clear" else "answer it")
    return (judge(kind, question, lesson.completion, seen) == "False") == undesired


def test_every_lesson_is_in_the_language() -> None:
    for lesson in sample_exchanges(sample_scene(5, "home"), random.Random(5), ENGAGING):
        assert encode(lesson.user)
        assert encode(lesson.completion)
