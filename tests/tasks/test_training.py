"""What the train task hands on of the run's configuration."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_ops.stages import StagePlace
from schemas.config import RunConfig
from tasks import training


@pytest.mark.parametrize("max_pixels", [None, 1000])
def test_training_sees_pictures_of_the_engines_size(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_pixels: int | None) -> None:
    config = RunConfig.model_validate({
        "root": str(tmp_path), "model": {"uri": "nursery://vlm"},
        "images": {"uri": "nursery://field", "limit": 8},
        "engine": {"max_image_pixels": max_pixels}, "stages": [{"method": "dialog"}]})
    monkeypatch.setattr(training, "progress", lambda *_: nullcontext())
    monkeypatch.setattr(training, "noted", lambda _store, _prefix, work: work())
    monkeypatch.setattr(training, "training_rows", lambda *_: [])
    asked: dict[str, Any] = {}
    monkeypatch.setattr(training.launch, "train", lambda *_, **options: asked.update(options))
    made: Any = SimpleNamespace()
    training.train.fn(StagePlace(config, 1, 0), made, made)
    assert asked["max_image_pixels"] == max_pixels
