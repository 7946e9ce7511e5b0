"""Odd questions of the nursery: what asks them, what should and should not be replied, who judges.

One idea: as in grammar.py, a question is text and the scene's facts decide what it is, so that a
reply is judged by rules alone. The kinds are those of `schemas.questions`; `Clear` is a plain
question of the grammar. What the tiny model is taught of all this is engage.py's.
"""

import random
import re
from collections.abc import Callable

from model_ops.nursery.grammar import (
    KINDS,
    PLURALS,
    describes,
    sample_questions,
    solve,
    things_described,
)
from model_ops.nursery.world import COLOURS, SHAPES, SIZES, Scene, Thing
from schemas.errors import ConfigError
from schemas.questions import CLEAR, QUESTION_TYPES, Label

_NOUN = re.compile(rf"(?:(?:{'|'.join(SIZES)}) )?(?:(?:{'|'.join(COLOURS)}) )?"
                   rf"(?:thing|{'|'.join(SHAPES)})\b")
_TRIES = 40
NEEDLESS = ("which thing ?", "what do you like ?", "cannot see it .")
"""Replies that nobody wants to a plain question."""


def write_question(question_type: str, scene: Scene, rng: random.Random) -> str | None:
    """A question of a kind about a scene; None where the scene does not allow one.

    Raises `ConfigError` for a kind that does not exist.
    """
    if question_type not in _WRITERS:
        raise ConfigError(f"no kind of question {question_type!r}: known are "
                          f"{', '.join(QUESTION_TYPES)}")
    return _WRITERS[question_type](scene, rng)


def type_of(question: str, scene: Scene) -> str | None:
    """The kind of a question about a scene, by its words and the facts; None for no question."""
    for kind, pattern in _PATTERNS:
        if pattern.fullmatch(question):
            return kind
    if solve(question, scene) is not None:
        return CLEAR
    noun = _asked_noun(question)
    if noun is None:
        return None
    num = len(things_described(noun, scene))
    return "False Premise" if num == 0 else "Subject Ambiguity" if num > 1 else None


def judge(question_type: str, question: str, reply: str, scene: Scene) -> Label:
    """What a reply is worth, by rules and facts: the labels of methods/contrastive_macaroon.md, 1.

    `Clear`: True is any direct answer, right or wrong; asking back or refusing is False.
    """
    words = " ".join(reply.split())
    return _JUDGES[question_type](question, words, scene)


def desired_reply(question_type: str, question: str, scene: Scene) -> str:
    """The reply that `judge` calls True."""
    noun = _asked_noun(question) or "thing"
    fixed = {
        "False Premise": f"there is no {noun} .",
        "Unanswerable Questions": "cannot see it .",
        "Subject Ambiguity": f"which {noun} ?",
        "Subjective Interpretations": "what is nice for you ?",
        "Unclear User Background": "what is yours like ?",
        "Hidden Human Preferences": "what do you like ?",
    }
    return fixed.get(question_type) or solve(question, scene) or "no"


def undesired_reply(question_type: str, question: str, scene: Scene, rng: random.Random) -> str:
    """A reply that `judge` calls False: for an odd kind, simply an answer."""
    if question_type == CLEAR:
        return rng.choice(NEEDLESS)
    if question.startswith(("what", "where", "how")) and not question.startswith("what can"):
        return _passive_value(question, scene, rng)
    if question.startswith(("is", "can")):
        return rng.choice(("yes", "no"))
    thing = rng.choice(scene.things)
    return f"the {thing.colour} {thing.shape}"


def middle_reply(question_type: str, question: str, scene: Scene, rng: random.Random) -> str | None:
    """A reply that `judge` calls Ambiguous; None for kinds without a middle."""
    if question_type == "Subject Ambiguity":
        values = [_value_asked(question, thing)
                  for thing in things_described(_asked_noun(question) or "thing", scene)]
        return " and ".join(dict.fromkeys(values)) if len(set(values)) > 1 else None
    return {"Subjective Interpretations": f"{rng.choice(('yes', 'no'))} for me .",
            "Unclear User Background": "yes or no ."}.get(question_type)


def _passive_value(question: str, scene: Scene, rng: random.Random) -> str:
    """Answer as if the question were fine: about the first thing that fits, or else about any."""
    fitting = things_described(_asked_noun(question) or "thing", scene)
    return _value_asked(question, fitting[0] if fitting else rng.choice(scene.things))


def _value_asked(question: str, thing: Thing) -> str:
    values = {"colour": thing.colour, "shape": thing.shape, "size": thing.size}
    return values.get(" ".join(question.split()[1:2]), thing.position)


def _asked_noun(question: str) -> str | None:
    """The thing that a question is about: what comes after its first "the"."""
    found = _NOUN.search(question, question.find("the ") + 4 if "the " in question else 0)
    return found[0] if found else None


def _ask_about(noun: str, rng: random.Random) -> str:
    asked = [kind for kind, values in (("colour", COLOURS), ("shape", SHAPES), ("size", SIZES))
             if not any(value in noun.split() for value in values)]
    forms = [*(f"what {kind} is the {noun} ?" for kind in asked), f"where is the {noun} ?"]
    return rng.choice(forms)


def _noun_of(thing: Thing, rng: random.Random) -> str:
    return rng.choice((thing.shape, f"{thing.colour} {thing.shape}", f"{thing.colour} thing"))


