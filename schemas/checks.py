"""Checks of rows at the moment they are written: each raises `DropError` with its reason code.

Pure functions of the row. What fails goes to quarantine (`schemas.artifacts.write_shard`). Reason
codes: `empty_prompt`, `empty_completion`, `bad_message`, `placeholder_mismatch`,
`undecodable_image`, `reward_word_leak`, `too_long`, `bad_weight`, `chosen_equals_rejected`.
"""

import io
import math
from collections.abc import Collection, Sequence
from functools import lru_cache

from schemas.errors import DropError
from schemas.rows import IMAGE, ChatMessage, PairRow, Picture, TrainRow

ROLES = ("system", "user", "assistant")
MAX_WORDS = 32_768
"""Budget of a row's text in words: a guard against runaway text, not a model's context length (a
row was said by the model, so it fitted)."""


def count_words(text: str) -> int:
    """Words by white space: a lower bound of any tokenizer's count on ordinary text."""
    return len(text.split())


def check_train_row(row: TrainRow, *, reward_words: Collection[str] = ()) -> None:
    """Whether TRL can train on `row`; `DropError` with the reason if not.

    `reward_words` are the words that condition the prompt (MACAROON section 4: "good", "bad"): a
    completion that starts with one has learnt the label, not the answer.
    """
    check_messages(row.prompt, row.completion)
    check_placeholders([*row.prompt, *row.completion], row.images)
    if not (math.isfinite(row.weight) and row.weight >= 0):
        raise DropError("bad_weight", f"weight {row.weight}")
    check_reward_words(row.completion, reward_words)
    check_length(row.prompt, row.completion)
    check_pictures(row.images)


def check_pair_row(row: PairRow, *, reward_words: Collection[str] = ()) -> None:
    """Whether TRL can train on the preference pair `row`; `DropError` with the reason if not.

    `reward_words` are those of `check_train_row`; each reply is held to them.
    """
    for reply in (row.chosen, row.rejected):
        check_messages(row.prompt, reply)
        check_placeholders([*row.prompt, *reply], row.images)
        check_reward_words(reply, reward_words)
        check_length(row.prompt, reply)
    check_preference(row.chosen, row.rejected)
    check_pictures(row.images)


def conditioned_by(row: TrainRow) -> tuple[str, ...]:
    """The reward word of a `crl` row, whose role it is: the last user message starts with it."""
    asked = [message for message in row.prompt if message.role == "user"]
    text = text_of(asked[-1:])
    return (row.role,) if text.startswith(f"{row.role} ") else ()


def check_placeholders(messages: Sequence[ChatMessage], images: Sequence[Picture]) -> None:
    """As many image parts as images."""
    placeholders = sum(part.type == IMAGE for message in messages for part in message.content)
    if placeholders != len(images):
        raise DropError("placeholder_mismatch", f"{placeholders} image parts, {len(images)} images")


def check_length(prompt: Sequence[ChatMessage], reply: Sequence[ChatMessage]) -> None:
    """The text of prompt and reply together is within the budget."""
    length = sum(count_words(text_of(messages)) for messages in (prompt, reply))
    if length > MAX_WORDS:
        raise DropError("too_long", f"{length} words, the budget is {MAX_WORDS}")


def check_pictures(images: Sequence[Picture]) -> None:
    """Every image can be decoded."""
    for position, picture in enumerate(images):
        problem = _decoding_problem(picture.bytes)
        if problem:
            raise DropError("undecodable_image", f"image {position}: {problem}")


def check_messages(prompt: Sequence[ChatMessage], completion: Sequence[ChatMessage]) -> None:
    """Roles and parts are what TRL reads; the prompt has content, the completion has text."""
    for message in [*prompt, *completion]:
        if message.role not in ROLES:
            raise DropError("bad_message", f"role {message.role!r} is none of {ROLES}")
        for part in message.content:
            if part.type not in ("text", IMAGE) or (part.type == IMAGE) != (part.text is None):
                raise DropError("bad_message", f"a {part.type!r} part with text {part.text!r}")
    if not any(message.content for message in prompt):
        raise DropError("empty_prompt")
    if not text_of(completion).strip():
        raise DropError("empty_completion")
    if any(message.role != "assistant" for message in completion):
        raise DropError("bad_message", "a completion holds assistant messages only")


def check_reward_words(completion: Sequence[ChatMessage], reward_words: Collection[str]) -> None:
    """The completion must not start with a reward word (inside a sentence it is just a word)."""
    words = text_of(completion).split(maxsplit=1)
    first = words[0].strip(".,:;!?\"'").lower() if words else ""
    if first in {word.lower() for word in reward_words}:
        raise DropError("reward_word_leak", f"the completion starts with {first!r}")


def check_preference(chosen: Sequence[ChatMessage], rejected: Sequence[ChatMessage]) -> None:
    """A preference needs two different answers (white space and case aside)."""
    if text_of(chosen).lower().split() == text_of(rejected).lower().split():
        raise DropError("chosen_equals_rejected", text_of(chosen)[:80])


def text_of(messages: Sequence[ChatMessage]) -> str:
    """All text parts, one per line."""
    return "\n".join(part.text for message in messages for part in message.content
                     if part.text is not None)


@lru_cache(maxsize=32)  # the rows of one game come one after another and share their pictures
def _decoding_problem(data: bytes) -> str:
    from PIL import Image  # only rows with pictures need it

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception as error:  # decoders raise anything on hostile bytes
        return f"{type(error).__name__}: {error}"
    return ""
