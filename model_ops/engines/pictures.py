"""Images for engines: read by reference, decoded where they are used, remembered for a while.

A game shows the same few images dozens of times, so a bounded memory of decoded images saves most
of the work. Where the bytes come from is left to the caller, how they are decoded to
`model_ops.images`.
"""

import base64
import io
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from model_ops.looks import DECLARED_LIMIT, look_at
from schemas.rows import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

ReadImage = Callable[[ImageRef], bytes]
"""From a reference to the encoded bytes of an image."""

_REMEMBERED_PIXELS = 48_000_000


class PictureMemory:
    """Decoded images, least recently used out first once they exceed *capacity* pixels."""

    def __init__(self, read: ReadImage, max_pixels: int | None = None,
                 capacity: int = _REMEMBERED_PIXELS) -> None:
        self._read = read
        self._max_pixels = max_pixels
        self._capacity = capacity
        self._held: OrderedDict[tuple[str, str], Image] = OrderedDict()
        self._num_pixels = 0

    def picture(self, ref: ImageRef, look: str = "") -> "Image":
        """The decoded image (RGB, upright), shrunk to at most `max_pixels`, in the light of `look`.

        Raises `DropError` if it cannot be decoded.
        """
        key = (ref.image_id, look)
        held = self._held.get(key)
        if held is not None:
            self._held.move_to_end(key)
            return held
        from model_ops.images import decode

        picture = shrink(decode(self._read(ref), DECLARED_LIMIT), self._max_pixels)
        picture = look_at(picture, look)
        self._held[key] = picture
        self._num_pixels += picture.width * picture.height
        while self._num_pixels > self._capacity and len(self._held) > 1:
            _, dropped = self._held.popitem(last=False)
            self._num_pixels -= dropped.width * dropped.height
        return picture

    def data_url(self, ref: ImageRef, look: str = "") -> str:
        """The image as a `data:` URL (PNG), as OpenAI-compatible endpoints take it."""
        buffer = io.BytesIO()
        self.picture(ref, look).save(buffer, "PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def shrink(picture: "Image", max_pixels: int | None) -> "Image":
    """The picture scaled to at most *max_pixels* pixels, its aspect kept."""
    pixels = picture.width * picture.height
    if max_pixels is None or pixels <= max_pixels:
        return picture
    scale = math.sqrt(max_pixels / pixels)
    size = max(1, int(picture.width * scale)), max(1, int(picture.height * scale))
    return picture.resize(size)
