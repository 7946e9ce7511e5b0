"""The dialog game's prompts as messages: pure functions from a prompt set and a dialog.

Programs ask with these and curation rebuilds training prompts with them, so a model is trained on
exactly the words that it was asked with.
"""

from collections.abc import Sequence

from model_ops.programs.calls import IMAGE, Message
from model_ops.prompts import Prompts
from schemas.rows import Turn

Messages = tuple[Message, ...]


def answer_messages(prompts: Prompts, question: str, turns: Sequence[Turn]) -> Messages:
    """The Describer's prompt: one image, the dialog so far (if the set wants it), the question."""
    before = _before(prompts, "dialog.before_answer", turns)
    text = prompts.text("dialog.answer", question=question, before=before)
    return _about_one_image(prompts, "dialog.describer_system", text)


def ask_one_messages(prompts: Prompts, turns: Sequence[Turn]) -> Messages:
    """The per_image asker's prompt: one candidate and the dialog so far."""
    before = _before(prompts, "dialog.before_ask", turns)
    text = prompts.text("dialog.ask_one", dialog=render_dialog(prompts, turns), before=before)
    return _about_one_image(prompts, "dialog.asker_system", text)


def fit_messages(prompts: Prompts, turns: Sequence[Turn]) -> Messages:
    """The per_image judge's prompt: do the answers of *turns* hold for this one image?"""
    text = prompts.text("dialog.fit", dialog=render_dialog(prompts, turns))
    return _about_one_image(prompts, "dialog.judge_system", text)


def ask_messages(prompts: Prompts, num_images: int, turns: Sequence[Turn]) -> Messages:
    """The joint Guesser's prompt for a question, its last private summary included."""
    return _about_all_images(prompts, "dialog.ask", num_images, turns, _summary(prompts, turns))


def decide_messages(prompts: Prompts, num_images: int, turns: Sequence[Turn]) -> Messages:
    """The joint Guesser's prompt for a decision, with the summary it had before the last turn."""
    before = _summary(prompts, turns[:-1])
    return _about_all_images(prompts, "dialog.decide", num_images, turns, before)


def guess_messages(prompts: Prompts, num_images: int, turns: Sequence[Turn]) -> Messages:
    """The joint Guesser's prompt for a final guess. No summary: it names image numbers, and the
    same dialog must be replayable with the images in any order."""
    return _about_all_images(prompts, "dialog.guess", num_images, turns, "")


def render_dialog(prompts: Prompts, turns: Sequence[Turn]) -> str:
    """Questions and answers as text."""
    if not turns:
        return prompts.text("dialog.no_dialog") if prompts.has("dialog.no_dialog") else ""
    pairs = [prompts.text("dialog.pair", question=t.question, answer=t.answer) for t in turns]
    return prompts.text("dialog.separator").join(pairs)


def system_and_user(prompts: Prompts, system_key: str, parts: tuple[str, ...]) -> Messages:
    """A user message, after the system message *system_key* if the set has one."""
    user = Message("user", parts)
    if not prompts.has(system_key):
        return (user,)
    return (Message("system", (prompts.text(system_key),)), user)


def _about_one_image(prompts: Prompts, system_key: str, text: str) -> Messages:
    return system_and_user(prompts, system_key, (IMAGE, text))


def _about_all_images(
    prompts: Prompts, key: str, num_images: int, turns: Sequence[Turn], before: str
) -> Messages:
    """System text and images come first and are the same in every call of a game (prefix cache)."""
    system = Message("system", (prompts.text("dialog.guesser_system", num_images=num_images),))
    parts: list[str] = []
    for number in range(1, num_images + 1):
        parts += [prompts.text("dialog.image_label", number=number), IMAGE]
    dialog = render_dialog(prompts, turns)
    parts.append(prompts.text(key, num_images=num_images, dialog=dialog, before=before))
    return (system, Message("user", tuple(parts)))


def _before(prompts: Prompts, key: str, turns: Sequence[Turn]) -> str:
    if not turns or not prompts.has(key):
        return ""
    return prompts.text(key, dialog=render_dialog(prompts, turns))


def _summary(prompts: Prompts, turns: Sequence[Turn]) -> str:
    if not turns or not turns[-1].summary:
        return ""
    return prompts.text("dialog.before_decision", summary=turns[-1].summary)
