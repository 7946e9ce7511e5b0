"""Pictures for the page: decoded with the run's limits, shrunk, and embedded as `data:` URIs.

Every picture is re-encoded, so that no byte of an input file reaches the page as it was. Small
pictures (the nursery's) stay exact PNGs and are shown with hard pixels; photographs become JPEGs.
"""

import base64
import io
from dataclasses import dataclass

from model_ops.images import decode
from schemas.errors import DropError

SMALL_SIDE = 96
"""Pictures up to this many pixels a side are kept exact and enlarged without smoothing."""
PHOTO_SIDE = 144
"""Longest side of a photograph's thumbnail: 1.5 times its size on the page, about 6 kB."""
JPEG_QUALITY = 72
MAX_PIXELS = 50_000_000


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture that can stand in a page: its `data:` URI, and whether pixels stay hard."""

    uri: str
    pixelated: bool


def thumbnail(data: bytes) -> Thumbnail | None:
    """Shrink and encode one picture; `None` if it cannot be decoded."""
    try:
        picture = decode(data, MAX_PIXELS)
    except DropError:
        return None
    buffer = io.BytesIO()
    if max(picture.size) <= SMALL_SIDE:
        picture.save(buffer, format="PNG", optimize=True)
        return Thumbnail(_uri("png", buffer), pixelated=True)
    picture.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return Thumbnail(_uri("jpeg", buffer), pixelated=False)


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
