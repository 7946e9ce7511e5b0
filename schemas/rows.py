"""One model per kind of row: what stands in each Parquet file of a root.

The Arrow schema of a file is derived from its row model (`schemas.arrow`), so this file is the
only place where a column is named.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

IMAGE = "image"
"""The type of a content part that stands for the next picture of the row's `images`."""


class Row(BaseModel):
    """Base of all rows: frozen, and closed to unknown columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def row_id(kind: str, **inputs: Any) -> str:
    """Deterministic id of a row: sha256 over its kind and *inputs* (never over sampled text)."""
    text = json.dumps([kind, inputs], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Picture(Row):
    """An image as `datasets` stores it: encoded bytes and, if it came from a file, its path."""

    bytes: bytes
    path: str | None = None


class ImageRow(Row):
    """One image of the collection (`images/`). `image_id` is the sha256 of the bytes."""

    image_id: str
    image: Picture
    width: int
    height: int
    source: str
    split: str
    facts: str | None = None
    """JSON ground truth of a nursery scene; read by benchmarks only, never by a method."""


class ImageRef(Row):
    """Where an image is: its id, and the shard and row of the images manifest that hold it."""

    image_id: str
    shard: int
    row: int


class Provenance(Row):
    """Columns that every generated row carries."""

    row_id: str
    round: int
    stage: str
    model_digest: str
    prompt_version: str
    seed: int


class GameRow(Row):
    """A planned game: the images in shown order and the target's position (from 0)."""

    row_id: str
    group_id: str
    images: list[ImageRef]
    target: int
    grouping: str
    mean_similarity: float
    seed: int
    nearest: int | None = None
    """Position of the distractor that is most like the target."""


class Turn(Row):
    """One question and answer of a game, and the Guesser's private belief after it."""

    question: str
    answer: str
    question_logprob: float
    answer_logprob: float
    summary: str
    """The Guesser's private running summary (joint mode), or its beliefs in words."""
    beliefs: list[float]
    """Probability of being the target, per shown image; empty where the mode has none."""
    consistency: float | None = None
    """Share of re-asked answers equal to the recorded one."""
    agreement: float | None = None
    """Share of the other lights (`play.looks`), the picture as it is left out, that gave this
    answer."""
    as_it_is: str | None = None
    """With `play.looks`: what the Describer said of the picture as it is."""
    counterfactual: str | None = None
    """What the Describer answers when shown the nearest distractor, as it is, instead of the
    target."""
    asked_about: int | None = None
    """The one image the asker saw (per_image mode); None: all of them."""
    fits: list[float] = []
    """This turn's verdicts (per_image mode): P(yes, it fits) per shown image."""
    decision: str | None = None
    """The Guesser's decision as JSON (joint mode), as it stands in the `decide` row."""


class TranscriptRow(Provenance):
    """A played game."""

    group_id: str
    images: list[ImageRef]
    target: int
    guess: int | None
    won: bool
    turns: list[Turn]
    stop_reason: str
    mode: str
    """`joint` or `per_image`."""
    verdict_scope: str | None = None
    """per_image mode: what a verdict was about, `pair` or `dialog`."""
    nearest: int | None = None
    """Position of the distractor that the counterfactual answers are about."""
    rotation_pass: float | None = None
    """Share of the other image orders in which the same dialog leads to the target."""
    blind_pass: float | None = None
    """Share of guesses that are right without any dialog."""
    mean_similarity: float
    num_calls: int
    num_prompt_tokens: int
    num_output_tokens: int
    num_image_tokens: int


class Part(Row):
    """A part of a message: `{type: "text", text}` or `{type: "image", text: None}`."""

    type: str
    text: str | None = None


class ChatMessage(Row):
    """A message as TRL reads it."""

    role: str
    content: list[Part]


class TrainRow(Provenance):
    """A prompt-completion row that TRL's SFTTrainer reads as it is."""

    prompt: list[ChatMessage]
    completion: list[ChatMessage]
    images: list[Picture]
    weight: float
    role: str
    """What was said: ask, answer, decide, guess, verdict; contrastive: the reward word; beside a
    stage's own: mix, rehearsal."""
    source_row_id: str
    image_ids: list[str]
    look: str = ""
    """The light in which `images` are shown (`curation.look_share`); "": as they are."""


