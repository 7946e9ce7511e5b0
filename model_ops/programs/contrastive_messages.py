"""The contrastive method's prompts as messages: pure functions from a prompt set and a criterion.

Programs ask with these, curation writes training prompts and benchmarks ask their questions with
`question_messages`: a model is trained on, measured by and used with the same words.
"""

from model_ops.criteria import Criterion
from model_ops.programs.calls import IMAGE
from model_ops.programs.messages import Messages, system_and_user
from model_ops.prompts import Prompts
from schemas.questions import Label


def question_messages(prompts: Prompts, question: str) -> Messages:
    """The bare question about one image, as a user asks it."""
    text = prompts.text("contrastive.question", question=question)
    return _about(prompts, "question", text)


def write_messages(prompts: Prompts, criterion: Criterion) -> Messages:
    """Ask for a question of the criterion's kind about one image."""
    text = prompts.text(
        "contrastive.write",
        question_type=criterion.question_type,
        definition=criterion.definition,
        examples="\n".join(f"- {example}" for example in criterion.examples),
    )
    return _about(prompts, "write", text)


def check_messages(prompts: Prompts, criterion: Criterion, question: str) -> Messages:
    """Is *question* of the criterion's kind? To be answered by yes or no."""
    text = prompts.text("contrastive.check", definition=criterion.definition, question=question)
    return _about(prompts, "check", text)


def imagine_messages(prompts: Prompts, criterion: str, question: str) -> Messages:
    """Reply to *question* as the text *criterion* (desired or undesired) says."""
    text = prompts.text("contrastive.imagine", criterion=criterion, question=question)
    return _about(prompts, "imagine", text)


def judge_messages(prompts: Prompts, criterion: Criterion, question: str, reply: str) -> Messages:
    """Which label does *reply* earn? To be answered by one of the texts of `label_texts`."""
    text = prompts.text(
        "contrastive.judge",
        definition=criterion.definition,
        question=question,
        reply=reply,
        rubric=render_rubric(prompts, criterion),
    )
    return _about(prompts, "judge", text)


def label_texts(prompts: Prompts, criterion: Criterion) -> dict[Label, str]:
    """The judge's choices: label -> its text. Two where the kind has no middle."""
    texts: dict[Label, str] = {"True": prompts.text("contrastive.label_true")}
    if criterion.rubric.ambiguous is not None:
        texts["Ambiguous"] = prompts.text("contrastive.label_ambiguous")
    return texts | {"False": prompts.text("contrastive.label_false")}


def render_rubric(prompts: Prompts, criterion: Criterion) -> str:
    """One line a label: its text and when it applies."""
    rubric = criterion.rubric
    says = {"True": rubric.true, "Ambiguous": rubric.ambiguous, "False": rubric.false}
    texts = label_texts(prompts, criterion)
    return "\n".join(f"{text}: {says[label]}" for label, text in texts.items())


def _about(prompts: Prompts, key: str, text: str) -> Messages:
    """One image and a text, after the system message of *key* if the set has one."""
    return system_and_user(prompts, f"contrastive.{key}_system", (IMAGE, text))
