"""The whole language between programs and engines: two calls and their replies.

A *program* is a generator that yields a call (or a list of calls, answered together), receives the
reply (or replies) and returns a row. It may raise `DropError`; so may the driver inside it, at the
`yield` whose call failed.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TypeVar

from schemas.rows import ImageRef

IMAGE = "<image>"
"""A message part equal to this stands for the next entry of the call's `images`."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message; `parts` are texts and `IMAGE` placeholders in order."""

    role: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. `choices` restricts the reply to one of these texts (structured output) and
    fills `Sample.choice_probs`; `json_schema` (a JSON text) restricts it to that schema. A text of
    `stop` ends a reply and is cut off, or stands at its end (`keep_stop`)."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 64
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    keep_stop: bool = False
    choices: tuple[str, ...] | None = None
    json_schema: str | None = None


@dataclass(frozen=True, slots=True)
class Generate:
    """Ask the model to continue `messages`; `prefix` is text the reply must start from.

    `seat` names who is asked (`guesser`, `describer`): with one model all seats are the same
    engine, in cross-play each has its own. `look` shows the images in another light (`looks.py`).
    """

    messages: tuple[Message, ...]
    images: tuple[ImageRef, ...]
    sampling: Sampling = field(default_factory=Sampling)
    prefix: str = ""
    seat: str = ""
    look: str = ""
    reward: str | None = None
    """The reward word before the last user message's text: None as the model's manifest says, ""
    none, else this word (methods/contrastive_macaroon.md, section 4.1)."""


@dataclass(frozen=True, slots=True)
class Score:
    """Ask for the image-text cosines of one image, in the light of `look`, with each of `texts`."""

    image: ImageRef
    texts: tuple[str, ...]
    look: str = ""


Call = Generate | Score


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled reply. `logprob` is summed over its tokens (natural log)."""

    text: str
    num_tokens: int
    logprob: float
    finish_reason: str
    choice_probs: tuple[float, ...] | None = None
    """Probability of each of `Sampling.choices`, renormalised to sum to 1."""
    stopped_by: str | None = None
    """The text of `Sampling.stop` that ended it; None: it ended by itself, or was cut off."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a `Generate`: `num_samples` samples and what the engine really saw."""

    samples: tuple[Sample, ...]
    num_prompt_tokens: int
    num_images_seen: int
    num_image_tokens: int

    @property
    def text(self) -> str:
        """The first sample's text, stripped."""
        return self.samples[0].text.strip()


@dataclass(frozen=True, slots=True)
class ScoreReply:
    """The answer to a `Score`: one cosine in [-1, 1] per text."""

    cosines: tuple[float, ...]
    num_truncated: int = 0


RowT = TypeVar("RowT")
Program = Generator[Call | list[Call], "Reply | ScoreReply | list[Reply | ScoreReply]", RowT]
