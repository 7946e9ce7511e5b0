"""The pictures of a row: found by image id, saved as PNG files, or drawn in the terminal."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style

from schemas.artifacts import read_manifest
from schemas.store import Store

MAX_PIXELS = 50_000_000
COLUMNS = 48
"""Width of a drawn picture in characters."""
TO_BENCHMARK = {"benchmarks": 1, "evaluation": 1, "rival": 1, "base": 1, "evaluations": 2}
"""Folders that hold benchmarks' artifacts: how far behind each its benchmark's name stands."""


class Picture(NamedTuple):
    """A picture of a row and what it is called there."""

    name: str
    data: bytes


def pictures_of(store: Store, prefix: str, row: dict[str, Any]) -> list[Picture]:
    """The pictures that a row holds or refers to, in its order."""
    held = [row["image"]] if isinstance(row.get("image"), dict) else row.get("images") or []
    if held and "bytes" in held[0]:
        return [Picture(f"{place}", entry["bytes"]) for place, entry in enumerate(held)]
    named = row.get("image_ids") or list(filter(None, [row.get("image_id")]))
    ids = [ref["image_id"] for ref in held] or named
    found = dict(_by_id(store, _images_prefix(prefix), set(ids))) if ids else {}
    return [Picture(f"{place}", found[image]) for place, image in enumerate(ids) if image in found]


def save(pictures: list[Picture], folder: Path) -> list[Path]:
    """Write the pictures as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{picture.name}.png" for picture in pictures]
    for path, picture in zip(paths, pictures, strict=True):
        _open(picture.data).save(path)
    return paths


def drawn(picture: Picture) -> Segments:
    """A picture in half-block characters: two pixels a character, above each other."""
    image = _open(picture.data)
    height = max(2, round(COLUMNS * image.height / image.width / 2) * 2)
    image = image.resize((COLUMNS, height), Image.Resampling.NEAREST)
    segments: list[Segment] = []
    for y in range(0, height, 2):
        for x in range(COLUMNS):
            segments.append(Segment("▀", Style(color=_color(image, x, y),
                                               bgcolor=_color(image, x, y + 1))))
        segments.append(Segment.line())
    return Segments(segments)


def _color(image: Image.Image, x: int, y: int) -> Color:
    red, green, blue = image.getpixel((x, y))  # type: ignore[misc]  # RGB: three numbers
    return Color.from_rgb(red, green, blue)


def _open(data: bytes) -> Image.Image:
    from model_ops.images import decode

    return decode(data, MAX_PIXELS)


def _images_prefix(prefix: str) -> str:
    """The images that an artifact's ids belong to: a benchmark's own, or the run's."""
    parts = prefix.split("/")
    for place, part in enumerate(parts):
        at = place + TO_BENCHMARK.get(part, len(parts))
        if at < len(parts):
            judged_again = part != "benchmarks" and at + 1 < len(parts)  # field-pie-rules/sample
            name = parts[at].rpartition("-")[0] if judged_again else parts[at]
            return f"benchmarks/{name}/images"
    return "images"


def _by_id(store: Store, prefix: str, ids: set[str]) -> Iterator[tuple[str, bytes]]:
    manifest = read_manifest(store, prefix)
    for shard in manifest.shards:
        file = store.open_parquet(f"{prefix}/{shard.path}")
        present = set(file.read(columns=["image_id"])["image_id"].to_pylist()) & ids
        if present:
            for row in file.read(columns=["image_id", "image"]).to_pylist():
                if row["image_id"] in present:
                    yield row["image_id"], row["image"]["bytes"]
