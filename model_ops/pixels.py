"""From the bytes of a picture to RGB pixels, or to the reason why not.

Its one idea: bytes are hostile until decoded. What the header declares is checked before any pixel
is, only raster formats are tried (no PostScript), and everything a decoder may raise becomes a
`DropError`. Reason codes: `empty_file`, `not_an_image`, `too_many_pixels`, `undecodable_image`.
"""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from schemas.errors import DropError

FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """The picture as RGB, upright (EXIF), first frame, transparency on white.

    `DropError` if it declares more than `max_pixels` or cannot be decoded to its end.
    """
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise DropError("too_many_pixels", f"{width} x {height}, the limit is {max_pixels}")
    try:
        image.load()
        return _to_rgb(_upright(image))
    except Image.DecompressionBombError as error:
        raise DropError("too_many_pixels", str(error)) from error
    except Exception as error:  # decoders raise anything on hostile bytes
        raise DropError("undecodable_image", f"{type(error).__name__}: {error}") from error


def _open(data: bytes) -> Image.Image:
    if not data:
        raise DropError("empty_file")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:  # Pillow's own limit comes before ours
        raise DropError("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        reason = "undecodable_image" if data.startswith(_SIGNATURES) else "not_an_image"
        raise DropError(reason, f"starts with {data[:8]!r}") from error
    except Exception as error:  # decoders raise anything on hostile bytes
        raise DropError("undecodable_image", f"{type(error).__name__}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Deep grey to 8 bits: Pillow's own conversion would clip it to white.

    The range is the format's: 65,535 for integers; for floats 1 if none is larger, else 255.
    """
    values = np.asarray(image, dtype=np.float64)
    top = 65_535.0 if image.mode.startswith("I") else (1.0 if values.max() <= 1 else 255.0)
    grey = np.nan_to_num(values / top * 255).clip(0, 255).round()
    return Image.fromarray(grey.astype(np.uint8))
