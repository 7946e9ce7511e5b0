"""What a training job is, and what the code that runs it offers to an objective.

Its one idea: an objective (`sft`, `crl`, `dpo`; later `grpo`) is a function `fit(job, session)`
that knows TRL and nothing of Ray, stores of checkpoints or restarts; `launch` knows those and
nothing of losses.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from schemas.config import CrlConfig, DpoConfig, ModelConfig, SftConfig
from schemas.manifest import Manifest, digest
from schemas.store import Store

CODE_VERSION = 2
"""Raise it when a change of this package makes the same inputs give another model."""

ObjectiveConfig = SftConfig | CrlConfig | DpoConfig
"""How to train: the class says by which objective."""


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One training: rows and a start model in, a model at `prefix` out. Travels to the workers."""

    store: Store
    rows: tuple[Manifest, ...]
    """Oldest round first; the last one is this round's."""
    start: Manifest
    config: ObjectiveConfig
    model: ModelConfig
    prefix: str
    seed: int
    reward_word: str = ""
    """What the published model has to be asked with, "" for nothing. With `crl` the rows' prompts
    have their words; with the others the collators put this one in."""
    mix: Manifest | None = None
    """General data, learnt from beside this round's rows."""
    rehearsal: Manifest | None = None
    """What `start` says by itself, learnt from beside them."""
    reference: Manifest | None = None
    """The model that `dpo` compares with, where it is not `start`."""
    max_image_pixels: int | None = None
    """Larger pictures are shrunk to it, as the engines do (`engine.max_image_pixels`)."""

    @property
    def inputs_digest(self) -> str:
        """Identity of everything that shapes the trained model."""
        pixels = self.max_image_pixels
        return digest([CODE_VERSION, self.config.model_dump(mode="json"), self.model.dtype,
                       [m.digest for m in self.rows], self.start.digest, self.seed,
                       *filter(None, [self.reward_word, self.mix and self.mix.digest,
                                      self.rehearsal and f"rehearsal {self.rehearsal.digest}",
                                      self.reference and f"reference {self.reference.digest}",
                                      pixels and f"max_image_pixels {pixels}"])])

    @property
    def parents(self) -> dict[str, str]:
        """Name of each input -> its digest."""
        rows = {f"train{position or ''}": m.digest
                for position, m in enumerate(reversed(self.rows))}
        others = {"mix": self.mix, "rehearsal": self.rehearsal, "reference": self.reference}
        return {"start": self.start.digest, **rows,
                **{name: other.digest for name, other in others.items() if other}}


class Step(NamedTuple):
    """A line of `metrics.jsonl`: means since the line before."""

    step: int
    num_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    rows_per_second: float
    reward_accuracy: float | None = None
    """`dpo`: share of pairs whose chosen reply has the higher implicit reward."""
    reward_margin: float | None = None
    """`dpo`: beta * (log-ratio of the chosen reply - log-ratio of the rejected one)."""


class Fitted(NamedTuple):
    """What a worker's `fit` ends with; `folder` (the model) is None but for rank 0."""

    folder: Path | None
    stats: dict[str, float]


class Session(Protocol):
    """Where a worker stands in its job."""

    rank: int
    scratch: Path
    """A folder of this worker's own, removed when it ends."""

    def checkpoint(self) -> AbstractContextManager[str | None]:
        """A local folder with the last checkpoint; None at the very start."""

    def save(self, folder: Path, step: int) -> None:
        """Keep a checkpoint (every worker calls this, with its own files)."""

    def log(self, steps: Sequence[Step], last: bool) -> None:
        """Publish the metrics so far (rank 0)."""


Row = dict[str, Any]
"""A row as `datasets` hands it over: plain lists and dicts."""
