"""What the tiny VLM is taught: a registry of skills, each a function from a scene to one exchange.

To add a skill: write its function, add its line to SKILLS and its share to ENGAGING (and to SHARES
or ANSWERS, if it is to be learned earlier), run `python -m model_ops.nursery.pretrain` again.
Prompts here and the prompt set `nursery` are the same words; changing one means changing the other.
"""

import random
from collections.abc import Mapping, Sequence

from model_ops.nursery import engage
from model_ops.nursery.exchange import Exchange, Skill
from model_ops.nursery.grammar import (
    NUMBERS,
    Question,
    caption,
    sample_question,
    sample_questions,
    solve,
)
from model_ops.nursery.world import (
    COLOURS,
    POSITIONS,
    SHAPES,
    SIZES,
    Scene,
    similar_scenes,
)
from schemas.errors import ConfigError

DESCRIBE = "describe the image ."
ASK = "ask a question ."
ASK_WEIGHTS = {"yesno": 0.45, "attribute": 0.2, "count": 0.15, "position": 0.2}


def dialog_text(pairs: Sequence[tuple[str, str]]) -> str:
    """Questions and answers as prompts carry them: "is there a star ? yes ; where is it ? top"."""
    return " ; ".join(f"{question} {answer}" for question, answer in pairs)


def ask_prompt(pairs: Sequence[tuple[str, str]]) -> str:
    """The prompt for the next question after a dialog, which may be empty."""
    return f"{dialog_text(pairs)} ; {ASK}" if pairs else ASK


def fit_prompt(pairs: Sequence[tuple[str, str]]) -> str:
    """The prompt for whether every answer of a dialog holds for the image."""
    return f"does this fit : {dialog_text(pairs)} ; answer yes or no ."


def answer(scene: Scene, rng: random.Random) -> Exchange:
    """Answer a question."""
    question = _question(scene, rng)
    return Exchange(question.text, question.answer)


def describe(scene: Scene, rng: random.Random) -> Exchange:
    """Describe the image, one sentence a thing."""
    return Exchange(DESCRIBE, caption(scene))


def ask(scene: Scene, rng: random.Random) -> Exchange:
    """Ask a question that the dialog so far has not asked; kinds and targets broadly mixed."""
    source = scene if rng.random() < 0.8 else similar_scenes(scene, 1, rng.getrandbits(30))[0]
    before = sample_questions(source, rng, rng.choice((0, 0, 1, 1, 2, 3)))
    asked = {question.text for question in before}
    while True:
        kind = rng.choices(list(ASK_WEIGHTS), list(ASK_WEIGHTS.values()))[0]
        question = sample_question(scene, rng, kind)
        if question is not None and question.text not in asked:
            return Exchange(ask_prompt([(q.text, q.answer) for q in before]), question.text)


def fit(scene: Scene, rng: random.Random) -> Exchange:
    """Say whether one to three answers all hold; questions may be about a sibling, as in a game."""
    other = similar_scenes(scene, 1, rng.getrandbits(30))[0]
    questions = sample_questions(rng.choice((scene, other)), rng, rng.choice((1, 1, 2, 2, 3)))
    true = [(q.text, solve(q.text, scene)) for q in questions]
    theirs = [(q.text, solve(q.text, other) or q.answer) for q in questions]
    held = [(text, said) for text, said in true if said is not None]
    if held and rng.random() < 0.5:
        return Exchange(fit_prompt(held), "yes")
    if theirs != true and rng.random() < 0.6:
        return Exchange(fit_prompt(theirs), "no")
    pairs = held or [(_question(scene, rng).text, "no")]
    index = rng.randrange(len(pairs))
    text = pairs[index][0]
    pairs[index] = (text, corrupt(solve(text, scene) or "no", rng))
    return Exchange(fit_prompt(pairs), "no")


def corrupt(true: str, rng: random.Random) -> str:
    """A wrong answer of the same type; numbers are missed by one."""
    if true in NUMBERS:
        number = NUMBERS.index(true)
        near = number + rng.choice((-1, 1))
        return NUMBERS[near if 0 <= near < len(NUMBERS) else 2 * number - near]
    values = next(v for v in (("yes", "no"), COLOURS, SHAPES, SIZES, POSITIONS) if true in v)
    return rng.choice([value for value in values if value != true])


def _question(scene: Scene, rng: random.Random) -> Question:
    while True:
        found = sample_questions(scene, rng, 1)
        if found:
            return found[0]


SKILLS: dict[str, Skill] = {
    "answer": answer,
    "caption": describe,
    "ask": ask,
    "fit": fit,
    "passive": engage.passive,
    "follow": engage.follow,
    "write": engage.write,
    "check": engage.check,
    "review": engage.review,
}
SHARES: dict[str, int] = {"answer": 10, "caption": 1, "ask": 2, "fit": 3}
"""How many exchanges of each skill every picture gets in the stage that teaches the dialog."""
ENGAGING: dict[str, int] = {
    "answer": 6, "caption": 1, "ask": 1, "fit": 2,
    "passive": 2, "follow": 5, "write": 2, "check": 3, "review": 2,
}
"""The same for the last stages, which teach the contrastive method and keep the rest."""
FILLERS = ("good", "bad", "and", "but", "that", "wait")
ANSWERS: dict[str, int] = {"answer": 11, "caption": 1}
"""The same for the stage before it."""


def check_shares() -> None:
    """Every skill is kept to the end, and no share is of a skill that is not there."""
    for name in SKILLS.keys() - ENGAGING.keys():
        raise ConfigError(f"skill {name!r} would not be learned: say in ENGAGING how many "
                          f"exchanges of it every picture gets")
    for name in {*SHARES, *ENGAGING, *ANSWERS} - SKILLS.keys():
        raise ConfigError(f"a share is given to skill {name!r}, which is not in SKILLS")


def sample_exchanges(
    scene: Scene, rng: random.Random, shares: Mapping[str, int] = SHARES
) -> list[Exchange]:
    """Exchanges about one scene, as many of each skill as `shares` says."""
    return [SKILLS[name](scene, rng) for name, num in shares.items() for _ in range(num)]


def with_fillers(exchanges: Sequence[Exchange], rng: random.Random) -> list[Exchange]:
    """The same exchanges, half of them with a word in front that changes nothing.

    To a real model "good" is a word like others; one that the tiny model never met would upset
    whatever follows it, and a reward word could not be told from that."""
    return [
        Exchange(f"{rng.choice(FILLERS)} {exchange.user}", exchange.completion)
        if rng.random() < 0.5 else exchange
        for exchange in exchanges
    ]
