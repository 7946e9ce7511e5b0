"""What a program is told beside its item: prompts, settings, and where its row will belong."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from model_ops.prompts import Prompts

SettingsT = TypeVar("SettingsT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class JobContext(Generic[SettingsT]):
    """The same for all programs of a job. `seed` decides the programs' own seeded picks."""

    prompts: Prompts
    settings: SettingsT
    round: int
    stage: str
    model_digest: str
    seed: int
