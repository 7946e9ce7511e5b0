"""Steps of `deploy/prefect.yaml`: the example configurations become the deployments' parameters."""

from pathlib import Path
from typing import Any

from deploy.console import load_config


def read_config(path: str) -> dict[str, Any]:
    """`{{ config.value }}`: the configuration at `path`, checked, with what stands in the file (a
    stage's `method` may be a default, but says which stage it is); `{{ config.folder }}`: here."""
    value = load_config(Path(path)).model_dump(mode="json", exclude_unset=True)
    return {"value": value, "folder": str(Path.cwd())}
