"""The manifest of an artifact: what it is, which shards it has, and what made it.

A manifest is written last and never changed: its existence means that the artifact is complete,
and readers read only the shards that it names.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON-able value or pydantic model, independent of key order."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Shard(BaseModel):
    """One Parquet file of an artifact. `path` is relative to the artifact's prefix."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    path: str
    num_rows: int
    num_bytes: int
    sha256: str
    quarantine_path: str | None = None
    num_quarantined: int = 0
    stats: dict[str, float] = {}
    """Sums over the shard: calls, prompt_tokens, output_tokens, engine_seconds, ..."""


class Manifest(BaseModel):
    """What an artifact is and where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """Row kind (`games`, `transcripts`, `train`, `items`, `images`) or `model`."""
    prefix: str
    """Where the artifact is, relative to the root."""
    inputs_digest: str
    """sha256 over config hash + parent digests + prompt hash + model digest + code version."""
    parents: dict[str, str] = {}
    """Name of each input -> its digest; `prompts`: of the prompt set, where one shaped the rows."""
    shards: list[Shard] = []
    files: dict[str, str] = {}
    """Models: file name -> sha256."""
    funnel: dict[str, int] = {}
    """Counts by step and by drop reason, in order."""
    stats: dict[str, float] = {}
    config: dict[str, Any] = {}
    """The part of the configuration that shaped it."""
    determinism: str = "inputs"
    """`inputs`: the same inputs give the same bytes; `call`: seeded per call;
    `engine`: only the engine was seeded, or it is an endpoint, which may ignore a call's seed.
    What is made of rows has that of the rows."""
    created_at: str = ""

    @property
    def digest(self) -> str:
        """Identity of the content: shards, files and inputs; not the clock, not the timings."""
        shards = [(s.index, s.sha256, s.num_rows) for s in self.shards]
        return digest([self.kind, self.inputs_digest, shards, self.files])

    @property
    def num_rows(self) -> int:
        """Rows over all shards."""
        return sum(s.num_rows for s in self.shards)
