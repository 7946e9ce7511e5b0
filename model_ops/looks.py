"""Looks: one picture in other lights, so that a question about it can be asked more than once.

The one idea: photometric changes leave the true answer as it is. Where a model's answers differ
between looks, what most of them say is more often right than what it says of the picture as it is
(self-consistency, arXiv 2203.11171, over views instead of samples). No look moves a pixel, so
positions and counts hold too.
"""

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

DECLARED_LIMIT = 500_000_000
"""Pixels that a stored image may declare; the import has its own, configured limit."""

_CUTOFF = 1
"""Per cent of the darkest and of the brightest pixels that stretching may clip."""


def look_at(picture: "Image", look: str) -> "Image":
    """The picture (RGB) in another light; as it is for the look ""."""
    return LOOKS[look](picture) if look else picture


def encoded_look(data: bytes, look: str) -> bytes:
    """The encoded picture *data* in another light (as PNG); the same bytes for the look "".

    Raises `DropError` if it cannot be decoded.
    """
    if not look:
        return data
    from model_ops.images import decode

    buffer = io.BytesIO()
    look_at(decode(data, DECLARED_LIMIT), look).save(buffer, "PNG")
    return buffer.getvalue()


def _stretched(picture: "Image") -> "Image":
    from PIL import ImageOps

    return ImageOps.autocontrast(picture, cutoff=_CUTOFF, preserve_tone=True)


def _dimmed(picture: "Image") -> "Image":
    return picture.point([round(0.7 * level) for level in range(256)] * 3)


def _gamma(power: float) -> Callable[["Image"], "Image"]:
    table = [round(255 * (level / 255) ** power) for level in range(256)] * 3
    return lambda picture: picture.point(table)


LOOKS: Mapping[str, Callable[["Image"], "Image"]] = {
    "stretched": _stretched,
    "dimmed": _dimmed,
    "lighter": _gamma(0.67),
    "deeper": _gamma(1.5),
    "deepest": _gamma(2.0),
}
"""Name of each look (as in `play.looks`) -> what it does."""
