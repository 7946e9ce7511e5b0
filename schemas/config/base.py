"""What all configuration models share, and the parts that every stage and benchmark uses."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Look = Literal["stretched", "dimmed", "lighter", "deeper", "deepest"]
"""A light in which a picture may be shown again (`model_ops/looks.py`)."""
Count = Annotated[int, Field(ge=0)]
"""How many of a kind or size; 0 is none."""


class Config(BaseModel):
    """Base of all configuration models."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ImagesConfig(Config):
    """Where the unlabelled images come from."""

    uri: str = "nursery://field"
    """A folder or bucket of pictures, or `nursery://home`, `field`, `dusk` (made here)."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many images (required for the nursery)."""
    seed: int = 0
    """Seed of the nursery's scenes; with a folder, of the order in which `limit` picks."""
    max_pixels: int = Field(default=50_000_000, ge=1)
    """An image that declares more pixels than this is quarantined, not decoded."""


class ModelConfig(Config):
    """The model that plays, learns and is measured."""

    uri: str = "nursery://vlm"
    """A local folder, a bucket, a hub id, or `nursery://vlm` (the shipped tiny model)."""
    prompts: Literal["nursery", "default"] = "default"
    """The prompt set: `default` for real models, `nursery` in the tiny model's vocabulary."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "auto"
    """The weights' type while generating and training."""


class EngineConfig(Config):
    """How model calls are answered."""

    kind: Literal["vllm", "endpoint"] = "vllm"
    """`vllm` in the actor's process, or an OpenAI-compatible `endpoint` (flow `generate` only: its
    model cannot be trained or measured here)."""
    num_actors: int = Field(default=1, ge=1)
    """How many engines work side by side (the Ray Data pool's size)."""
    num_cpus: float = Field(default=1, ge=0)
    """CPUs that Ray reserves for an engine; on a CPU machine also its number of threads."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs that Ray reserves for an engine."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share one model."""
    max_model_len: int = Field(default=8192, ge=64)
    """Context length in tokens, image tokens included."""
    max_num_seqs: int | None = Field(default=None, ge=1)
    """Requests that the engine runs at a time; null: what vLLM takes for the device (256 to
    1,024)."""
    live_programs: int = Field(default=256, ge=1)
    """Games (or benchmark items) that are in flight in one actor."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of GPU memory that vLLM may take."""
    kv_cache_gib: int = Field(default=1, ge=1)
    """GiB of KV cache per engine on a CPU."""
    enforce_eager: bool = False
    """Skip graph capture: starts faster; the only mode on a CPU."""
    max_image_pixels: int | None = Field(default=None, ge=64)
    """Shrink an image that has more pixels than this before the model sees it."""
    base_url: str | None = None
    """URL of the endpoint (kind `endpoint` only)."""
    model_name: str | None = None
    """The endpoint's name of the model (kind `endpoint` only)."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key."""
    timeout_s: float = Field(default=120, gt=0)
    """Seconds after which an endpoint call counts as failed."""
    max_concurrency: int = Field(default=32, ge=1)
    """Endpoint calls in flight."""
    max_retries: int = Field(default=4, ge=0)
    """Further tries of a failed endpoint call."""

    @model_validator(mode="after")
    def _endpoint_is_complete(self) -> "EngineConfig":
        if self.kind == "endpoint" and not (self.base_url and self.model_name):
            raise ValueError("engine.kind 'endpoint' needs engine.base_url and engine.model_name")
        if "kind" not in self.model_fields_set and (self.base_url or self.model_name):
            raise ValueError("engine.base_url and engine.model_name are of an endpoint: set "
                             "engine.kind to 'endpoint', or leave them out")
        return self
