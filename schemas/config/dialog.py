"""The stage `dialog`: how images become games, the rules, and what is kept."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.config.base import Config, Count, Look
from schemas.config.describing import RehearsalConfig
from schemas.config.training import MixConfig, SftConfig

GameSize = Annotated[int, Field(ge=2)]
"""Images of a game."""


class GroupingConfig(Config):
    """How images are put together into games. Labels and facts are never looked at."""

    method: Literal["similarity", "cluster", "random"] = "similarity"
    """`similarity`: neighbours of a seed image; `cluster`: inside a k-means cluster; `random`: any
    images, which makes easy games."""
    encoder: str = "nursery://clip"
    """The image encoder: a CLIP or SigLIP folder or hub id, or `nursery://clip`."""
    nearest: int = Field(default=1, ge=1)
    """`similarity`: the closest neighbour rank that may be a distractor (1: the most alike)."""
    farthest: int = Field(default=12, ge=1)
    """`similarity`: the farthest neighbour rank that may be a distractor."""
    max_cosine: float = Field(default=0.999, gt=0, le=1)
    """Images more alike than this count as duplicates and never share a game."""


class DialogPlayConfig(Config):
    """The rules of the game (methods/dialog_games.md, section 3)."""

    guesser: Literal["joint", "per_image"] = "joint"
    """`joint`: all images in one prompt; `per_image`: one call per candidate, best fit wins."""
    max_turns: dict[GameSize, Annotated[int, Field(ge=1)]] = {2: 3, 4: 6}
    """Turn limit by number of images."""
    ready_confidence: float = Field(default=0.9, gt=0, le=1)
    """`per_image`: guess early once the best candidate's belief reaches this (in `joint` mode the
    model itself says when it is ready)."""
    verdict_scope: Literal["pair", "dialog"] = "pair"
    """`per_image`: judge a candidate by the newest question and answer only (beliefs multiply over
    turns), or by the whole dialog at every turn (the newest verdict is the belief)."""
    belief_clip: float = Field(default=0.02, gt=0, lt=0.5)
    """`per_image`: a verdict counts as at least this and at most 1 - this, so that one wrong
    verdict can be made good."""
    ask_temperature: float = Field(default=0.7, ge=0)
    """Temperature of questions."""
    answer_temperature: float = Field(default=0.3, ge=0)
    """Temperature of answers."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus of questions and answers."""
    looks: list[Look] = []
    """Show the Describer the target in these lights too, and take the answer that most of them give
    (`model_ops/looks.py`); what it says of the picture as it is decides among equals only. The
    answer is learnt for the picture as it is. Counterfactuals are asked without."""
    rotations: bool = True
    """Replay the guess with the images in every other order (joint mode: extra calls)."""
    blind: bool = True
    """Guess once per order without the dialog: what could be known without asking."""
    reasks: int = Field(default=3, ge=0)
    """Ask the Describer each question again so many times (self-consistency); 0 is off."""
    reask_temperature: float = Field(default=0.7, ge=0)
    """Temperature of the re-asked answers."""
    counterfactual: bool = True
    """Ask the Describer the same questions about the nearest distractor."""

    @model_validator(mode="after")
    def _looks_replace_reasks(self) -> "DialogPlayConfig":
        if self.looks and self.reasks:
            raise ValueError("play.looks and play.reasks contradict each other, as re-asks show "
                             "the picture as it is: set play.reasks to 0; the share of looks "
                             "that agree is what curation.min_agreement checks")
        return self


