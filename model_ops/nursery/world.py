"""The nursery's world: small pictures with known facts, pure functions of a seed.

A picture is 48 x 48 RGB, a 3 x 3 grid with at most one thing in a cell. `home` is the domain
the tiny models are pre-trained on; `field` is the same world under a covariate shift: haze, more
things, textured ground, a tint, noise, bars in front, and the colour-shape pairs that home never
shows; `dusk` is the field in too little light instead of haze. Facts are for measuring; methods
see pixels only. Questions are grammar.py's.
"""

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_ops.nursery.domains import HAZE, RANGES, Domain, Ranges
from model_ops.nursery.sprites import CELL, GRID, PIXELS, SPRITES, draw_ground, unit_noise

RGB = tuple[int, int, int]
Picture = NDArray[np.uint8]

SHAPES = ("circle", "square", "triangle", "cross", "star", "diamond")
PALETTE: dict[str, RGB] = {
    "red": (215, 40, 45),
    "green": (45, 170, 65),
    "blue": (50, 85, 220),
    "yellow": (235, 215, 60),
    "purple": (150, 60, 185),
    "orange": (240, 135, 35),
}
COLOURS = tuple(PALETTE)
SIZES = ("big", "small")
POSITIONS = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
HELD_OUT = frozenset((colour, shape) for colour, shape in zip(COLOURS, SHAPES, strict=True))
"""Colour-shape pairs that home never shows; field shows them as often as any other."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: what it is, its cell (0..8, reading order), how it is drawn (offset px, tone)."""

    shape: str
    colour: str
    size: str
    cell: int
    offset: tuple[int, int] = (0, 0)
    tone: RGB = (0, 0, 0)

    @property
    def position(self) -> str:
        return POSITIONS[self.cell]


@dataclass(frozen=True, slots=True)
class Ground:
    """What is behind the things: a texture between two colours."""

    texture: str
    first: RGB
    second: RGB
    period: float
    angle: float


@dataclass(frozen=True, slots=True)
class Light:
    """What happens to the picture between the scene and the sensor."""

    gain: tuple[float, float, float]
    contrast: float
    noise: float
    haze: float = 0.0
    """How much of the scene is lost in white haze: 0 none, 1 all."""
    gamma: float = 1.0
    exposure: float = 1.0
    """What the sensor makes of a level in [0, 1]: exposure * level ** gamma."""


@dataclass(frozen=True, slots=True)
class Bar:
    """An occluding bar across the whole picture, `width` px wide, starting at pixel `start`."""

    vertical: bool
    start: int
    width: int
    tone: RGB


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that render() draws. Scenes that similar_scenes() derived share their `family`."""

    domain: Domain
    seed: int
    family: int
    things: tuple[Thing, ...]
    ground: Ground
    light: Light
    bars: tuple[Bar, ...] = ()

    def at(self, cell: int) -> Thing | None:
        return next((thing for thing in self.things if thing.cell == cell), None)

    def facts(self) -> dict[str, Any]:
        """What is true of the picture, JSON-able: for measuring, never for a method."""
        things = [
            {"shape": t.shape, "colour": t.colour, "size": t.size, "position": t.position}
            for t in self.things
        ]
        return {"domain": self.domain, "seed": self.seed, "family": self.family, "things": things}


def sample_scene(seed: int, domain: Domain, ranges: Ranges | None = None) -> Scene:
    """The scene with this seed; `ranges` overrides the domain's (for tuning the shift)."""
    ranges = ranges or RANGES[domain]
    rng = random.Random(f"{domain}/{seed}")
    numbers, weights = zip(*ranges.num_things, strict=True)
    cells = sorted(rng.sample(range(GRID * GRID), rng.choices(numbers, weights)[0]))
    things = tuple(_sample_thing(rng, cell, ranges) for cell in cells)
    return Scene(
        domain,
        seed,
        seed,
        things,
        _sample_ground(rng, ranges),
        _sample_light(rng, ranges),
        _sample_bars(rng, ranges),
    )


def similar_scenes(scene: Scene, num: int, seed: int) -> list[Scene]:
    """`num` siblings of a scene: same place and light, one or two of its things changed.

    They differ from the scene and each other in facts; each has its own noise and offsets.
    """
    rng = random.Random(f"similar/{scene.domain}/{scene.seed}/{seed}")
    ranges = RANGES[scene.domain]
    seen = {_identity(scene.things)}
    siblings: list[Scene] = []
    while len(siblings) < num:
        things = scene.things
        for _ in range(rng.choice((1, 2, 2))):
            things = _change(things, rng, ranges)
        if _identity(things) in seen:
            continue
        seen.add(_identity(things))
        moved = tuple(replace(t, offset=_sample_offset(rng, ranges)) for t in things)
        siblings.append(
            replace(scene, things=moved, seed=rng.getrandbits(40), bars=_sample_bars(rng, ranges))
        )
    return siblings


def family_scenes(seed: int, domain: Domain, num: int) -> list[Scene]:
    """A scene and its `num - 1` siblings: what gives a collection of pictures hard distractors."""
    scene = sample_scene(seed, domain)
    return [scene, *similar_scenes(scene, num - 1, seed)]


