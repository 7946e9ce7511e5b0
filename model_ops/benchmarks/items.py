"""From a benchmark's configuration to its items: import the held-out images, plan games or
questions, and name the program that answers them.

The same configuration and seed give the same items for every model; finished planning is reused.
"""

from typing import Any, NamedTuple

from model_ops.benchmarks.chair_items import chair_settings, plan_chair
from model_ops.benchmarks.game import GameBenchmark
from model_ops.benchmarks.pie_items import pie_settings, plan_pie
from model_ops.benchmarks.pope_items import plan_pope
from model_ops.benchmarks.questions import file_questions, nursery_questions
from model_ops.benchmarks.shards import write_items
from model_ops.benchmarks.vqa import VqaBenchmark
from model_ops.grouping import plan_games
from model_ops.images import import_images
from schemas.artifacts import find_manifest, publish, read_rows
from schemas.config import BenchmarkConfig, EngineConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest, digest
from schemas.rows import ImageRow, QuarantineRow
from schemas.store import Store

CODE_VERSION = 4
"""Raise it when question planning changes."""


class Items(NamedTuple):
    """A planned benchmark: its images, its items, and the program (with settings) for them."""

    images: Manifest
    items: Manifest
    program: str
    settings: dict[str, Any]


def plan_benchmark(
    store: Store,
    config: BenchmarkConfig,
    seed: int,
    prefix: str,
    shard_size: int,
    engine: EngineConfig,
) -> Items:
    """Import the images to `<prefix>/images` and plan the items in `<prefix>/items`."""
    images = import_images(store, config.images, f"{prefix}/images", shard_size)
    if config.kind == "game":
        items = plan_games(
            store,
            images,
            config.grouping,
            {config.num_images: config.num_items},
            seed,
            f"{prefix}/items",
            shard_size,
            engine,
        )
        rules = GameBenchmark(metric=metric_name(config), play=config.play)
        return Items(images, items, "game_benchmark", rules.model_dump(mode="json"))
    if config.kind == "pie":
        judged = pie_settings(config, metric_name(config))
        items = plan_pie(store, config, images, seed, f"{prefix}/items", shard_size)
        return Items(images, items, "pie", judged.model_dump(mode="json"))
    if config.kind == "pope":
        asked = VqaBenchmark(metric=metric_name(config), scoring="yes_or_no")
        items = plan_pope(store, config, images, seed, f"{prefix}/items", shard_size)
        return Items(images, items, "pope", asked.model_dump(mode="json"))
    if config.kind == "chair":
        described = chair_settings(config, metric_name(config))
        items = plan_chair(store, config, images, seed, f"{prefix}/items", shard_size)
        return Items(images, items, "chair", described.model_dump(mode="json"))
    items = _plan_questions(store, config, images, seed, f"{prefix}/items", shard_size)
    scoring = VqaBenchmark(
        metric=metric_name(config), scoring="vqa_accuracy" if config.questions_uri else "exact"
    )
    return Items(images, items, "vqa", scoring.model_dump(mode="json"))


def metric_name(config: BenchmarkConfig) -> str:
    """Name of the benchmark's main metric, such as `field/game4_success`."""
    if config.kind in ("vqa", "pope"):
        return f"{config.domain}/{config.kind}"
    if config.kind == "chair":
        return f"{config.domain}/chair_clean"
    if config.kind == "pie":
        return f"{config.domain}/{'-'.join(filter(None, ['pie', config.pie.variant]))}_aar"
    outcome = "crossplay" if config.cross_play else "success"
    return f"{config.domain}/game{config.num_images}_{outcome}"


def refuse_training_images(store: Store, training: Manifest, held_out: Manifest) -> None:
    """Raise `ConfigError` if an image of *held_out* is in *training* (by the bytes' sha256)."""
    known = _image_ids(store, training)
    shared = sorted(known & _image_ids(store, held_out))
    if shared:
        raise ConfigError(
            f"{len(shared)} of {held_out.num_rows} images of {held_out.prefix} are also in "
            f"{training.prefix} (for example {shared[0]}): measure on other images, or another seed"
        )


def _image_ids(store: Store, images: Manifest) -> set[str]:
    return {row.image_id for row in read_rows(store, images, ImageRow, ["image_id"])}


def _plan_questions(
    store: Store,
    config: BenchmarkConfig,
    images: Manifest,
    seed: int,
    prefix: str,
    shard_size: int,
) -> Manifest:
    settings = config.model_dump(mode="json", include={"domain", "num_items", "questions_uri"})
    inputs = digest(["plan questions", CODE_VERSION, settings, images.digest, seed, shard_size])
    if (done := find_manifest(store, prefix, inputs)) is not None:
        return done
    if config.questions_uri is None:
        unusable: list[QuarantineRow] = []
        rows = list(nursery_questions(store, images, config.num_items, config.domain, seed))
    else:
        rows, unusable = file_questions(
            store, images, config.questions_uri, config.num_items, config.domain, seed
        )
    manifest = Manifest(
        kind="questions",
        prefix=prefix,
        inputs_digest=inputs,
        parents={"images": images.digest},
        shards=write_items(store, prefix, rows, unusable, shard_size, inputs),
        funnel={"questions": len(rows), "unusable": len(unusable)},
        config=settings,
    )
    return publish(store, manifest)
