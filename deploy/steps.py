"""Steps of `deploy/prefect.yaml`: the example configurations become the deployments' parameters."""

from pathlib import Path
from typing import Any

from deploy.console import load_config


def read_config(path: str) -> dict[str, Any]:
    """`{{ config.value }}`: the configuration at `path`, checked; `{{ config.folder }}`: here."""
    value = load_config(Path(path)).model_dump(mode="json", exclude_defaults=True)
    return {"value": value, "folder": str(Path.cwd())}
