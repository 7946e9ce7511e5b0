"""The stage `calibrated`: how replies are searched for, scored, and which are preferred."""

from typing import Any, Literal

from pydantic import Field, model_validator

from schemas.config.base import Config, Look
from schemas.config.describing import DescriptionPromptsConfig
from schemas.config.training import DpoConfig, MixConfig

REFERENCE_SEARCH: dict[str, Any] = {
    "num_continuations": 5, "keep_top": 1, "keep_bottom": 2, "prune_by": "lm",
    "reward_mode": "rank", "sentence_ends": ["."], "max_sentence_tokens": 70, "max_tokens": 1024,
}
"""methods/calibrated_csr.md, section 2: what the reference code does, but for:

- its beams: continuations are sampled;
- its 1,024 characters, prompt included: here tokens of the reply; and its want of a limit in
  sentences;
- a continuation without an end in its tokens: the reference goes on from it, here it is dropped
  (`no_sentence_end`);
- an end of text: the reference writes on behind it, up to the next full stop, and drops a path that
  ends in nothing new; here it finishes the reply, or with nothing new its parent's;
- full stops: the reference's sentence ends at every one; here one after a digit ends it where white
  space and words follow (no decimal, no list's number), one after an abbreviation or a single
  letter (an initial) never."""
PAPER_SEARCH: dict[str, Any] = {
    **REFERENCE_SEARCH, "keep_top": 3, "keep_bottom": 2, "prune_by": "calibrated",
    "reward_mode": "paper_raw", "max_sentence_tokens": 74,
}
"""The same section: what the paper says."""
_SEARCHES = {"reference": REFERENCE_SEARCH, "paper": PAPER_SEARCH}


class SearchConfig(Config):
    """Sentence by sentence: every kept prefix is continued, scored, pruned (section 2)."""

    preset: Literal["reference", "paper"] | None = None
    """How is searched, `reference`: the authors' code; `paper`: their text. What is written beside
    it goes first. What is preferred then, `preference` says by itself: for the paper's way as a
    whole set `preference.reward_mode: paper_raw` too."""
    num_continuations: int = Field(default=5, ge=1)
    """Continuations sampled for each kept prefix, before siblings that are equal are merged."""
    keep_top: int = Field(default=1, ge=0)
    """Prefixes kept at each depth from the best end of the order; all of them, where fewer than
    `num_continuations` can go on ..."""
    keep_bottom: int = Field(default=2, ge=0)
    """... and from the worst: rejected replies have to come from somewhere."""
    prune_by: Literal["lm", "calibrated"] = "lm"
    """The order: cumulative mean log-probability, or the calibrated reward so far."""
    lam: float = Field(default=0.9, ge=0, le=1)
    """For `calibrated`: weight of image relevance against the model's own probability."""
    reward_mode: Literal["rank", "paper_raw"] = "rank"
    """For `calibrated`: how the two are put together, as in `preference.reward_mode`."""
    temperature: float = Field(default=0.9, gt=0)
    """Sampling replaces the authors' diverse group beams, which vLLM has not (a declared
    deviation)."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus of the same."""
    sentence_ends: list[str] = Field(default=[".", "!", "?"], min_length=1)
    """Texts that end a sentence (a full stop in a decimal or after an abbreviation does not)."""
    max_sentences: int = Field(default=12, ge=1)
    """A reply that has so many sentences is finished as it is."""
    max_sentence_tokens: int = Field(default=70, ge=1)
    """Tokens of one continuation; one that finds no end in them is dropped (`no_sentence_end`)."""
    max_tokens: int = Field(default=1024, ge=1)
    """Tokens of a whole reply; a longer one is finished as it is."""
    looks: list[Look] = []
    """Sample as many continuations with the image in each of these lights (`model_ops/looks.py`),
    as `play.looks` does; the model then learns them as replies to the image as it is. What it gave
    to a sentence is what it gave in the light in which it said it."""
    scorer: str = "nursery://clip"
    """The CLIP or SigLIP model of image relevance: a folder, a hub id, or `nursery://clip`."""
    scorer_look: Look | None = None
    """The light in which the scorer sees the image; null: as it is."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset") in _SEARCHES:
            return {**_SEARCHES[given["preset"]], **given}
        return given

    @model_validator(mode="after")
    def _something_is_kept(self) -> "SearchConfig":
        if self.keep_top + self.keep_bottom == 0:
            raise ValueError("search.keep_top and search.keep_bottom are both 0: nothing would be "
                             "continued")
        return self


class PreferenceConfig(Config):
    """From scored search trees to preference pairs (section 2.3); asks no model."""

    reward_mode: Literal["rank", "paper_raw"] = "rank"
    """`rank`: mean rank among siblings, as the authors' code; `paper_raw`: the paper's sums of
    lam * R_I + (1 - lam) * R_T."""
    lam: float = Field(default=0.9, ge=0, le=1)
    """The paper's lambda: weight of image relevance against the model's own probability."""
    count_root: bool = True
    """`rank`: divide a reply's cost by its sentences and one more, as the authors' code does, which
    favours short replies; false: by its sentences, the plain mean."""
    min_margin: float | None = Field(default=None, ge=0)
    """Drop pairs whose keys differ by less (`small_margin`)."""
    max_length_ratio: float | None = Field(default=None, ge=1)
    """Drop pairs whose longer reply has more than so many times the shorter one's words
    (`length_ratio`)."""


class CalibratedStage(Config):
    """Stage `calibrated`: search for replies, prefer what image and model agree on, learn it."""

    method: Literal["calibrated"] = "calibrated"
    """The method's name."""
    prompts: DescriptionPromptsConfig = DescriptionPromptsConfig()
    """What is asked."""
    search: SearchConfig = SearchConfig()
    """How replies are found."""
    preference: PreferenceConfig = PreferenceConfig()
    """Which are preferred."""
    mix: MixConfig | None = None
    """What to learn from at the same time."""
    train: DpoConfig = DpoConfig(preset="csr")
    """How it is learnt: always `dpo`."""
