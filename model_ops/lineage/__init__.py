"""Where a row came from and what learnt from it: the walk behind `flywheel explain`.

The one idea: nothing is kept for this walk. Every row names its model, prompts and seed, every
manifest its parents, and the round records every artifact, so the whole history of a row is read
from what is there anyway. `places` finds rows, `chains` follows one, `walk` tells the story.
"""

from model_ops.lineage.walk import Lineage, Step, explain

__all__ = ["Lineage", "Step", "explain"]
