"""From a kept game to training rows: one row per thing that was said, by role.

[?] which turns the paper trains on is not known; this is ours [D]. Each row is the very prompt of
a call of the game (built by the same functions) with what was said as completion. Rows follow the
game's own conclusion, `guess`, which in a won game is the target.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from model_ops.curation.checks import is_doubted
from model_ops.curation.selection import RowKey
from model_ops.programs.calls import IMAGE as IMAGE_PART
from model_ops.programs.guesser_per_image import Scope, verdict_turns
from model_ops.programs.guessing import rotation
from model_ops.programs.messages import (
    Messages,
    answer_messages,
    ask_messages,
    ask_one_messages,
    decide_messages,
    fit_messages,
    guess_messages,
)
from model_ops.programs.replies import normalise, question_json
from model_ops.prompts import Prompts
from schemas.config import DialogCurationConfig
from schemas.rows import (
    IMAGE,
    ChatMessage,
    ImageRef,
    Part,
    Picture,
    TrainRow,
    TranscriptRow,
    row_id,
)

Role = Literal["ask", "answer", "decide", "guess", "verdict"]


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A training row without its pixels. `variant` tells rows of one turn and role apart, `look`
    those that show the same in another light."""

    role: Role
    turn: int
    variant: str
    images: tuple[ImageRef, ...]
    messages: Messages
    completion: str
    look: str = ""

    def row_id(self, source: TranscriptRow) -> str:
        """Deterministic id: the game, the turn and the role."""
        return row_id(
            "train", source=source.row_id, turn=self.turn, role=self.role, variant=self.variant,
            **({"look": self.look} if self.look else {})
        )

    def key(self, source: TranscriptRow) -> RowKey:
        """What selection needs to know."""
        said = (tuple(ref.image_id for ref in self.images), self.messages, self.completion)
        content = int.from_bytes(hashlib.sha256(repr(said).encode()).digest()[:8])
        agreement = source.turns[self.turn].agreement
        return RowKey(self.row_id(source), self.role, normalise(self.completion), content,
                      1.0 if agreement is None else agreement)


def plan_rows(
    game: TranscriptRow, config: DialogCurationConfig, prompts: Prompts
) -> list[PlannedRow]:
    """All rows of *game* whose role has a weight, turn by turn."""
    by_turn = [
        row
        for turn in range(len(game.turns))
        if not is_doubted(game, turn, config)
        for row in _turn_rows(game, turn, config, prompts)
    ]
    rows = [*by_turn, *_guess_rows(game, config, prompts)]
    return [row for row in rows if config.role_weights.get(row.role, 0.0) > 0]


def _turn_rows(
    game: TranscriptRow, turn: int, config: DialogCurationConfig, prompts: Prompts
) -> Iterator[PlannedRow]:
    yield from _answer_rows(game, turn, config, prompts)
    yield _ask_row(game, turn, prompts)
    if game.mode == "per_image":
        yield from _verdict_rows(game, turn, config, prompts)
    else:
        yield from _decide_rows(game, turn, prompts)


def _answer_rows(
    game: TranscriptRow, turn: int, config: DialogCurationConfig, prompts: Prompts
) -> Iterator[PlannedRow]:
    said = game.turns[turn]
    messages = answer_messages(prompts, said.question, game.turns[:turn])
    about = [("target", game.target, said.answer)]
    if config.counterfactual_answers and said.counterfactual and game.nearest is not None:
        about.append(("nearest", game.nearest, said.counterfactual))
    for variant, place, answer in about:
        if config.closed_answers_only and not _is_closed(answer):
            continue
        yield PlannedRow("answer", turn, variant, (game.images[place],), messages, answer)


def _is_closed(answer: str) -> bool:
    return normalise(answer) in ("yes", "no")


def _ask_row(game: TranscriptRow, turn: int, prompts: Prompts) -> PlannedRow:
    said, before = game.turns[turn], game.turns[:turn]
    if said.asked_about is not None:
        shown = (game.images[said.asked_about],)
        messages = ask_one_messages(prompts, before)
        return PlannedRow("ask", turn, "", shown, messages, said.question)
    messages = ask_messages(prompts, len(game.images), before)
    return PlannedRow("ask", turn, "", tuple(game.images), messages, question_json(said.question))


def _verdict_rows(
    game: TranscriptRow, turn: int, config: DialogCurationConfig, prompts: Prompts
) -> Iterator[PlannedRow]:
    """A "yes" for the guessed image; a "no" for one that the finished game ruled out, where this
    very verdict was a no (`max_distractor_fit`). One that cannot be trusted either way gives no
    row."""
    if config.closed_answers_only and not _is_closed(game.turns[turn].answer):
        return
    scope: Scope = "dialog" if game.verdict_scope == "dialog" else "pair"
    messages = fit_messages(prompts, verdict_turns(game.turns[: turn + 1], scope))
    for place, image in enumerate(game.images):
        ruled_out = (
            game.turns[-1].beliefs[place] <= config.max_distractor_belief
            and game.turns[turn].fits[place] <= config.max_distractor_fit
        )
        if place == game.guess:
            yield PlannedRow("verdict", turn, str(place), (image,), messages, "yes")
        elif ruled_out:
            yield PlannedRow("verdict", turn, str(place), (image,), messages, "no")


def _decide_rows(game: TranscriptRow, turn: int, prompts: Prompts) -> Iterator[PlannedRow]:
    decision = game.turns[turn].decision
    if decision is not None:
        messages = decide_messages(prompts, len(game.images), game.turns[: turn + 1])
        yield PlannedRow("decide", turn, "", tuple(game.images), messages, decision)


def _guess_rows(
    game: TranscriptRow, config: DialogCurationConfig, prompts: Prompts
) -> Iterator[PlannedRow]:
    """The guess after the finished dialog, in every image order against position bias."""
    if game.mode != "joint" or game.guess is None:
        return
    num_images, last = len(game.images), len(game.turns) - 1
    messages = guess_messages(prompts, num_images, game.turns)
    for shift in range(num_images if config.guess_rotations else 1):
        order = rotation(num_images, shift)
        images = tuple(game.images[place] for place in order)
        number = str(order.index(game.guess) + 1)
        yield PlannedRow("guess", last, str(shift), images, messages, number)


def train_row(
    planned: PlannedRow, source: TranscriptRow, pictures: list[Picture], weight: float, seed: int
) -> TrainRow:
    """The row with its pixels, traceable to its game by `source_row_id`."""
    completion = [ChatMessage(role="assistant", content=[_text(planned.completion)])]
    return TrainRow(
        row_id=planned.row_id(source),
        round=source.round,
        stage=source.stage,
        model_digest=source.model_digest,
        prompt_version=source.prompt_version,
        seed=seed,
        prompt=chat(planned.messages),
        completion=completion,
        images=pictures,
        weight=weight,
        role=planned.role,
        source_row_id=source.row_id,
        image_ids=[ref.image_id for ref in planned.images],
        look=planned.look,
    )


def chat(messages: Messages) -> list[ChatMessage]:
    """Messages as TRL reads them: parts are exactly `{type, text}`."""
    return [
        ChatMessage(role=message.role, content=[_part(part) for part in message.parts])
        for message in messages
    ]


def _part(part: str) -> Part:
    return Part(type=IMAGE) if part == IMAGE_PART else _text(part)


def _text(text: str) -> Part:
    return Part(type="text", text=text)
