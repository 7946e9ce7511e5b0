"""The stage `contrastive`: which questions are asked, how replies are imagined, what is kept."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.config.base import Config, Count, Look
from schemas.config.describing import RehearsalConfig
from schemas.config.training import CrlConfig, DpoConfig, MixConfig, SftConfig
from schemas.questions import QUESTION_TYPES, QuestionType


class QuestionsConfig(Config):
    """Where the questions come from (methods/contrastive_macaroon.md, section 3, steps 2 to 4)."""

    source: Literal["model", "grammar", "file"] = "model"
    """`model`: the model writes them; `grammar`: the nursery's own (which reads facts, as a person
    who writes questions looks at the picture); `file`: yours, see `uri`."""
    uri: str | None = None
    """`file`: JSONL, JSON or Parquet with `image`, `question` and `question_type` (the authors'
    keys `Image ID`, `Question`, `Question Type` work too)."""
    per_type: dict[QuestionType, Count] = dict.fromkeys(QUESTION_TYPES, 200)  # type: ignore[arg-type]
    """Questions of each kind to ask for, before checks; a kind that is not named gets none."""
    temperature: float = Field(default=0.9, ge=0)
    """Temperature of the questions that the model writes."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus of the same."""
    min_type_probability: float | None = Field(default=0.5, ge=0, le=1)
    """A second call has to give "it is of this kind" at least this; null: no check."""
    max_similarity: float | None = Field(default=0.9, gt=0, le=1)
    """Near-duplicates by MinHash: a question as similar as this to an earlier one of its kind about
    the same image goes. (About other images the same words are another question.)"""
    max_share_per_opening: float | None = Field(default=0.5, gt=0, le=1)
    """Of the questions of a kind that are no repeats, at most this share (but one in any case) may
    begin with the same words."""
    opening_words: int = Field(default=3, ge=1)
    """How many words an opening is."""

    @model_validator(mode="after")
    def _a_file_needs_a_place(self) -> "QuestionsConfig":
        if (self.source == "file") != (self.uri is not None):
            raise ValueError("questions.source 'file' and questions.uri belong together: set both "
                             "or neither")
        return self


class ImagineConfig(Config):
    """Self-imagination: two calls a question, with the desired and the undesired criterion."""

    criteria: str = "default"
    """The criteria set: `default`, `nursery`, or a folder of your own with one YAML a kind."""
    temperature: float = Field(default=0.7, ge=0)
    """Temperature of the replies under a criterion."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """Nucleus of the same."""
    num_tries: int = Field(default=4, ge=1)
    """Sample so many replies a criterion (one call) and take, of those whose form is right (asks
    where it should, and only there), what most of them say; the first among equals."""
    clear_as_asked: bool = True
    """Take what the model answers to the bare question, at temperature 0, as the desired reply to a
    `Clear` question, instead of asking under a criterion: it is to go on answering as it does."""
    looks: list[Look] = []
    """Ask for the desired reply in these lights too (`model_ops/looks.py`), once in each, and take
    what most looks give; here the picture as it is votes too, unlike in `play.looks`. Then
    `num_tries` is for undesired replies."""
    max_tokens: int = Field(default=256, ge=1)
    """A reply that is longer is cut off, and dropped by `curation.drop_cut_off`."""
    judge: bool = True
    """Let the model judge both replies by the kind's rubric (for `curation.require_judge`)."""


class PairCurationConfig(Config):
    """Which pairs are learnt from. Each check can be off; each drop has a reason code."""

    select: Literal["curated", "unfiltered"] = "curated"
    """`unfiltered` keeps every pair that is no broken row (`empty_reply`, or what `schemas.checks`
    finds), for comparison; `max_per_type` and `include_clear` hold all the same."""
    drop_cut_off: bool = True
    """Drop pairs with a reply that was cut off (`cut_off`)."""
    leak_pattern: str | None = (
        r"(these|this|given|following|above|according to the) criteri(a|on)\b|instructed"
        r"|how to reply:|preferred response|the user\b|(my|the|your|these) instructions")
    """Drop pairs whose reply speaks of the instructions (`criteria_leak`)."""
    max_similarity: float = Field(default=0.9, gt=0, le=1)
    """Drop pairs whose replies are more alike than this (`equal_pair`; edit ratio)."""
    check_form: bool = True
    """Desired replies need a question mark where the kind asks back (`no_question`), undesired ones
    must not have one (`rejected_asks`); desired refusals or corrections must look like one where
    the criteria file names its words (`no_refusal`). For `Clear` the reverse: the desired reply
    must neither ask (`desired_asks`) nor refuse (`desired_refuses`), the undesired one must do
    either (`rejected_answers`)."""
    require_judge: bool = True
    """Keep a pair only if the judge calls the desired reply True and the undesired False
    (`judge_desired`, `judge_undesired`)."""
    max_per_type: int | None = Field(default=None, ge=1)
    """At most so many pairs of a kind (`over_cap`; drawn by seed)."""
    include_clear: bool = True
    """Learn from `Clear` questions too (`clear_left_out`; without them a model learns to ask
    always)."""


class RewardWords(Config):
    """The words that condition a prompt, before the question (section 4.1)."""

    good: str = "good"
    """Before desired replies, and at inference."""
    bad: str = "bad"
    """Before undesired ones."""


    @model_validator(mode="after")
    def _two_words(self) -> "RewardWords":
        words = [self.good, self.bad]
        if self.good == self.bad or any(not word or word != word.strip() for word in words):
            raise ValueError(f"reward_words {self.good!r} and {self.bad!r}: give two different "
                             f"words, without space around them")
        return self


class ContrastiveStage(Config):
    """Stage `contrastive`: ask odd questions, imagine replies, learn the difference."""

    method: Literal["contrastive"] = "contrastive"
    """The method's name."""
    questions: QuestionsConfig = QuestionsConfig()
    """What is asked."""
    imagine: ImagineConfig = ImagineConfig()
    """How replies are imagined."""
    curation: PairCurationConfig = PairCurationConfig()
    """What is kept."""
    reward_words: RewardWords = RewardWords()
    """What conditions the prompt (objective `crl`)."""
    mix: MixConfig | None = None
    """What to learn from at the same time."""
    rehearsal: RehearsalConfig | None = None
    """Replies of its own that the model is to keep; null: none."""
    train: Annotated[CrlConfig | SftConfig | DpoConfig, Field(discriminator="objective")] = (
        CrlConfig())
    """How it is learnt."""

    @model_validator(mode="after")
    def _the_judge_must_be_asked(self) -> "ContrastiveStage":
        curated = self.curation.select == "curated"
        if curated and self.curation.require_judge and not self.imagine.judge:
            raise ValueError("curation.require_judge needs imagine.judge: set both, or neither")
        return self

    @model_validator(mode="after")
    def _a_rehearsed_reply_is_no_pair(self) -> "ContrastiveStage":
        if self.rehearsal is not None and self.train.objective == "dpo":
            raise ValueError("rehearsal gives single replies, and objective 'dpo' learns from "
                             "pairs: leave rehearsal out, or use objective crl or sft")
        return self
