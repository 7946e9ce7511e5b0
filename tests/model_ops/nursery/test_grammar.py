"""Every answer is right, by a second reading of the question that shares no code with
grammar.solve.
"""

import random
from collections import Counter
from typing import Any

import pytest

from model_ops.nursery.architecture import encode
from model_ops.nursery.domains import Domain
from model_ops.nursery.grammar import KINDS, WORDS, caption, kind_of, sample_questions, solve
from model_ops.nursery.skills import SHARES, ask, corrupt, fit, sample_exchanges
from model_ops.nursery.world import sample_scene

NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def true_answer(text: str, things: list[dict[str, Any]]) -> str | None:
    """Answer by word lists over the facts; None where the question assumes something wrong."""
    head, _, place = text.removesuffix(" ?").partition(" at the ")
    words = [
        {"crosses": "cross"}.get(w, w.removesuffix("s") if w.endswith("s") and w != "cross" else w)
        for w in head.split()
    ]
    described = [set(thing.values()) | {"thing"} for thing in things]
    if text.startswith("is the thing at the"):
        *where, value = place.replace(" a ", " ").split()
        here = [
            d for d, t in zip(described, things, strict=True) if t["position"] == " ".join(where)
        ]
        return None if not here else "yes" if value in here[0] else "no"
    asked = {w for w in words if any(w in values for values in _values())}
    matching = [
        thing
        for thing, d in zip(things, described, strict=True)
        if asked <= d and (not place or thing["position"] == place)
    ]
    if text.startswith("how many"):
        return NUMBER_WORDS[len(matching)]
    if text.startswith("is there"):
        return "yes" if matching else "no"
    if len(matching) != 1:
        return None
    asked_for = "position" if text.startswith("where") else text.split()[1]
    return str(matching[0][asked_for])


def _values() -> list[set[str]]:
    return [
        {"red", "green", "blue", "yellow", "purple", "orange"},
        {"circle", "square", "triangle", "cross", "star", "diamond"},
        {"big", "small"},
    ]


@pytest.mark.parametrize("domain", ["home", "field"])
def test_every_answer_is_right(domain: Domain) -> None:
    rng = random.Random(1)
    kinds: Counter[str] = Counter()
    for seed in range(400):
        scene = sample_scene(seed, domain)
        for question in sample_questions(scene, rng, 10):
            assert question.answer == true_answer(question.text, scene.facts()["things"]), question
            assert kind_of(question.text) == question.kind
            kinds[question.kind] += 1
    assert set(kinds) == set(KINDS)
    assert kinds["yesno"] / kinds.total() == pytest.approx(0.5, abs=0.06)


def test_solve_agrees_about_other_scenes_too() -> None:
    """Questions carried to another scene: what they assume fails, and both readings notice."""
    rng = random.Random(2)
    unanswerable = 0
    for seed in range(300):
        scene, other = sample_scene(seed, "home"), sample_scene(seed + 1000, "home")
        for question in sample_questions(scene, rng, 8):
            expected = true_answer(question.text, other.facts()["things"])
            assert solve(question.text, other) == expected, question
            unanswerable += expected is None
    assert unanswerable > 100


def test_yes_and_no_are_balanced_and_negatives_are_hard() -> None:
    rng = random.Random(3)
    answers: Counter[str] = Counter()
    near = 0
    for seed in range(500):
        scene = sample_scene(seed, "field")
        present = {t.colour for t in scene.things} | {t.shape for t in scene.things}
        for question in sample_questions(scene, rng, 6, kinds=("yesno",)):
            answers[question.answer] += 1
            named = [
                w for w in question.text.split() if any(w in values for values in _values()[:2])
            ]
            near += question.answer == "no" and len(named) == 2 and set(named) <= present
    assert answers["yes"] / answers.total() == pytest.approx(0.5, abs=0.03)
    assert near / answers["no"] > 0.15


@pytest.mark.parametrize(
    "text", ["", "is there a circle", "where is the red red circle ?", "how many thing are there ?"]
)
def test_what_is_no_question_has_no_answer(text: str) -> None:
    assert solve(text, sample_scene(0, "home")) is None
    assert kind_of(text) is None


def test_caption_is_a_sentence_a_thing_in_reading_order() -> None:
    scene = sample_scene(4, "field")
    sentences = [s for s in caption(scene).split(" .") if s]
    assert len(sentences) == len(scene.things)
    for said, thing in zip(sentences, sorted(scene.things, key=lambda t: t.cell), strict=True):
        assert (
            said.strip() == f"a {thing.size} {thing.colour} {thing.shape} at the {thing.position}"
        )


def test_every_exchange_is_in_the_vocabulary() -> None:
    assert 80 <= len(WORDS) <= 110 and len(set(WORDS)) == len(WORDS)
    rng = random.Random(5)
    for seed in range(100):
        exchanges = sample_exchanges(sample_scene(seed, "field"), rng)
        assert len(exchanges) == sum(SHARES.values())
        for exchange in exchanges:
            assert encode(f"{exchange.user} {exchange.completion}")


def test_ask_does_not_repeat_and_asks_answerable_questions() -> None:
    rng = random.Random(6)
    asked: Counter[str] = Counter()
    for seed in range(400):
        scene = sample_scene(seed, "home")
        exchange = ask(scene, rng)
        assert exchange.completion not in exchange.user
        assert true_answer(exchange.completion, scene.facts()["things"]) is not None
        asked[str(kind_of(exchange.completion))] += 1
    assert min(asked[kind] for kind in KINDS) > 30


def test_fit_says_whether_all_answers_hold() -> None:
    rng = random.Random(7)
    verdicts: Counter[str] = Counter()
    for seed in range(600):
        scene = sample_scene(seed, "home")
        exchange = fit(scene, rng)
        body = exchange.user.removeprefix("does this fit : ").removesuffix(" ; answer yes or no .")
        holds = []
        for pair in body.split(" ; "):
            question, _, said = pair.partition(" ? ")
            holds.append(true_answer(f"{question} ?", scene.facts()["things"]) == said)
        assert exchange.completion == ("yes" if all(holds) else "no"), exchange
        verdicts[exchange.completion] += 1
    assert verdicts["yes"] / verdicts.total() == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("true", ["yes", "red", "cross", "small", "top left", "zero", "nine"])
def test_corrupt_is_wrong_but_of_the_type(true: str) -> None:
    rng = random.Random(8)
    wrong = {corrupt(true, rng) for _ in range(50)}
    assert true not in wrong and wrong <= {
        *WORDS,
        "top left",
        "top right",
        "bottom left",
        "bottom right",
    }
