"""What a model is asked to describe: to search for better replies, or to keep those that it has."""

from pydantic import Field

from schemas.config.base import Config


class DescriptionPromptsConfig(Config):
    """What the model is asked about each image."""

    uri: str | None = None
    """JSON, JSONL or Parquet of `id`, `image`, `input` (the authors' layout; `<image>` in `input`
    is dropped). Null: every image is asked one of the prompt set's own texts, drawn by seed."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most so many prompts: the same ones in every round."""


class RehearsalConfig(DescriptionPromptsConfig):
    """What a model says already, and is to go on saying while it learns something else.

    Before it is trained the model replies to these prompts, at temperature 0, and learns its own
    replies beside the stage's rows: a stage that teaches short replies unlearns long ones."""

    max_tokens: int = Field(default=256, ge=1)
    """A reply that is longer is cut off, and dropped (`cut_off`)."""