class SlotRow(Row):
    """A planned question of the contrastive method: which kind is to be asked about which image.

    `question` is set where it is already known (from a file, or from the nursery's grammar)."""

    row_id: str
    image: ImageRef
    question_type: str
    question: str | None = None
    seed: int


class AskedRow(Provenance):
    """A question of a kind (`schemas.questions`) about an image; nobody knows its answer."""

    image: ImageRef
    question_type: str
    question: str
    source: str
    """Who wrote it: `model`, `grammar` or `file`."""
    type_probability: float | None = None
    """What the check gave to "it is of this kind"; None where it was not checked."""
    num_calls: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_image_tokens: int = 0


class ImaginedRow(Provenance):
    """What a model replied to a question under the desired and under the undesired criterion."""

    image: ImageRef
    question_type: str
    question: str
    desired: str
    undesired: str
    desired_logprob: float
    undesired_logprob: float
    desired_finish: str
    """Why the reply ended: `stop`, or `length` (cut off)."""
    undesired_finish: str
    desired_label: str | None = None
    """The judge's verdict on `desired` (`schemas.questions.Label`); None: not judged."""
    undesired_label: str | None = None
    desired_probability: float | None = None
    """What the judge gave to "as desired" for `desired`, and for `undesired`."""
    undesired_probability: float | None = None
    criteria_version: str
    """sha256 of the criteria files."""
    num_calls: int
    num_prompt_tokens: int
    num_output_tokens: int
    num_image_tokens: int


class PairRow(Provenance):
    """A preference pair as TRL's DPOTrainer reads it (conversational, vision)."""

    prompt: list[ChatMessage]
    chosen: list[ChatMessage]
    rejected: list[ChatMessage]
    images: list[Picture]
    role: str
    """What the pair is about: the question's kind."""
    source_row_id: str
    image_ids: list[str]
    chosen_reward: float | None = None
    """What preferred it, where that is a number."""
    rejected_reward: float | None = None
    num_candidates: int | None = None
    """Finished replies that the pair was chosen from (`calibrated`)."""
    margin: float | None = None
    """How much better the chosen reply is by its reward; never negative (`calibrated`)."""
    chosen_words: int | None = None
    """Words of the replies by white space (`calibrated`)."""
    rejected_words: int | None = None


class PieRow(Row):
    """An item of the PIE benchmark. `facts` (nursery) are for the `rules` judge alone."""

    row_id: str
    image: ImageRef
    question_type: str
    question: str
    domain: str
    source: str
    """`regenerated`, or `file` for the authors' own."""
    facts: str | None = None
    seed: int


class PieReplyRow(PieRow):
    """An item of PIE with a model's reply and the verdict on it, to be judged again."""

    reply: str
    label: str
    """The verdict so far (`schemas.questions.Label`)."""


class QuestionRow(Row):
    """An item of a VQA benchmark. `answers` are the accepted references."""

    row_id: str
    image: ImageRef
    kind: str
    question: str
    answers: list[str]
    domain: str
    seed: int


class CaptionItemRow(Row):
    """An item of the CHAIR benchmark: an image to be described, and what is on it."""

    row_id: str
    image: ImageRef
    question: str | None
    """None: the prompt set's own."""
    objects: list[str]
    """What is there: COCO's class names, or the nursery's, such as `red circle`; for measuring."""
    domain: str
    seed: int


class ItemRow(Row):
    """One benchmark item with the model's reply; `score` is 1 or 0 (VQA-accuracy: in between)."""

    row_id: str
    benchmark: str
    """For example `field/game4_success` or `field/vqa`."""
    kind: str
    image_ids: list[str]
    prompt: str
    expected: str
    reply: str
    score: float
    detail: str | None = None
    """JSON: for games the turns, guess and rotation share."""
    model_digest: str
    prompt_version: str
    seed: int
    num_calls: int
    num_prompt_tokens: int
    num_output_tokens: int


class QuarantineRow(Row):
    """What could not be used, why, and the row as far as it was known (JSON)."""

    row_id: str
    kind: str
    reason: str
    detail: str
    source: str
    payload: str