def image_rows(
    num: int, seed: int, domain: Domain, family: int = 4
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """`num` pictures as (PNG bytes, facts), in families of siblings; no two seeds share any."""
    for index in range(num):
        if index % family == 0:
            scenes = family_scenes(seed * 1_000_003 + index // family, domain, family)
        scene = scenes[index % family]
        yield to_png(render(scene)), scene.facts()


def render(scene: Scene) -> Picture:
    """Draw a scene: uint8[48, 48, 3]."""
    ground = scene.ground
    canvas = draw_ground(
        ground.texture, ground.first, ground.second, ground.period, ground.angle, scene.family
    )
    for thing in scene.things:
        _paste(canvas, thing)
    for bar in scene.bars:
        span = slice(bar.start, bar.start + bar.width)
        canvas[(slice(None), span) if bar.vertical else span] = bar.tone
    light = scene.light
    canvas = (canvas - 110.0) * light.contrast + 110.0
    canvas = canvas * np.asarray(light.gain, dtype=np.float32)
    canvas = canvas + light.haze * (HAZE - canvas)
    if (light.gamma, light.exposure) != (1.0, 1.0):
        dimmed = 255.0 * light.exposure * (canvas.clip(0, 255) / 255.0) ** light.gamma
        canvas = dimmed.astype(np.float32)
    canvas = canvas + light.noise * unit_noise(scene.seed)
    return canvas.clip(0, 255).astype(np.uint8)


def to_png(picture: Picture) -> bytes:
    """The picture as PNG bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _paste(canvas: NDArray[np.float32], thing: Thing) -> None:
    top = thing.cell // GRID * CELL + thing.offset[0]
    left = thing.cell % GRID * CELL + thing.offset[1]
    up, down = max(top, 0), min(top + CELL, PIXELS)
    west, east = max(left, 0), min(left + CELL, PIXELS)
    mask = SPRITES[thing.shape, thing.size][up - top : down - top, west - left : east - left]
    window = canvas[up:down, west:east]
    window += mask * (np.asarray(thing.tone, dtype=np.float32) - window)


def _identity(things: tuple[Thing, ...]) -> frozenset[tuple[str, str, str, int]]:
    return frozenset((t.shape, t.colour, t.size, t.cell) for t in things)


def _sample_thing(rng: random.Random, cell: int, ranges: Ranges) -> Thing:
    colour, shape = _sample_pair(rng, ranges)
    return Thing(
        shape,
        colour,
        rng.choice(SIZES),
        cell,
        _sample_offset(rng, ranges),
        _sample_tone(rng, colour, ranges),
    )


def _sample_pair(rng: random.Random, ranges: Ranges) -> tuple[str, str]:
    while True:
        pair = (rng.choice(COLOURS), rng.choice(SHAPES))
        if ranges.held_out or pair not in HELD_OUT:
            return pair


def _sample_offset(rng: random.Random, ranges: Ranges) -> tuple[int, int]:
    return rng.randint(-ranges.offset, ranges.offset), rng.randint(-ranges.offset, ranges.offset)


def _sample_tone(rng: random.Random, colour: str, ranges: Ranges) -> RGB:
    return _jitter(rng, PALETTE[colour], ranges.tone_jitter)


def _jitter(rng: random.Random, tone: RGB, span: int) -> RGB:
    red, green, blue = (min(max(channel + rng.randint(-span, span), 0), 255) for channel in tone)
    return red, green, blue


def _sample_ground(rng: random.Random, ranges: Ranges) -> Ground:
    level = rng.randint(*ranges.ground)
    first = _jitter(rng, (level, level, level), 10)
    second = _jitter(rng, first, ranges.texture_depth)
    return Ground(
        rng.choice(ranges.textures), first, second, rng.uniform(4.0, 14.0), rng.uniform(0.0, 3.14)
    )


def _sample_light(rng: random.Random, ranges: Ranges) -> Light:
    red, green, blue = (1.0 + rng.uniform(-ranges.tint, ranges.tint) for _ in range(3))
    contrast, noise, haze = (
        rng.uniform(*span) for span in (ranges.contrast, ranges.noise, ranges.haze)
    )
    gamma, exposure = (
        span[0] if span[0] == span[1] else rng.uniform(*span)
        for span in (ranges.gamma, ranges.exposure)
    )
    return Light((red, green, blue), contrast, noise, haze, gamma, exposure)


def _sample_bars(rng: random.Random, ranges: Ranges) -> tuple[Bar, ...]:
    if rng.random() >= ranges.bars:
        return ()
    level = rng.randint(60, 160)
    return (
        Bar(
            rng.random() < 0.5, rng.randint(0, PIXELS - 4), rng.randint(2, 4), (level, level, level)
        ),
    )


def _change(things: tuple[Thing, ...], rng: random.Random, ranges: Ranges) -> tuple[Thing, ...]:
    """One thing changed in colour, shape, size or place, keeping the domain's allowed pairs."""
    index = rng.randrange(len(things))
    old = things[index]
    match rng.choice(("colour", "colour", "shape", "shape", "size", "cell")):
        case "size":
            new = replace(old, size=SIZES[1 - SIZES.index(old.size)])
        case "cell":
            free = sorted(set(range(GRID * GRID)) - {t.cell for t in things})
            new = replace(old, cell=rng.choice(free))
        case "colour":
            allowed = [
                c
                for c in COLOURS
                if c != old.colour and (ranges.held_out or (c, old.shape) not in HELD_OUT)
            ]
            colour = rng.choice(allowed)
            new = replace(old, colour=colour, tone=_sample_tone(rng, colour, ranges))
        case _:
            allowed = [
                s
                for s in SHAPES
                if s != old.shape and (ranges.held_out or (old.colour, s) not in HELD_OUT)
            ]
            new = replace(old, shape=rng.choice(allowed))
    return tuple(sorted((*things[:index], new, *things[index + 1 :]), key=lambda t: t.cell))
