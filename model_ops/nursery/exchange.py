"""One lesson of the tiny VLM, and what a skill is."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from model_ops.nursery.world import Scene


@dataclass(frozen=True, slots=True)
class Exchange:
    """One user text about one image, and what the model should say."""

    user: str
    completion: str


Skill = Callable[[Scene, random.Random], Exchange]
