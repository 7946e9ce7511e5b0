"""Prompt sets: golden texts of every prompt, versions, digests.

After an intended change of wording: raise the file's `version`, then
`UPDATE_GOLDEN=1 pytest tests/model_ops/prompts` and read the diff.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model_ops.benchmarks.vqa import question_messages
from model_ops.criteria import load_criteria
from model_ops.nursery.skills import ask_prompt, fit_prompt
from model_ops.programs import contrastive_messages as contrastive
from model_ops.programs.describing import description_messages, description_texts
from model_ops.programs.messages import (
    Messages,
    answer_messages,
    ask_messages,
    ask_one_messages,
    decide_messages,
    fit_messages,
    guess_messages,
)
from model_ops.prompts import Prompts, load_prompts
from schemas.errors import ConfigError
from schemas.rows import Turn

GOLDEN = Path(__file__).parent / "golden"
PAIRS = [("is there a red circle ?", "yes"), ("where is the star ?", "top left")]
TURNS = [
    Turn(question=question, answer=answer, question_logprob=0, answer_logprob=0,
         summary=f"{number + 1} answers: {{not a field}}", beliefs=[])
    for number, (question, answer) in enumerate(PAIRS)
]

KIND = load_criteria("default").of("Subject Ambiguity")
CASES: dict[str, Callable[[Prompts], Messages]] = {
    "nursery/answer": lambda p: answer_messages(p, "is there a red circle ?", TURNS),
    "nursery/ask_first": lambda p: ask_one_messages(p, []),
    "nursery/ask": lambda p: ask_one_messages(p, TURNS),
    "nursery/fit": lambda p: fit_messages(p, TURNS),
    "nursery/vqa": lambda p: question_messages(p, "how many stars are there ?"),
    "default/answer_first": lambda p: answer_messages(p, "Is it raining?", []),
    "default/answer": lambda p: answer_messages(p, "Is it raining?", TURNS),
    "default/ask_first": lambda p: ask_messages(p, 2, []),
    "default/ask": lambda p: ask_messages(p, 4, TURNS),
    "default/decide": lambda p: decide_messages(p, 4, TURNS),
    "default/guess": lambda p: guess_messages(p, 4, TURNS),
    "default/guess_blind": lambda p: guess_messages(p, 2, []),
    "default/ask_one": lambda p: ask_one_messages(p, TURNS),
    "default/fit": lambda p: fit_messages(p, TURNS),
    "default/vqa": lambda p: question_messages(p, "What is on the table?"),
    "default/write": lambda p: contrastive.write_messages(p, KIND),
    "default/check": lambda p: contrastive.check_messages(p, KIND, "What is it?"),
    "default/imagine": lambda p: contrastive.imagine_messages(p, KIND.desired, "What is it?"),
    "default/judge": lambda p: contrastive.judge_messages(p, KIND, "What is it?", "It is {red}."),
    "nursery/describe": lambda p: description_messages(p, description_texts(p)[0]),
    "default/describe": lambda p: description_messages(p, "\n".join(description_texts(p))),
    "default/question": lambda p: contrastive.question_messages(p, "What is it?"),
}


@pytest.mark.parametrize("name", CASES)
def test_prompts_are_as_in_the_golden_files(name: str) -> None:
    set_name, _, case = name.partition("/")
    messages = CASES[name](load_prompts(set_name))
    text = "\n".join(f"[{m.role}]\n" + "\n".join(m.parts) for m in messages) + "\n"
    path = GOLDEN / set_name / f"{case}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_the_nursery_set_speaks_the_tiny_models_words() -> None:
    prompts = load_prompts("nursery")
    for turns, pairs in (([], []), (TURNS[:1], PAIRS[:1]), (TURNS, PAIRS)):
        assert ask_one_messages(prompts, turns)[0].parts[1] == ask_prompt(pairs)
    assert fit_messages(prompts, TURNS)[0].parts[1] == fit_prompt(PAIRS)


@pytest.mark.parametrize("set_name", ["nursery", "default"])
def test_every_file_has_a_version_and_the_set_one_digest(set_name: str) -> None:
    prompts = load_prompts(set_name)
    assert {key for key in prompts.texts if key.endswith(".version")} == {
        "calibrated.version",
        "contrastive.version",
        "dialog.version",
        "vqa.version",
    }
    assert len(prompts.digest) == 64
    assert prompts.digest == load_prompts(set_name).digest


def test_sets_differ_and_unknown_names_are_errors() -> None:
    assert load_prompts("nursery").digest != load_prompts("default").digest
    with pytest.raises(ConfigError, match="no prompt set 'klingon'"):
        load_prompts("klingon")


def test_a_mode_that_a_set_does_not_serve_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no text 'dialog\.guesser_system'"):
        ask_messages(load_prompts("nursery"), 4, [])


def test_model_text_is_never_read_as_a_template() -> None:
    turn = TURNS[0].model_copy(update={"answer": "{dialog} {0} {"})
    assert "{dialog} {0} {" in fit_messages(load_prompts("nursery"), [turn])[0].parts[1]
