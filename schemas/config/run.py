"""A whole run: everything that the other files describe, and when it ends."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas.config.base import Config, EngineConfig, ImagesConfig, ModelConfig
from schemas.config.calibrated import CalibratedStage
from schemas.config.contrastive import ContrastiveStage
from schemas.config.dialog import DialogStage
from schemas.config.measuring import ANY_KIND, EvaluationConfig, GatePolicy

Stage = Annotated[DialogStage | ContrastiveStage | CalibratedStage, Field(discriminator="method")]
"""One method with its settings; `method` says which."""


class StopRule(Config):
    """When a run ends by itself."""

    rounds: int = Field(default=3, ge=1)
    """At most so many rounds."""
    budget_minutes: float | None = Field(default=None, gt=0)
    """Start no further round after so much wall-clock time."""
    plateau: int | None = Field(default=2, ge=1)
    """Stop after so many rounds in a row that were held."""


class RunConfig(Config):
    """A whole run: `improve` flow, `flywheel run`."""

    root: str
    """Where everything is written: a folder or `s3://bucket/prefix`."""
    seed: int = 0
    """The run's seed; all others derive from it."""
    model: ModelConfig = ModelConfig()
    """The base model."""
    images: ImagesConfig = ImagesConfig()
    """The unlabelled images."""
    engine: EngineConfig = EngineConfig()
    """How model calls are answered."""
    stages: list[Stage] = Field(default=[DialogStage()], min_length=1)
    """The stages of a round, in order."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured."""
    gate: GatePolicy = GatePolicy()
    """When to promote."""
    stop: StopRule = StopRule()
    """When to end."""
    init_from: Literal["champion", "base"] = "champion"
    """The weights that a round's training starts from."""
    reference: Literal["previous", "base"] = "previous"
    """The model that objective `dpo` compares with: the one that its training starts from, or the
    base of round 0."""
    history: Literal["round", "all"] = "round"
    """Train on this round's rows, or on those of all rounds (`train.replay`: on a share of the
    earlier ones)."""
    shard_size: int = Field(default=128, ge=1)
    """Rows per shard: the unit of resume."""
    lease_minutes: float = Field(default=10, gt=0)
    """A lock that was not renewed for so long may be taken over."""

    @field_validator("stages", mode="before")
    @classmethod
    def _dialog_is_the_default(cls, stages: Any) -> Any:
        """A stage that does not name its method is a dialog stage."""
        if not isinstance(stages, list):
            return stages
        return [{"method": "dialog", **stage} if isinstance(stage, dict) else stage
                for stage in stages]

    @model_validator(mode="after")
    def _a_mix_is_from_an_earlier_stage(self) -> "RunConfig":
        for number, stage in enumerate(self.stages):
            if stage.mix is None or (method := stage.mix.method) is None:
                continue
            earlier = [each.method for each in self.stages[:number]]
            if method not in earlier:
                raise ValueError(f"stages[{number}].mix.uri {stage.mix.uri}: no {method!r} stage "
                                 f"comes before it (before it: {earlier or 'none'})")
            if (stage.train.objective, method) == ("dpo", "dialog"):
                raise ValueError(f"stages[{number}].mix.uri {stage.mix.uri}: objective 'dpo' "
                                 f"learns from pairs, and games make none")
        return self

    @model_validator(mode="after")
    def _replay_is_a_share_of_history(self) -> "RunConfig":
        for number, stage in enumerate(self.stages):
            if self.history == "all" and stage.train.replay > 0:
                raise ValueError(f"history 'all' learns from all earlier rows, stages[{number}]."
                                 f"train.replay {stage.train.replay:g} from a share of them: set "
                                 f"history to 'round', or replay to 0")
        return self

    @model_validator(mode="after")
    def _pie_asks_with_words_that_are_learnt(self) -> "RunConfig":
        stages = [stage for stage in self.stages if stage.method == "contrastive"]
        words = {word for stage in stages for word in (stage.reward_words.good,
                                                       stage.reward_words.bad)}
        for benchmark in self.evaluation.benchmarks:
            reward = benchmark.pie.reward
            if words and benchmark.kind == "pie" and reward not in {"model", "none", *words}:
                raise ValueError(f"pie.reward {reward!r}: no stage learns that word; its words are "
                                 f"{', '.join(sorted(words))}, or use 'model' or 'none'")
        return self

    @property
    def incomparable(self) -> str | None:
        """Which metrics of the gate no benchmark scores item by item: rounds would be held for
        ever. None: all are scored, or nothing is measured."""
        known = [name for each in self.evaluation.benchmarks for name in each.gate_metrics]
        begun = tuple(name.removesuffix(ANY_KIND) for name in known if name.endswith(ANY_KIND))
        unknown = [name for name in self.gate.metrics
                   if name not in known and not name.startswith(begun)]
        if not unknown or not self.evaluation.benchmarks:
            return None
        return (f"gate: no benchmark scores {', '.join(unknown)} item by item, so every round "
                f"would be held; what can be compared: {', '.join(known) or 'nothing'}")

    @model_validator(mode="after")
    def _gate_compares_what_is_measured(self) -> "RunConfig":
        """The untouched gate may stand in a configuration that only measures; `improve` refuses."""
        if self.incomparable and self.gate != GatePolicy():
            raise ValueError(self.incomparable)
        return self

    @model_validator(mode="after")
    def _nursery_prompts_have_no_joint_mode(self) -> "RunConfig":
        plays = [stage.play for stage in self.stages if stage.method == "dialog"]
        plays += [b.play for b in self.evaluation.benchmarks if b.kind == "game"]
        if self.model.prompts == "nursery" and any(play.guesser == "joint" for play in plays):
            raise ValueError("the prompt set 'nursery' shows one image at a time: set "
                             "play.guesser to per_image in every stage and game benchmark")
        return self

    @model_validator(mode="after")
    def _nursery_needs_a_limit(self) -> "RunConfig":
        sources = [self.images, *(b.images for b in self.evaluation.benchmarks)]
        for images in sources:
            if images.uri.startswith("nursery://") and images.limit is None:
                raise ValueError(f"images.limit is needed for {images.uri}: how many to draw")
        return self
