"""The configuration of a run: what `flywheel run CONFIG.yaml` and every Prefect flow take.

Frozen, closed to unknown keys, with a docstring under each field. The hash of a part of it is what
decides whether a stage's finished work may be reused (see `schemas.manifest`).
"""

from schemas.config.base import Config, EngineConfig, ImagesConfig, ModelConfig
from schemas.config.dialog import (
    DialogCurationConfig,
    DialogPlayConfig,
    DialogStage,
    GroupingConfig,
)
from schemas.config.measuring import BenchmarkConfig, EvaluationConfig, GatePolicy
from schemas.config.run import RunConfig, StopRule
from schemas.config.training import SftConfig

__all__ = [
    "BenchmarkConfig",
    "Config",
    "DialogCurationConfig",
    "DialogPlayConfig",
    "DialogStage",
    "EngineConfig",
    "EvaluationConfig",
    "GatePolicy",
    "GroupingConfig",
    "ImagesConfig",
    "ModelConfig",
    "RunConfig",
    "SftConfig",
    "StopRule",
]
