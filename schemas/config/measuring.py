"""What a candidate is measured with, and when it becomes the champion."""

from typing import Literal

from pydantic import Field, model_validator

from schemas.config.base import Config, ImagesConfig
from schemas.config.dialog import DialogPlayConfig, GroupingConfig, check_turn_limit
from schemas.questions import CLEAR, ODD_TYPES
from schemas.questions import slug as kind_slug
from schemas.records import is_lower_better, is_word_count

NURSERY_KINDS = ["yesno", "attribute", "count", "position"]
"""Kinds of the nursery's `vqa` questions."""
POPE_SPLITS = ("random", "popular", "adversarial")
"""POPE's splits where no file says which."""
ANY_KIND = "<kind>"
"""In a metric's name: a kind that only the file of questions knows."""


class JudgeConfig(Config):
    """Who judges replies, with the kind's rubric at temperature 0."""

    kind: Literal["rules", "vlm", "endpoint"] = "rules"
    """`rules`: from the nursery's facts; `vlm`: a local model in the same pool; `endpoint`: an
    OpenAI-compatible URL."""
    model: str | None = None
    """`vlm`: a folder, bucket or hub id (null: the base model, the same for all models)."""
    base_url: str | None = None
    """`endpoint`: its URL."""
    model_name: str | None = None
    """`endpoint`: its name of the model."""
    api_key_env: str = "OPENAI_API_KEY"
    """`endpoint`: environment variable that holds the key."""
    timeout_s: float = Field(default=60, gt=0)
    """`endpoint`: seconds after which a call counts as failed."""
    max_retries: int = Field(default=3, ge=0)
    """`endpoint`: further tries of a failed call; then the item is quarantined."""

    @model_validator(mode="after")
    def _endpoint_is_complete(self) -> "JudgeConfig":
        if self.kind == "endpoint" and not (self.base_url and self.model_name):
            raise ValueError("judge.kind 'endpoint' needs judge.base_url and judge.model_name")
        if "kind" not in self.model_fields_set and (self.base_url or self.model_name or self.model):
            wanted = "vlm" if self.model else "endpoint"
            raise ValueError(f"a judge without a kind goes by rules: set judge.kind to {wanted!r}, "
                             f"or leave judge.model, judge.base_url and judge.model_name out")
        return self


class PieConfig(Config):
    """The benchmark `pie` (methods/contrastive_macaroon.md, section 2)."""

    judge: JudgeConfig = JudgeConfig()
    """Who judges."""
    criteria: str = "default"
    """The criteria set: its rubrics, and the instructions of the `prompted` variant."""
    num_clear: int = Field(default=300, ge=0)
    """`Clear` questions beside the odd ones: how often is a plain question not simply answered?"""
    reward: str = Field(default="model", pattern=r"^\w[\w.-]*$")
    """What stands before each question: the reward word of the model's manifest (`model`), nothing
    (`none`), or this word, such as `bad`: one of the stage's `reward_words`."""
    prompted: bool = False
    """Put the desired criterion into the prompt: the baseline without any training."""
    questions_uri: str | None = None
    """The authors' `evaluation_data.jsonl` (`Image ID`, `Question`, `Question Type`), or yours;
    without it the set is regenerated from `images`."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest reply."""

    @property
    def variant(self) -> str:
        """Part of the names: "" for the main run, else `none`, the word, `prompted`."""
        parts = ["" if self.reward == "model" else self.reward, "prompted" * self.prompted]
        return "-".join(part for part in parts if part)


class PopeConfig(Config):
    """The benchmark `pope` (Li et al. 2023): is an object there, yes or no?"""

    random_uri: str | None = None
    """The authors' JSONL of `image`, `text`, `label`: its absent objects are drawn at random ..."""
    popular_uri: str | None = None
    """... are those that the most images have ..."""
    adversarial_uri: str | None = None
    """... are those that most often stand beside what is there. Without any of the three the images
    must be the nursery's, and all three are made from facts."""
    num_objects: int = Field(default=3, ge=1)
    """Nursery: objects asked about in an image that are there, and as many that are not."""

    @property
    def uris(self) -> dict[str, str]:
        """Split -> file, of those that are given."""
        given = {"random": self.random_uri, "popular": self.popular_uri,
                 "adversarial": self.adversarial_uri}
        return {split: uri for split, uri in given.items() if uri is not None}

    @property
    def num_splits(self) -> int:
        """How many splits are measured."""
        return len(self.uris or POPE_SPLITS)


class ChairConfig(Config):
    """The benchmark `chair` (Rohrbach et al. 2018): which objects does a description make up?"""

    instances_uri: str | None = None
    """COCO's `instances_*.json`; with `captions_uri` what the images hold. Without both the images
    must be the nursery's."""
    captions_uri: str | None = None
    """COCO's `captions_*.json` of the same images."""
    question: str | None = None
    """What is asked about every image; null: the prompt set's `calibrated.describe_1`."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest description; figures of descriptions that were cut off elsewhere do not compare."""

    @model_validator(mode="after")
    def _both_files_or_none(self) -> "ChairConfig":
        if (self.instances_uri is None) != (self.captions_uri is None):
            raise ValueError("chair.instances_uri and chair.captions_uri go together: an image "
                             "holds what either of them names")
        return self


