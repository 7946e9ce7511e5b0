"""The configuration of a run: what `flywheel run CONFIG.yaml` and every Prefect flow take.

Frozen, closed to unknown keys, with a docstring under each field. The hash of a part of it is what
decides whether a stage's finished work may be reused (see `schemas.manifest`).
"""

from schemas.config.base import Config, EngineConfig, ImagesConfig, ModelConfig
from schemas.config.calibrated import CalibratedStage, PreferenceConfig, SearchConfig
from schemas.config.contrastive import (
    ContrastiveStage,
    ImagineConfig,
    MixConfig,
    PairCurationConfig,
    QuestionsConfig,
    RewardWords,
)
from schemas.config.describing import DescriptionPromptsConfig, RehearsalConfig
from schemas.config.dialog import (
    DialogCurationConfig,
    DialogPlayConfig,
    DialogStage,
    GroupingConfig,
)
from schemas.config.measuring import (
    BenchmarkConfig,
    ChairConfig,
    EvaluationConfig,
    GatePolicy,
    JudgeConfig,
    PieConfig,
    PopeConfig,
)
from schemas.config.run import RunConfig, Stage, StopRule
from schemas.config.training import CrlConfig, DpoConfig, SftConfig, TrainConfig

__all__ = [
    "BenchmarkConfig",
    "CalibratedStage",
    "ChairConfig",
    "Config",
    "ContrastiveStage",
    "CrlConfig",
    "DescriptionPromptsConfig",
    "DialogCurationConfig",
    "DialogPlayConfig",
    "DialogStage",
    "DpoConfig",
    "EngineConfig",
    "EvaluationConfig",
    "GatePolicy",
    "GroupingConfig",
    "ImagesConfig",
    "ImagineConfig",
    "JudgeConfig",
    "MixConfig",
    "ModelConfig",
    "PairCurationConfig",
    "PieConfig",
    "PopeConfig",
    "PreferenceConfig",
    "QuestionsConfig",
    "RehearsalConfig",
    "RewardWords",
    "RunConfig",
    "SearchConfig",
    "SftConfig",
    "Stage",
    "StopRule",
    "TrainConfig",
]
