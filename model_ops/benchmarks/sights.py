"""What is on the images of a benchmark, by name: what POPE asks about and CHAIR compares with."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from model_ops.benchmarks.questions import image_rows
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.rows import ImageRef
from schemas.store import Store


class Sight(NamedTuple):
    """An image and the different objects on it, sorted."""

    image: ImageRef
    objects: tuple[str, ...]


def nursery_sights(
    store: Store, images: Manifest, said: Sequence[str] = ("shape",)
) -> Iterator[Sight]:
    """Every image with what its things are called: their shape, as a class of COCO's is a noun, or
    several facts in a row (`("colour", "shape")`: "red circle"). Raises `ConfigError` for an image
    without facts."""
    for ref, row in image_rows(store, images, ["image_id", "facts"]):
        if row.facts is None:
            raise ConfigError(f"image {row.image_id} has no facts: pope without pope.*_uri, and "
                              f"chair without chair.*_uri, need nursery images")
        things = json.loads(row.facts)["things"]
        yield Sight(ref, tuple(sorted({" ".join(each[fact] for fact in said) for each in things})))