class DialogCurationConfig(Config):
    """Which games are learnt from (methods/dialog_games.md, section 4). Each check can be off."""

    select: Literal["curated", "unfiltered", "random"] = "curated"
    """`unfiltered` keeps all parsed games; `random` as many as `curated` would, picked blindly."""
    require_win: bool = True
    """Drop lost games."""
    min_rotation_pass: float | None = Field(default=0.75, ge=0, le=1)
    """Least share of image orders that lead to the target (2 images: always 1.0)."""
    max_blind_pass: float | None = Field(default=0.75, gt=0, le=1)
    """Drop a game whose target is guessed without the dialog at least this often."""
    forbid_leak: bool = True
    """Drop games that name positions or files, or whose answer dumps a caption."""
    max_answer_words: int = Field(default=25, ge=1)
    """A longer answer counts as a caption dump."""
    max_question_similarity: float | None = Field(default=0.9, gt=0, le=1)
    """Drop games with two questions more alike than this (edit ratio)."""
    max_cannot_tell: float | None = Field(default=0.5, ge=0, le=1)
    """Drop games in which more than this share of the answers is "cannot tell"."""
    min_consistency: float | None = Field(default=0.5, ge=0, le=1)
    """Every answer must be repeated by at least this share of its re-asks."""
    require_counterfactual: bool = True
    """At least one answer must differ for the nearest distractor."""
    difficulty: tuple[float, float] | None = None
    """Keep games whose pass rate over image orders lies in this band (`joint` mode with more than
    two images; elsewhere every game that passes `min_rotation_pass` has a pass rate of 1)."""
    max_per_group: int | None = Field(default=3, ge=1)
    """Games kept per image group."""
    max_per_target: int | None = Field(default=2, ge=1)
    """Games kept per target image."""
    role_weights: dict[
        Literal["ask", "answer", "decide", "guess", "verdict"], Annotated[float, Field(ge=0)]
    ] = {
        "ask": 0.5, "answer": 1.0, "decide": 1.0, "guess": 1.0, "verdict": 1.0,
    }
    """Loss weight of each role's rows; 0 (or no entry) leaves the role out. In joint mode the
    private summary is part of the `decide` rows."""
    counterfactual_answers: bool = False
    """Also learn what the Describer said about the nearest distractor (further `answer` rows)."""
    guess_rotations: bool = True
    """Joint mode: repeat each `guess` row for all image orders, the position re-mapped."""
    max_distractor_belief: float = Field(default=0.05, ge=0, lt=1)
    """`per_image`: a distractor gives "no" rows only if its final belief is at most this, ..."""
    max_distractor_fit: float = Field(default=0.5, gt=0, le=1)
    """... and only on turns whose own verdict, P(yes, it fits), is at most this."""
    min_target_fit: float | None = Field(default=None, ge=0, le=1)
    """`per_image`: learn nothing from a turn whose answer the Guesser, looking at the target,
    believed less than this: both seats must agree."""
    closed_answers_only: bool = False
    """Learn yes and no answers, and verdicts about them, only: an open question may presuppose what
    is not in the target."""
    min_agreement: float | None = Field(default=None, ge=0, le=1)
    """Learn nothing from a turn whose answer fewer than this share of `play.looks` gave. What was
    said of the picture as it is does not count: where all lights contradict it, there is most to
    learn."""
    answers_of_dropped_games: bool = False
    """Learn the answers of games that were dropped for what the Guesser did, too (lost, repeated
    questions, caps, ...): losing says nothing against answers that several looks gave. Their
    questions, verdicts and guesses are not learnt, nor answers that leak or evade."""
    look_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the rows, drawn by row, that are learnt once more with their pictures in one of
    `play.looks`: a model that learns hazy pictures alone forgets more of clear ones."""
    balance_answers: bool = False
    """Keep equally many yes and no completions within each role (guards against collapse to one
    of them), those that most looks agree on first."""

    @model_validator(mode="after")
    def _controls_learn_what_they_draw(self) -> "DialogCurationConfig":
        if self.answers_of_dropped_games and self.select != "curated":
            raise ValueError(f"curation.select {self.select!r} is a control: set "
                             "curation.answers_of_dropped_games to false with it")
        return self


class DialogStage(Config):
    """Stage `dialog`: play games, keep the good ones, learn from them."""

    method: Literal["dialog"] = "dialog"
    """The method's name."""
    games: dict[GameSize, Count] = {4: 800, 2: 400}
    """Number of games by number of images."""
    grouping: GroupingConfig = GroupingConfig()
    """How images become games."""
    play: DialogPlayConfig = DialogPlayConfig()
    """The rules."""
    curation: DialogCurationConfig = DialogCurationConfig()
    """What is kept."""
    mix: MixConfig | None = None
    """What to learn from at the same time."""
    rehearsal: RehearsalConfig | None = None
    """Replies of its own that the model is to keep; null: none."""
    train: SftConfig = SftConfig()
    """How it is learnt."""

    @model_validator(mode="after")
    def _every_size_has_a_limit(self) -> "DialogStage":
        for num_images in self.games:
            check_turn_limit(self.play, num_images)
        return self

    @model_validator(mode="after")
    def _agreement_needs_looks(self) -> "DialogStage":
        if self.play.looks:
            return self
        if self.curation.min_agreement is not None:
            raise ValueError("curation.min_agreement is about play.looks, and there are none: name "
                             "looks, or check re-asked answers by curation.min_consistency")
        if self.curation.look_share:
            raise ValueError("curation.look_share needs play.looks, and there are none: name "
                             "looks, or leave it out")
        if self.curation.answers_of_dropped_games:
            raise ValueError("curation.answers_of_dropped_games needs play.looks: re-asks are made "
                             "in won games only, so nothing would have checked a lost game's "
                             "answers")
        return self

    @model_validator(mode="after")
    def _difficulty_needs_image_orders(self) -> "DialogStage":
        has_orders = self.play.guesser == "joint" and self.play.rotations
        if self.curation.difficulty is not None and not has_orders:
            raise ValueError("curation.difficulty is a band of pass rates over image orders, and "
                             "these rules play one order: use play.guesser joint with "
                             "play.rotations, or leave difficulty out")
        return self


def check_turn_limit(play: DialogPlayConfig, num_images: int) -> None:
    """Raise `ValueError` if games of `num_images` images have no turn limit."""
    if num_images not in play.max_turns:
        raise ValueError(f"play.max_turns has no limit for games of {num_images} images: add "
                         f"one, such as {{{num_images}: {num_images + 2}}}")
