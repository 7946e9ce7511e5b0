"""Long steps show how far they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_ops.engines import clip_scorer
from model_ops.images import Progress, import_images
from model_ops.stages import StagePlace
from schemas.config import RunConfig
from schemas.store import Store
from tasks import dialog, prepare


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[int, int]]]:
    """Key of a progress artifact -> what it was told, for tasks without a Prefect server."""
    told: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def progress(_title: str, key: str) -> Iterator[Progress]:
        yield lambda done, total: told.setdefault(key, []).append((done, total))

    for tasks in (dialog, prepare):
        monkeypatch.setattr(tasks, "progress", progress)
        monkeypatch.setattr(tasks, "noted", lambda _store, _prefix, work: work())
    return told


def config_of(root: Path) -> RunConfig:
    return RunConfig.model_validate({
        "root": str(root), "model": {"uri": "nursery://vlm"},
        "images": {"uri": "nursery://field", "limit": 300},
        "stages": [{"method": "dialog", "games": {2: 4}}]})


def test_importing_images_shows_progress(
        tmp_path: Path, shown: dict[str, list[tuple[int, int]]]) -> None:
    prepare.import_images.fn(config_of(tmp_path))
    assert shown == {"progress-images": [(256, 300), (300, 300)]}


def test_embedding_images_shows_progress(
        tmp_path: Path, shown: dict[str, list[tuple[int, int]]],
        monkeypatch: pytest.MonkeyPatch) -> None:
    def map_shards(_kind: object, _arguments: object, rows: list[dict[str, int]], _engine: object
                   ) -> Iterator[dict[str, Any]]:
        for row in rows:
            num = 256 if row["shard"] == 0 else 44
            vectors = np.random.default_rng(num).normal(size=(num, 8)).astype(np.float32)
            yield {"shard": row["shard"], "dim": 8, "vectors": vectors.tobytes()}

    monkeypatch.setattr("model_ops.engines.pool.map_shards", map_shards)
    monkeypatch.setattr(clip_scorer, "encoder_identity", lambda _: "clip")
    config = config_of(tmp_path)
    images = import_images(Store(config.root), config.images)
    dialog.plan_games.fn(StagePlace(config, 1, 0), images)
    assert shown == {"progress-embeddings": [(256, 300), (300, 300)]}