class BenchmarkConfig(Config):
    """One benchmark."""

    kind: Literal["game", "vqa", "pie", "pope", "chair"]
    """`game`: held-out games; `vqa`: questions with known answers; `pie`: odd questions and clear
    ones, judged by whether the model engages (MACAROON's benchmark); `pope`: is an object there?;
    `chair`: descriptions, searched for objects that are not there."""
    images: ImagesConfig
    """Held-out images. An image that a training game used is refused."""
    domain: str = "field"
    """Prefix of the metric names."""
    num_items: int = Field(default=1000, ge=1)
    """Games or questions (`pie`: odd ones, in equal shares; the authors' set has 853). At most so
    many: `pope`: questions of each split (nursery: of whole images), `chair`: images."""
    num_images: int = Field(default=4, ge=2)
    """`game`: images per game."""
    questions_uri: str | None = None
    """`vqa` on real images: a JSONL or Parquet file of `image` (path as in `images`), `question`,
    `answers` and perhaps `kind`; scored by VQA-accuracy. Without it the images must be the
    nursery's, whose questions are made from facts and scored by exact match."""
    play: DialogPlayConfig = DialogPlayConfig(rotations=True, blind=False, reasks=0,
                                              counterfactual=False)
    """`game`: the rules."""
    grouping: GroupingConfig = GroupingConfig()
    """`game`: how images become games."""
    pie: PieConfig = PieConfig()
    """`pie`: what is asked and who judges."""
    pope: PopeConfig = PopeConfig()
    """`pope`: where its questions are."""
    chair: ChairConfig = ChairConfig()
    """`chair`: what is asked, and what the images hold."""
    cross_play: bool = False
    """`game`: the candidate describes, the champion guesses: gains that vanish with an older
    partner are a private code. The metric is `<domain>/game<N>_crossplay`."""

    @property
    def slug(self) -> str:
        """Name of the benchmark's folder, for example `field-game4`."""
        size = str(self.num_images) if self.kind == "game" else ""
        cross = "-cross" if self.cross_play else ""
        variant = f"-{self.pie.variant}" if self.kind == "pie" and self.pie.variant else ""
        return f"{self.domain}-{self.kind}{size}{cross}{variant}"

    @property
    def gate_metrics(self) -> list[str]:
        """The metrics that it scores item by item, which a gate can compare: no ratio of sums (F1)
        and no mean of means; nothing of cross-play, in which the base has no rival."""
        name = f"{self.domain}/{self.kind}"
        if self.cross_play:
            return []
        if self.kind == "game":
            name += str(self.num_images)
            return [f"{name}_success", *[f"{name}_rotation"] * self.play.rotations]
        if self.kind == "chair":
            return [f"{name}_clean", f"{name}_recall"]
        if self.kind == "pie":
            name += f"-{self.pie.variant}" if self.pie.variant else ""
            kinds = [kind_slug(kind) for kind in (*ODD_TYPES, *[CLEAR] * (self.pie.num_clear > 0))]
            return [f"{name}_{each}" for each in ("aar", "aar_soft", *kinds)]
        if self.kind == "pope":
            return [name, *(f"{name}_{split}" for split in self.pope.uris or POPE_SPLITS)]
        kinds = [ANY_KIND] if self.questions_uri else NURSERY_KINDS
        return [name, *(f"{name}_{kind}" for kind in kinds)]

    @model_validator(mode="after")
    def _has_a_turn_limit(self) -> "BenchmarkConfig":
        if self.kind == "game":
            check_turn_limit(self.play, self.num_images)
        return self

    @model_validator(mode="after")
    def _knows_what_is_there(self) -> "BenchmarkConfig":
        if self.images.uri.startswith("nursery://"):
            return self
        if self.kind == "pope" and not self.pope.uris:
            raise ValueError(f"pope on {self.images.uri} needs questions: set pope.random_uri, "
                             f"pope.popular_uri or pope.adversarial_uri to the authors' files")
        if self.kind == "chair" and self.chair.instances_uri is None:
            raise ValueError(f"chair on {self.images.uri} needs to know what is there: set "
                             f"chair.instances_uri and chair.captions_uri to COCO's files")
        return self


class EvaluationConfig(Config):
    """What every candidate is measured with."""

    benchmarks: list[BenchmarkConfig] = []
    """The benchmarks; the seeds are fixed, so that two evaluations pair item by item."""
    seed: int = 20_000
    """Seed of the items."""

    @model_validator(mode="after")
    def _names_differ(self) -> "EvaluationConfig":
        slugs = [benchmark.slug for benchmark in self.benchmarks]
        if twice := {slug for slug in slugs if slugs.count(slug) > 1}:
            raise ValueError(f"two benchmarks are called {', '.join(sorted(twice))}: give them "
                             f"different `domain`s")
        return self


class GatePolicy(Config):
    """When a candidate becomes the champion."""

    primary: str = "field/game4_success"
    """The metric that must rise."""
    min_gain: float = 0.0
    """The lower end of the paired bootstrap interval of the gain must exceed this. Unless it is
    negative, an exact test must find a gain at the same confidence, too."""
    guards: dict[str, float] = {}
    """Metric -> the largest fall below the champion that is tolerated (a fraction: 0.01 is one
    point)."""
    base_guards: dict[str, float] = {}
    """The same against the base (round 0): what all rounds together may cost. Small falls that
    `guards` allows would add up."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of the intervals."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that it compares."""
        return (self.primary, *self.guards, *self.base_guards)

    @model_validator(mode="after")
    def _figures_must_rise(self) -> "GatePolicy":
        if falling := [name for name in self.metrics if is_lower_better(name)]:
            raise ValueError(f"{', '.join(falling)} falls when a model gets better: the gate takes "
                             f"figures that rise (for over-asking: `<domain>/pie_clear`; for made "
                             f"up objects: `<domain>/chair_clean`)")
        if words := [name for name in self.metrics if is_word_count(name)]:
            raise ValueError(f"{', '.join(words)} is a number of words, not a share that should "
                             f"rise: the gate cannot take it (for saying less: "
                             f"`<domain>/chair_recall`)")
        return self
