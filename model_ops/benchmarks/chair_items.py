"""CHAIR's items: images, and the objects that are on them, from the nursery's facts or from COCO.

An image of COCO holds what its instance annotations or any of its captions name (Rohrbach et al.
2018): annotators leave things out that people speak of. Images are looked up in the annotations,
not the other way round: a collection may be a small part of COCO.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import fsspec

from model_ops.benchmarks.chair import KIND, ChairBenchmark
from model_ops.benchmarks.objects import World, list_digest, object_list
from model_ops.benchmarks.questions import content_digest, image_rows
from model_ops.benchmarks.shards import write_items
from model_ops.benchmarks.sights import Sight, nursery_sights
from schemas.artifacts import find_manifest, publish
from schemas.config import BenchmarkConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest, digest
from schemas.rows import CaptionItemRow, QuarantineRow, row_id
from schemas.store import Store

CODE_VERSION = 1
"""Raise it when planning changes."""


class Annotations(NamedTuple):
    """COCO's two files joined: image file name -> the classes on it, and who has no caption."""

    objects: Mapping[str, list[str]]
    uncaptioned: frozenset[str]


def plan_chair(
    store: Store, config: BenchmarkConfig, images: Manifest, seed: int, prefix: str, shard_size: int
) -> Manifest:
    """Plan at most `num_items` images, drawn by seed.

    Images without annotations go to quarantine (`unknown_image`, `no_caption`). Raises
    `ConfigError` where no image is left, or a file is not COCO's.
    """
    world = world_of(config)
    settings = {"domain": config.domain, "num_items": config.num_items,
                "chair": config.chair.model_dump(mode="json", exclude={"max_tokens"})}
    contents = [content_digest(config.chair.instances_uri, "chair.instances_uri"),
                content_digest(config.chair.captions_uri, "chair.captions_uri")]
    inputs = digest(["plan chair", CODE_VERSION, settings, contents, list_digest(world),
                     images.digest, seed, shard_size])
    if (done := find_manifest(store, prefix, inputs)) is not None:
        return done
    unusable: list[QuarantineRow] = []
    if world == "coco":
        sights, unusable = _coco_sights(store, config, images)
    else:
        sights = list(nursery_sights(store, images))
    random.Random(f"{seed}/{config.domain}").shuffle(sights)
    rows = [_row(sight, config, seed) for sight in sights[: config.num_items]]
    reasons = Counter(row.reason for row in unusable)
    return publish(store, Manifest(
        kind=KIND, prefix=prefix, inputs_digest=inputs, parents={"images": images.digest},
        shards=write_items(store, prefix, rows, unusable, shard_size, inputs), config=settings,
        funnel={"images": len(rows), "unusable": len(unusable), **dict(sorted(reasons.items()))}))


def world_of(config: BenchmarkConfig) -> World:
    """Whose objects the images hold: COCO's where its files are given, else the nursery's."""
    return "coco" if config.chair.instances_uri else "nursery"


def chair_settings(config: BenchmarkConfig, metric: str) -> ChairBenchmark:
    """The program's settings."""
    world = world_of(config)
    return ChairBenchmark(metric=metric, world=world, objects=list_digest(world),
                          max_tokens=config.chair.max_tokens)


def _coco_sights(
    store: Store, config: BenchmarkConfig, images: Manifest
) -> tuple[list[Sight], list[QuarantineRow]]:
    known = read_annotations(config.chair.instances_uri or "", config.chair.captions_uri or "")
    sights: list[Sight] = []
    unusable: list[QuarantineRow] = []
    for ref, row in image_rows(store, images, ["image_id", "source"]):
        name = row.source.rpartition("/")[2]
        if name in known.objects and name not in known.uncaptioned:
            sights.append(Sight(ref, tuple(known.objects[name])))
            continue
        reason = "no_caption" if name in known.objects else "unknown_image"
        unusable.append(QuarantineRow(
            row_id=row_id("chair", image=ref.image_id, domain=config.domain), kind=KIND,
            reason=reason, detail=row.source, source=config.chair.instances_uri or "",
            payload=ref.model_dump_json()))
    if not sights:
        raise ConfigError(
            f"none of the {len(unusable)} images of {config.images.uri} is both in "
            f"chair.instances_uri and in chair.captions_uri (for example {unusable[0].detail}): "
            f"files are found by their COCO names" if unusable else
            f"{config.images.uri} has no images to describe")
    return sights, unusable


def read_annotations(instances_uri: str, captions_uri: str) -> Annotations:
    """Join COCO's `instances_*.json` and `captions_*.json`. Raises `ConfigError` for other files,
    and where there is not one caption."""
    instances = _read(instances_uri, "chair.instances_uri", ("images", "annotations", "categories"))
    captions = _read(captions_uri, "chair.captions_uri", ("images", "annotations"))
    try:
        return _join(instances, captions, captions_uri)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{instances_uri} or {captions_uri} is not in COCO's layout: "
                          f"{type(error).__name__} {error}") from error


def _join(instances: Mapping[str, Any], captions: Mapping[str, Any], uri: str) -> Annotations:
    coco = object_list("coco")
    classes = {each["id"]: each["name"] for each in instances["categories"]}
    if strangers := sorted(set(classes.values()) - set(coco.classes)):
        raise ConfigError(f"chair.instances_uri has categories that are none of COCO's 80 "
                          f"({', '.join(strangers[:3])}): CHAIR knows words for those 80 only")
    names = {each["id"]: each["file_name"].rpartition("/")[2]
             for each in (*captions["images"], *instances["images"])}
    found: dict[str, set[str]] = {names[each["id"]]: set() for each in instances["images"]}
    captioned: set[str] = set()
    for each in instances["annotations"]:
        found[names[each["image_id"]]].add(classes[each["category_id"]])
    for each in captions["annotations"]:
        name = names[each["image_id"]]
        if name in found and each["caption"].strip():
            captioned.add(name)
            found[name].update(coco.mentions(each["caption"]))
    if not captioned:
        raise ConfigError(f"chair.captions_uri {uri} has no caption of any image of "
                          f"chair.instances_uri: take the captions_*.json of the same images")
    return Annotations({name: sorted(objects) for name, objects in found.items()},
                       frozenset(found.keys() - captioned))


def _read(uri: str, setting: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        with fsspec.open(uri, "rb") as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{setting} {uri} cannot be read: {error}") from error
    if not isinstance(content, Mapping) or any(key not in content for key in keys):
        raise ConfigError(f"{setting} {uri} is not COCO's: it needs {', '.join(keys)}")
    return content


def _row(sight: Sight, config: BenchmarkConfig, seed: int) -> CaptionItemRow:
    question = config.chair.question
    return CaptionItemRow(
        row_id=row_id("chair", image=sight.image.image_id, question=question, domain=config.domain),
        image=sight.image, question=question, objects=list(sight.objects), domain=config.domain,
        seed=seed)
