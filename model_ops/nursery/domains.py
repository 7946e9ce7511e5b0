"""The nursery's domains: how far the pictures of each vary, and in what.

The tiny models are pre-trained on `home`. `field` and `dusk` are shifts that they meet in use:
their scenes are drawn by the same code, only from wider and other ranges. In the haze of `field`
the models see things where there are none; in `dusk` they miss things and mistake them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Domain = Literal["home", "field", "dusk"]


@dataclass(frozen=True, slots=True)
class Ranges:
    """What the pictures of a domain vary in, and how far."""

    num_things: tuple[tuple[int, float], ...]
    held_out: bool
    textures: tuple[str, ...]
    ground: tuple[int, int]
    texture_depth: int
    offset: int
    tone_jitter: int
    tint: float
    contrast: tuple[float, float]
    noise: tuple[float, float]
    haze: tuple[float, float]
    bars: float
    gamma: tuple[float, float] = (1.0, 1.0)
    exposure: tuple[float, float] = (1.0, 1.0)


HOME = Ranges(
    num_things=((1, 0.08), (2, 0.27), (3, 0.33), (4, 0.22), (5, 0.10)),
    held_out=False,
    textures=("plain",),
    ground=(15, 85),
    texture_depth=0,
    offset=1,
    tone_jitter=10,
    tint=0.04,
    contrast=(0.95, 1.05),
    noise=(0.0, 4.0),
    haze=(0.0, 0.0),
    bars=0.0,
)
FIELD = Ranges(
    num_things=((3, 0.30), (4, 0.35), (5, 0.25), (6, 0.10)),
    held_out=True,
    textures=("gradient", "stripes", "checker", "blotches"),
    ground=(15, 100),
    texture_depth=25,
    offset=1,
    tone_jitter=15,
    tint=0.08,
    contrast=(0.95, 1.05),
    noise=(0.0, 8.0),
    haze=(0.2, 0.6),
    bars=0.3,
)
DUSK = replace(FIELD, haze=(0.0, 0.0), noise=(0.0, 2.0), gamma=(1.8, 2.4), exposure=(0.3, 0.7))
HAZE = 235.0
"""Grey level of haze, 0 to 255."""
RANGES: Mapping[Domain, Ranges] = {"home": HOME, "field": FIELD, "dusk": DUSK}
