"""The reward word: one word before the question that says which kind of reply is wanted.

Its one idea: training rows and inference put the word in by this one function, so that a model is
asked with exactly the tokens that it was trained on (methods/contrastive_macaroon.md, 4.1: after
the image, before the question, once).
"""

from collections.abc import Sequence

from model_ops.programs.calls import IMAGE, Message


def with_reward_word(messages: Sequence[Message], word: str) -> tuple[Message, ...]:
    """*messages* with "word " before the first text of the last user message; as they are for "".

    Raises `ValueError` if no user message has a text.
    """
    if not word:
        return tuple(messages)
    for place in range(len(messages) - 1, -1, -1):
        message = messages[place]
        texts = [i for i, part in enumerate(message.parts) if part != IMAGE]
        if message.role == "user" and texts:
            parts = list(message.parts)
            parts[texts[0]] = f"{word} {parts[texts[0]]}"
            changed = Message("user", tuple(parts))
            return (*messages[:place], changed, *messages[place + 1:])
    raise ValueError("a reward word needs a user message with text")
