"""Grouping: alike images, exact balance, duplicates kept apart, determinism, clear errors."""

import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from model_ops import grouping as grouping_module
from model_ops.engines import clip_scorer
from model_ops.engines.clip_scorer import encoder_identity
from model_ops.grouping import draw, plan_games, read_refs
from model_ops.images import import_images
from model_ops.neighbours import Vectors, cluster, rank_neighbours, to_unit
from schemas.artifacts import read_rows
from schemas.config import EngineConfig, GroupingConfig, ImagesConfig
from schemas.errors import ConfigError
from schemas.rows import GameRow, ImageRef
from schemas.store import Store

METHODS = pytest.mark.parametrize("method", ["similarity", "cluster", "random"])


def families(num: int, size: int = 6, dim: int = 16, spread: float = 0.1) -> Vectors:
    """Unit vectors in tight families of *size*."""
    rng = np.random.default_rng(1)
    centres = np.repeat(rng.standard_normal((num, dim)), size, axis=0)
    return to_unit(centres + spread * rng.standard_normal(centres.shape))


def refs(num: int) -> list[ImageRef]:
    return [ImageRef(image_id=f"{n:05d}", shard=n // 50, row=n % 50) for n in range(num)]


def drawn(method: str, num_images: int, num_games: int, seed: int = 0) -> list[GameRow]:
    vectors = families(20)
    config = GroupingConfig.model_validate({"method": method, "farthest": 5})
    return list(draw(refs(len(vectors)), vectors, config, num_images, num_games, seed))


@METHODS
@pytest.mark.parametrize("num_images", [2, 4])
def test_target_positions_are_balanced_exactly(method: str, num_images: int) -> None:
    rows = drawn(method, num_images, 160)
    counts = Counter(row.target for row in rows)
    assert [counts[place] for place in range(num_images)] == [160 // num_images] * num_images
    uneven = Counter(row.target for row in drawn(method, 4, 30))
    assert max(uneven.values()) - min(uneven.values()) <= 1


@METHODS
def test_a_game_has_distinct_images_and_ids_are_unique(method: str) -> None:
    rows = drawn(method, 4, 200)
    assert all(len({ref.image_id for ref in row.images}) == 4 for row in rows)
    assert len({row.row_id for row in rows}) == 200
    assert all(row.grouping == method for row in rows)
    assert all(row.nearest is not None and row.nearest != row.target for row in rows)


@METHODS
def test_drawing_is_a_function_of_the_seed(method: str) -> None:
    assert drawn(method, 4, 50) == drawn(method, 4, 50)
    assert drawn(method, 4, 50) != drawn(method, 4, 50, seed=1)


@pytest.mark.parametrize("method", ["similarity", "cluster"])
def test_distractors_are_alike(method: str) -> None:
    hard = np.mean([row.mean_similarity for row in drawn(method, 4, 100)])
    easy = np.mean([row.mean_similarity for row in drawn("random", 4, 100)])
    assert hard > easy + 0.3


def test_similarity_stays_within_the_ranks() -> None:
    vectors = families(20)
    config = GroupingConfig(nearest=2, farthest=4)
    for row in draw(refs(120), vectors, config, 3, 60, 0):
        seed = int(row.images[row.target].image_id)
        ranked = [int(n) for n in np.argsort(-(vectors @ vectors[seed])) if n != seed]
        ranks = [ranked.index(int(ref.image_id)) + 1 for ref in row.images if
                 int(ref.image_id) != seed]
        assert all(2 <= rank <= 4 for rank in ranks)


def test_nearest_is_the_distractor_most_like_the_target() -> None:
    vectors = families(20)
    for row in draw(refs(120), vectors, GroupingConfig(), 4, 40, 0):
        shown = vectors[[int(ref.image_id) for ref in row.images]]
        cosines = shown @ shown[row.target]
        cosines[row.target] = -1
        assert row.nearest == int(cosines.argmax())


def test_duplicates_never_share_a_game() -> None:
    vectors = families(20)
    vectors = np.concatenate([vectors, vectors])
    for method in ("similarity", "cluster", "random"):
        config = GroupingConfig.model_validate({"method": method, "max_cosine": 0.999})
        for row in draw(refs(240), vectors, config, 4, 60, 0):
            shown = [int(ref.image_id) % 120 for ref in row.images]
            assert len(set(shown)) == 4


def test_every_image_is_a_target_before_any_is_one_again() -> None:
    targets = Counter(row.images[row.target].image_id for row in drawn("similarity", 2, 120))
    assert set(targets.values()) == {1}
    assert len(targets) == 120


def test_the_same_images_are_the_same_group_in_any_order() -> None:
    rows = drawn("cluster", 4, 400)
    by_group: dict[str, set[frozenset[str]]] = {}
    for row in rows:
        ids = frozenset(ref.image_id for ref in row.images)
        by_group.setdefault(row.group_id, set()).add(ids)
    assert all(len(sets) == 1 for sets in by_group.values())


def test_too_few_distractors_say_what_to_do() -> None:
    same = to_unit(np.ones((12, 4)))
    with pytest.raises(ConfigError, match=r"give more images, raise grouping\.farthest"):
        list(draw(refs(12), same, GroupingConfig(), 4, 3, 0))


def test_neighbours_are_those_of_brute_force() -> None:
    vectors = families(30)
    for ranked in rank_neighbours(vectors, np.arange(180), 7, 1.0):
        cosines = vectors @ vectors[ranked.seed]
        cosines[ranked.seed] = -np.inf
        assert list(ranked.neighbours) == list(np.argsort(-cosines, kind="stable")[:7])


def test_clusters_find_the_families() -> None:
    labels = cluster(families(10, size=30, spread=0.02), 10, seed=3)
    pure = [len(set(labels[start : start + 30])) == 1 for start in range(0, 300, 30)]
    assert sum(pure) >= 7


def test_ten_thousand_images_are_grouped_in_seconds() -> None:
    vectors = families(2000, size=5, dim=32)
    started = time.monotonic()
    rows = list(draw(refs(10_000), vectors, GroupingConfig(), 4, 1000, 0))
    assert len(rows) == 1000
    assert time.monotonic() - started < 20


def test_images_are_embedded_once_a_root(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ImagesConfig(uri="nursery://field", limit=8)
    first = import_images(local_store, source, "a/images")
    again = import_images(local_store, source, "b/images")
    other = import_images(local_store, source.model_copy(update={"seed": 5}), "c/images")
    calls: list[int] = []

    def embed_images(*args: object) -> Vectors:
        calls.append(1)
        return families(4, size=2)

    monkeypatch.setattr(clip_scorer, "embed_images", embed_images)
    made = [grouping_module.embed(local_store, images, GroupingConfig(), EngineConfig())
            for images in (first, again, other)]
    assert np.array_equal(made[0], made[1])
    assert len(calls) == 2


def test_plan_games_publishes_once(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ImagesConfig(uri="nursery://field", limit=60)
    images = import_images(local_store, source, shard_size=16)
    calls: list[int] = []

    def embed(*args: object) -> Vectors:
        calls.append(1)
        return families(12, size=5)

    monkeypatch.setattr(grouping_module, "embed", embed)
    args = (GroupingConfig(), {4: 20, 2: 10}, 5, "games", 8, EngineConfig())
    manifest = plan_games(local_store, images, *args)
    rows = list(read_rows(local_store, manifest, GameRow))
    assert Counter(len(row.images) for row in rows) == {4: 20, 2: 10}
    assert [shard.num_rows for shard in manifest.shards] == [8, 8, 8, 6]
    assert manifest.funnel == {"images": 60, "games": 30}
    known = {ref.image_id: ref for ref in read_refs(local_store, images)}
    assert len(known) == 60
    assert all(known[ref.image_id] == ref for row in rows for ref in row.images)
    assert plan_games(local_store, images, *args) == manifest
    assert calls == [1]


def test_games_and_embeddings_belong_to_the_encoders_weights_and_the_images_size(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images = import_images(local_store, ImagesConfig(uri="nursery://field", limit=60))
    calls: list[int] = []

    def embed_images(*args: object) -> Vectors:
        calls.append(1)
        return families(12, size=5)

    def planned(max_pixels: int | None = None) -> str:
        engine = EngineConfig(max_image_pixels=max_pixels)
        return plan_games(local_store, images, GroupingConfig(encoder=str(encoder)), {2: 8}, 5,
                          "games", 8, engine).inputs_digest

    monkeypatch.setattr(clip_scorer, "embed_images", embed_images)
    encoder = tmp_path / "clip"
    shutil.copytree(clip_scorer.resolve_encoder("nursery://clip"), encoder)
    before = [planned(), planned(), planned(4096)]
    assert (before[0] == before[1], len(calls)) == (True, 2)
    weights = encoder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert len({*before, planned()}) == len(calls) == 3
    assert encoder_identity("google/siglip2") == "google/siglip2"


@pytest.mark.parametrize(
    ("games", "words"), [({8: 1}, "too few for games of 8"), ({}, "at least one size")]
)
def test_impossible_plans_are_refused(
    local_store: Store, games: dict[int, int], words: str
) -> None:
    images = import_images(local_store, ImagesConfig(uri="nursery://home", limit=4))
    with pytest.raises(ConfigError, match=words):
        plan_games(local_store, images, GroupingConfig(), games, 0, "games", 8, EngineConfig())
