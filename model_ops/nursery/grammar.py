"""The nursery's language: its words, its questions, and what is true.

One idea: a question is text, and solve() is the only judge of text, so questions are sampled by
writing candidate texts and asking solve() for their answers. Words are lower case, separated by
single spaces, one token each. What the model is asked to do with questions is skills.py's.
"""

import random
import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from model_ops.nursery.world import COLOURS, POSITIONS, SHAPES, SIZES, Scene, Thing

PLURALS = {
    "things": "thing",
    **{f"{shape}es" if shape == "cross" else f"{shape}s": shape for shape in SHAPES},
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KINDS = ("yesno", "attribute", "count", "position")
_TRIES = 40
KIND_WEIGHTS = {"yesno": 0.5, "attribute": 0.2, "count": 0.1, "position": 0.2}
_FUNCTION_WORDS = "? . ; : a the is are there at what where how many yes no thing"
_PLACE_WORDS = "top bottom left right center colour shape size"
_PROMPT_WORDS = (
    "describe image ask question does this fit answer or guess which "
    "first second third fourth none both"
)
_ENGAGING_WORDS = (
    "good bad that not and but it can cannot tell see do move help me best unclear wait "
    "nice than mine yours for you like bigger"
)
WORDS: tuple[str, ...] = (
    *_FUNCTION_WORDS.split(),
    *COLOURS,
    *SHAPES,
    *SIZES,
    *_PLACE_WORDS.split(),
    *PLURALS,
    *NUMBERS,
    *_PROMPT_WORDS.split(),
    *_ENGAGING_WORDS.split(),
)
"""Every word there is. A word's id is its place: a new one takes the place of a word not in use."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one scene with its true answer; `kind` is one of KINDS."""

    kind: str
    text: str
    answer: str


_SIZE, _COLOUR = f"(?:(?P<size>{'|'.join(SIZES)}) )?", f"(?:(?P<colour>{'|'.join(COLOURS)}) )?"
_NOUN = f"{_SIZE}{_COLOUR}(?P<shape>thing|{'|'.join(SHAPES)})"
_NOUNS = f"{_SIZE}{_COLOUR}(?P<shape>{'|'.join(PLURALS)})"
_PLACE = f"(?P<place>{'|'.join(sorted(POSITIONS, key=len, reverse=True))})"
_IS_VALUE = "|".join((*COLOURS, *SIZES, *(f"a {shape}" for shape in SHAPES)))


def _matches(found: re.Match[str], things: Sequence[Thing]) -> list[Thing]:
    """The things that a pattern's noun (and place) describes."""
    asked = found.groupdict()
    shape = PLURALS.get(asked.get("shape") or "thing", asked.get("shape") or "thing")
    return [
        thing
        for thing in things
        if shape in ("thing", thing.shape)
        and asked.get("size") in (None, thing.size)
        and asked.get("colour") in (None, thing.colour)
        and asked.get("place") in (None, thing.position)
    ]


def describes(word: str, thing: Thing) -> bool:
    """Whether a word of a noun ("red", "star", "small", "thing") is true of a thing."""
    return word in ("thing", thing.size, thing.colour, thing.shape)


def things_described(noun: str, scene: Scene) -> list[Thing]:
    """The things that a noun ("small red star", "red thing") describes, in reading order."""
    return [thing for thing in scene.things if all(describes(w, thing) for w in noun.split())]


def _exists(found: re.Match[str], things: Sequence[Thing]) -> str:
    return "yes" if _matches(found, things) else "no"


def _holds(found: re.Match[str], things: Sequence[Thing]) -> str | None:
    there = _matches(found, things)
    if not there:
        return None
    value = found["value"].removeprefix("a ")
    return "yes" if value in (there[0].colour, there[0].shape, there[0].size) else "no"


def _count(found: re.Match[str], things: Sequence[Thing]) -> str:
    return NUMBERS[len(_matches(found, things))]


def _attribute(found: re.Match[str], things: Sequence[Thing]) -> str | None:
    matching = _matches(found, things)
    return str(getattr(matching[0], found["asked"])) if len(matching) == 1 else None


def _position(found: re.Match[str], things: Sequence[Thing]) -> str | None:
    matching = _matches(found, things)
    return matching[0].position if len(matching) == 1 else None


Solver = Callable[[re.Match[str], Sequence[Thing]], str | None]
_RULES: tuple[tuple[str, re.Pattern[str], Solver], ...] = tuple(
    (kind, re.compile(pattern), solver)
    for kind, pattern, solver in (
        ("yesno", rf"is there a {_NOUN}(?: at the {_PLACE})? \?", _exists),
        ("yesno", rf"is the thing at the {_PLACE} (?P<value>{_IS_VALUE}) \?", _holds),
        ("count", rf"how many {_NOUNS} are there \?", _count),
        (
            "attribute",
            rf"what (?P<asked>colour|shape|size) is the thing at the {_PLACE} \?",
            _attribute,
        ),
        ("attribute", rf"what (?P<asked>colour|shape|size) is the {_NOUN} \?", _attribute),
        ("position", rf"where is the {_NOUN} \?", _position),
    )
)


def kind_of(text: str) -> str | None:
    """The kind of a question, or None for a text that is no question of this language."""
    return next((kind for kind, pattern, _ in _RULES if pattern.fullmatch(text)), None)


def solve(text: str, scene: Scene) -> str | None:
    """The true answer, or None where the text is no question or assumes what is not so."""
    for _, pattern, solver in _RULES:
        if found := pattern.fullmatch(text):
            return solver(found, scene.things)
    return None


def caption(scene: Scene) -> str:
    """One sentence a thing, each ending in " .", in reading order."""
    return " ".join(sentence(thing) for thing in scene.things)


def sentence(thing: Thing) -> str:
    """A thing in words: "a big red circle at the top left ."."""
    return f"a {thing.size} {thing.colour} {thing.shape} at the {thing.position} ."


def sample_questions(
    scene: Scene, rng: random.Random, num: int, kinds: Sequence[str] = KINDS
) -> list[Question]:
    """Up to `num` different questions about a scene, kinds by KIND_WEIGHTS, yes and no as often."""
    weights = [KIND_WEIGHTS[kind] for kind in kinds]
    questions: dict[str, Question] = {}
    for _ in range(num):
        kind = rng.choices(kinds, weights)[0]
        question = sample_question(scene, rng, kind, unlike=questions)
        if question is not None:
            questions[question.text] = question
    return list(questions.values())


def sample_question(
    scene: Scene, rng: random.Random, kind: str, unlike: Container[str] = ()
) -> Question | None:
    """One question of a kind with a text not in `unlike`, or None where a few tries found none."""
    wanted = rng.choice(("yes", "no")) if kind == "yesno" else None
    for _ in range(_TRIES):
        write = rng.choices(*_WRITERS[kind])[0]
        text = write(scene, rng, wanted != "no")
        answer = solve(text, scene)
        if answer is not None and wanted in (None, answer) and text not in unlike:
            return Question(kind, text, answer)
    return None


def _draw(scene: Scene, rng: random.Random, true: bool) -> tuple[str, str, str, str]:
    """Size, colour, shape, place to ask about: one thing's if true, else often mixed."""
    if true:
        thing = rng.choice(scene.things)
        return thing.size, thing.colour, thing.shape, thing.position
    if rng.random() < 0.5:
        size, colour, shape, place = (rng.choice(scene.things) for _ in range(4))
        return size.size, colour.colour, shape.shape, place.position
    return rng.choice(SIZES), rng.choice(COLOURS), rng.choice(SHAPES), rng.choice(POSITIONS)


def _noun(size: str, colour: str, shape: str, rng: random.Random) -> str:
    form = rng.choices(("pair", "colour", "shape", "full", "size"), (0.40, 0.18, 0.18, 0.16, 0.08))[
        0
    ]
    nouns = {
        "pair": f"{colour} {shape}",
        "colour": f"{colour} thing",
        "shape": shape,
        "full": f"{size} {colour} {shape}",
        "size": f"{size} {shape}",
    }
    return nouns[form]


def _ask_exists(scene: Scene, rng: random.Random, true: bool) -> str:
    size, colour, shape, _ = _draw(scene, rng, true)
    return f"is there a {_noun(size, colour, shape, rng)} ?"


def _ask_exists_at(scene: Scene, rng: random.Random, true: bool) -> str:
    _, colour, shape, place = _draw(scene, rng, true)
    noun = rng.choice((shape, f"{colour} thing", f"{colour} {shape}", "thing"))
    return f"is there a {noun} at the {place} ?"


def _ask_holds(scene: Scene, rng: random.Random, true: bool) -> str:
    size, colour, shape, place = _draw(scene, rng, true)
    return f"is the thing at the {place} {rng.choice((colour, f'a {shape}', size))} ?"


def _ask_count(scene: Scene, rng: random.Random, true: bool) -> str:
    _, colour, shape, _ = _draw(scene, rng, rng.random() < 0.7)
    plural = next(p for p, s in PLURALS.items() if s == shape)
    nouns = (f"{colour} things", plural, "things")
    return f"how many {rng.choices(nouns, (0.45, 0.4, 0.15))[0]} are there ?"


def _ask_attribute(scene: Scene, rng: random.Random, true: bool) -> str:
    size, colour, shape, _ = _draw(scene, rng, true=True)
    asked = rng.choice(("colour", "shape", "size"))
    nouns = {
        "colour": (shape, f"{size} {shape}", f"{size} thing"),
        "shape": (f"{colour} thing", f"{size} {colour} thing", f"{size} thing"),
        "size": (shape, f"{colour} {shape}", f"{colour} thing"),
    }
    return f"what {asked} is the {rng.choice(nouns[asked])} ?"


def _ask_attribute_at(scene: Scene, rng: random.Random, true: bool) -> str:
    asked = rng.choice(("colour", "shape", "size"))
    return f"what {asked} is the thing at the {rng.choice(scene.things).position} ?"


def _ask_position(scene: Scene, rng: random.Random, true: bool) -> str:
    size, colour, shape, _ = _draw(scene, rng, true=True)
    return f"where is the {_noun(size, colour, shape, rng)} ?"


Writer = Callable[[Scene, random.Random, bool], str]
_WRITERS: dict[str, tuple[tuple[Writer, ...], tuple[float, ...]]] = {
    "yesno": ((_ask_exists, _ask_exists_at, _ask_holds), (0.70, 0.15, 0.15)),
    "attribute": ((_ask_attribute, _ask_attribute_at), (0.7, 0.3)),
    "count": ((_ask_count,), (1.0,)),
    "position": ((_ask_position,), (1.0,)),
}
