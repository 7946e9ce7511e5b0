"""What the world is drawn with: anti-aliased masks of the shapes, textures of the ground, a bank
of noise.

Everything is made once at import with fixed seeds, so that drawing a scene is a few array
operations. world.py decides what is drawn; this module only knows how.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

GRID = 3
CELL = 16
PIXELS = GRID * CELL
RADII = {"big": 7.2, "small": 4.2}
_OVERSAMPLE = 4
_NUM_NOISE = 256

Plane = NDArray[np.float32]


def _plane(values: ArrayLike) -> Plane:
    return np.asarray(values, dtype=np.float32)


def _inside(shape: str, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether points in the unit disc's square belong to the shape; y points down."""
    match shape:
        case "circle":
            return x * x + y * y <= 0.92
        case "square":
            return np.maximum(abs(x), abs(y)) <= 0.82
        case "triangle":
            return (y <= 0.8) & (abs(x) <= (y + 0.95) * 0.56)
        case "cross":
            return (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 0.95)
        case "star":
            angle = np.arctan2(x, -y)
            folded = abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5) / (np.pi / 5)
            return np.hypot(x, y) <= 1.05 - 0.66 * folded
        case "diamond":
            return abs(x) * 1.35 + abs(y) <= 1.0
    raise ValueError(f"no such shape: {shape}")


def _mask(shape: str, radius: float) -> Plane:
    """float32[16, 16, 1] coverage of the shape, centred in its cell."""
    side = CELL * _OVERSAMPLE
    axis = ((np.arange(side) + 0.5) / _OVERSAMPLE - CELL / 2) / radius
    x, y = np.meshgrid(axis, axis)
    fine = _inside(shape, x, y).reshape(CELL, _OVERSAMPLE, CELL, _OVERSAMPLE)
    return fine.mean(axis=(1, 3), dtype=np.float32)[:, :, None]


SPRITES: dict[tuple[str, str], Plane] = {
    (shape, size): _mask(shape, radius)
    for shape in ("circle", "square", "triangle", "cross", "star", "diamond")
    for size, radius in RADII.items()
}


def _blotches(rng: np.random.Generator) -> Plane:
    """Smooth random field in 0..1, float32[48, 48]: white noise, blurred in Fourier space."""
    frequency = np.hypot(np.fft.fftfreq(PIXELS)[:, None], np.fft.rfftfreq(PIXELS)[None, :])
    blur = np.exp(-((frequency * 11) ** 2))
    spectrum = np.fft.rfft2(rng.standard_normal((PIXELS, PIXELS))) * blur
    field = np.fft.irfft2(spectrum, s=(PIXELS, PIXELS))
    return _plane((field - field.min()) / np.ptp(field))


_BANK = np.random.default_rng(20_26)
_NOISE = _BANK.standard_normal((_NUM_NOISE, PIXELS, PIXELS, 3)).astype(np.float32)
_BLOTCHES = np.stack([_blotches(_BANK) for _ in range(_NUM_NOISE)])
_ROWS, _COLS = np.mgrid[0:PIXELS, 0:PIXELS].astype(np.float32)


def unit_noise(seed: int) -> Plane:
    """Unit normal noise float32[48, 48, 3]: one of the bank's fields, rolled."""
    field = _NOISE[seed % _NUM_NOISE]
    return _plane(np.roll(field, (seed // _NUM_NOISE) % PIXELS, axis=(seed // 7) % 2))


def draw_ground(
    texture: str,
    first: tuple[int, int, int],
    second: tuple[int, int, int],
    period: float,
    angle: float,
    seed: int,
) -> Plane:
    """The ground float32[48, 48, 3]: `first` where the texture is 0, `second` where it is 1."""
    start = np.asarray(first, dtype=np.float32)
    if texture == "plain":
        return np.broadcast_to(start, (PIXELS, PIXELS, 3)).copy()
    blend = _texture(texture, period, angle, seed)[:, :, None]
    return _plane(start + blend * (np.asarray(second, dtype=np.float32) - start))


def _texture(texture: str, period: float, angle: float, seed: int) -> Plane:
    along = _COLS * np.cos(angle) + _ROWS * np.sin(angle)
    match texture:
        case "gradient":
            return _plane((along - along.min()) / np.ptp(along))
        case "stripes":
            return _plane(0.5 + 0.5 * np.sin(along * 2 * np.pi / period))
        case "checker":
            across = _COLS * np.sin(angle) - _ROWS * np.cos(angle)
            return _plane((along // period + across // period) % 2)
        case "blotches":
            return _plane(_BLOTCHES[seed % _NUM_NOISE])
    raise ValueError(f"no such texture: {texture}")