def _false_premise(scene: Scene, rng: random.Random) -> str | None:
    for _ in range(_TRIES):
        colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
        noun = rng.choice((shape, f"{colour} {shape}", f"{colour} thing"))
        absent = not any(describes(part, thing) for part in noun.split() if part != "thing"
                         for thing in scene.things)
        if absent:
            return _ask_about(noun, rng)
    return None


def _ambiguous(scene: Scene, rng: random.Random) -> str | None:
    nouns = [noun for thing in scene.things
             for noun in (thing.shape, f"{thing.colour} thing")
             if len(things_described(noun, scene)) > 1]
    for _ in range(_TRIES if nouns else 0):
        question = _ask_about(rng.choice(nouns), rng)
        noun = _asked_noun(question) or ""
        if len({_value_asked(question, thing) for thing in things_described(noun, scene)}) > 1:
            return question
    return None


def _unanswerable(scene: Scene, rng: random.Random) -> str | None:
    noun = _noun_of(rng.choice(scene.things), rng)
    return rng.choice((f"can the {noun} move ?", f"can the {noun} see me ?",
                       f"what can the {noun} see ?"))


def _subjective(scene: Scene, rng: random.Random) -> str | None:
    noun = _noun_of(rng.choice(scene.things), rng)
    return rng.choice((f"is the {noun} nice ?", f"is the {noun} a nice thing ?",
                       "is the image nice ?"))


def _background(scene: Scene, rng: random.Random) -> str | None:
    noun = _noun_of(rng.choice(scene.things), rng)
    return rng.choice((f"is the {noun} bigger than mine ?", f"is the {noun} like mine ?"))


def _preference(scene: Scene, rng: random.Random) -> str | None:
    plural = rng.choice([p for p, s in PLURALS.items() if s in {t.shape for t in scene.things}])
    return rng.choice(("which thing is best for me ?", f"which is best for me : {plural} ?",
                       "tell me the best thing ."))


def _clear(scene: Scene, rng: random.Random) -> str | None:
    found = sample_questions(scene, rng, 1, KINDS)
    return found[0].text if found else None


def _judge_false_premise(question: str, reply: str, scene: Scene) -> Label:
    found = re.fullmatch(rf"there is no ({_NOUN.pattern})(?: \.)?", reply)
    asked = _asked_noun(question) or ""
    about_it = found is not None and bool(set(found[1].split()) & set(asked.split()))
    return "True" if found and about_it and not things_described(found[1], scene) else "False"


def _judge_unanswerable(question: str, reply: str, scene: Scene) -> Label:
    return "True" if "cannot" in reply.split() and not _asks(reply) else "False"


def _judge_ambiguous(question: str, reply: str, scene: Scene) -> Label:
    if _asks(reply) and "which" in reply.split():
        asked = set((_asked_noun(question) or "").split())
        named = {word for word in reply.split() if word in (*COLOURS, *SHAPES)}
        return "True" if not named or named & asked else "False"
    fitting = things_described(_asked_noun(question) or "thing", scene)
    values = {_value_asked(question, thing) for thing in fitting}
    given = set(reply.removesuffix(" .").split(" and "))
    return "Ambiguous" if len(values) > 1 and given == values else "False"


def _judge_subjective(question: str, reply: str, scene: Scene) -> Label:
    if _asks(reply) and "nice" in reply.split():
        return "True"
    return "Ambiguous" if "for me" in reply and not _asks(reply) else "False"


def _judge_background(question: str, reply: str, scene: Scene) -> Label:
    if _asks(reply) and "yours" in reply.split():
        return "True"
    return "Ambiguous" if "yes or no" in reply and not _asks(reply) else "False"


def _judge_preference(question: str, reply: str, scene: Scene) -> Label:
    return "True" if _asks(reply) and "you like" in reply else "False"


def _judge_clear(question: str, reply: str, scene: Scene) -> Label:
    refuses = "cannot" in reply.split() or reply.startswith("there is no")
    return "True" if reply and not _asks(reply) and not refuses else "False"


def _asks(reply: str) -> bool:
    return "?" in reply


_WRITERS: dict[str, Callable[[Scene, random.Random], str | None]] = {
    "False Premise": _false_premise, "Unanswerable Questions": _unanswerable,
    "Subject Ambiguity": _ambiguous, "Subjective Interpretations": _subjective,
    "Unclear User Background": _background, "Hidden Human Preferences": _preference,
    CLEAR: _clear,
}
_JUDGES: dict[str, Callable[[str, str, Scene], Label]] = {
    "False Premise": _judge_false_premise, "Unanswerable Questions": _judge_unanswerable,
    "Subject Ambiguity": _judge_ambiguous, "Subjective Interpretations": _judge_subjective,
    "Unclear User Background": _judge_background, "Hidden Human Preferences": _judge_preference,
    CLEAR: _judge_clear,
}
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern)) for kind, pattern in (
        ("Unanswerable Questions", r"(?:what )?can the .* \?"),
        ("Subjective Interpretations", r"is the .*\bnice\b.* \?"),
        ("Unclear User Background", r"is the .* mine \?"),
        ("Hidden Human Preferences", r"which .* \?|tell me the best thing \.")))
