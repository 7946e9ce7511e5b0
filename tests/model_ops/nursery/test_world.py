"""The world is a pure function of its seed, its facts are in its pixels, and it is fast."""

import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from model_ops.looks import look_at
from model_ops.nursery.domains import Domain
from model_ops.nursery.sprites import CELL
from model_ops.nursery.world import (
    HELD_OUT,
    PALETTE,
    POSITIONS,
    family_scenes,
    image_rows,
    render,
    sample_scene,
    similar_scenes,
    to_png,
)

DOMAINS: tuple[Domain, ...] = ("home", "field", "dusk")
PICTURE_SUMS = {"home": 7560886, "field": 18453815, "dusk": 1587674}


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_seed_is_a_picture(domain: Domain) -> None:
    first, again = [[render(sample_scene(seed, domain)) for seed in range(50)] for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({picture.tobytes() for picture in first}) == 50


def test_pictures_are_the_same_as_ever() -> None:
    """Weights and figures belong to these very pictures: drawing changes only deliberately."""
    sums = {
        domain: sum(int(render(sample_scene(seed, domain)).sum()) for seed in range(20))
        for domain in DOMAINS
    }
    assert sums == pytest.approx(PICTURE_SUMS, rel=1e-4)


@pytest.mark.parametrize("domain", DOMAINS)
def test_thousands_of_pictures_a_second(domain: Domain) -> None:
    rates = []
    for attempt in range(5):
        began = time.process_time()
        for seed in range(200):
            render(sample_scene(1000 * attempt + seed, domain))
        rates.append(200 / (time.process_time() - began))
    assert max(rates) > 1000


def test_home_facts_are_in_the_pixels() -> None:
    """At a thing's centre is its colour; a cell without a thing is as flat as noise leaves it."""
    palette = np.array(list(PALETTE.values()))
    for seed in range(200):
        scene = sample_scene(seed, "home")
        picture = render(scene).astype(float)
        for cell in range(9):
            top, left = cell // 3 * CELL, cell % 3 * CELL
            thing = scene.at(cell)
            if thing is None:
                assert picture[top + 3 : top + 13, left + 3 : left + 13].std(axis=(0, 1)).max() < 8
            else:
                y, x = top + CELL // 2 + thing.offset[0], left + CELL // 2 + thing.offset[1]
                seen = picture[y - 1 : y + 1, x - 1 : x + 1].mean(axis=(0, 1))
                assert list(PALETTE)[abs(palette - seen).sum(axis=1).argmin()] == thing.colour


def test_dusk_is_dark_and_stretching_takes_it_away() -> None:
    pictures = [Image.fromarray(render(sample_scene(seed, "dusk"))) for seed in range(20)]
    levels = [np.asarray(picture).max() for picture in pictures]
    stretched = [np.asarray(look_at(picture, "stretched")).max() for picture in pictures]
    assert max(levels) < 0.75 * 255
    assert min(stretched) > 0.9 * 255


def test_facts_are_json_and_complete() -> None:
    scene = sample_scene(3, "field")
    facts = json.loads(json.dumps(scene.facts()))
    assert facts["domain"] == "field"
    drawn = [(t.shape, t.colour, t.size, t.position) for t in scene.things]
    assert [(t["shape"], t["colour"], t["size"], t["position"]) for t in facts["things"]] == drawn
    assert {t["position"] for t in facts["things"]} <= set(POSITIONS)


def test_home_never_shows_the_held_out_pairs_and_field_does() -> None:
    pairs = {
        domain: {
            (t.colour, t.shape)
            for seed in range(400)
            for s in family_scenes(seed, domain, 3)
            for t in s.things
        }
        for domain in DOMAINS
    }
    assert not pairs["home"] & HELD_OUT
    assert pairs["field"] >= HELD_OUT


@pytest.mark.parametrize("domain", DOMAINS)
def test_siblings_differ_a_little(domain: Domain) -> None:
    for seed in range(100):
        scene = sample_scene(seed, domain)
        siblings = similar_scenes(scene, 3, seed)
        told = [
            frozenset((t.shape, t.colour, t.size, t.cell) for t in s.things)
            for s in (scene, *siblings)
        ]
        assert len(set(told)) == 4
        assert all(1 <= len(told[0] - other) <= 2 for other in told[1:])
        assert all(len({t.cell for t in s.things}) == len(s.things) for s in siblings)
        assert siblings == similar_scenes(scene, 3, seed)


def test_image_rows_are_distinct_png_with_their_facts() -> None:
    rows = list(image_rows(40, 5, "field"))
    assert len({data for data, _ in rows}) == 40
    assert rows == list(image_rows(40, 5, "field"))
    assert not {data for data, _ in rows} & {data for data, _ in image_rows(40, 6, "field")}
    with Image.open(io.BytesIO(rows[0][0])) as picture:
        assert (picture.size, picture.mode, picture.format) == ((48, 48), "RGB", "PNG")
    assert len({facts["family"] for _, facts in rows}) == 10


def test_png_keeps_every_pixel() -> None:
    picture = render(sample_scene(9, "field"))
    with Image.open(io.BytesIO(to_png(picture))) as opened:
        assert np.array_equal(np.asarray(opened), picture)
