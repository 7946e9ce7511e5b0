"""Looks change the light and nothing else; the configuration offers exactly those that exist."""

import io
from typing import get_args

import numpy as np
import pytest

from model_ops.looks import LOOKS, encoded_look, look_at
from model_ops.nursery.world import render, sample_scene
from schemas.config import DialogPlayConfig
from schemas.errors import DropError


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_changes_light_but_moves_nothing(look: str) -> None:
    from PIL import Image

    before = Image.fromarray(render(sample_scene(3, "field")))
    after = look_at(before, look)
    assert (after.size, after.mode) == (before.size, "RGB")
    grey = [np.asarray(each.convert("L"), dtype=np.float32).ravel() for each in (before, after)]
    assert not np.array_equal(*grey)
    assert np.corrcoef(*grey)[0, 1] > 0.9


def test_no_look_is_the_picture_as_it_is() -> None:
    from PIL import Image

    picture = Image.fromarray(render(sample_scene(3, "field")))
    assert look_at(picture, "") is picture


def test_stretching_takes_haze_away() -> None:
    from PIL import Image

    picture = render(sample_scene(3, "home")).astype(np.float32)
    hazy = Image.fromarray((picture * 0.5 + 235 * 0.5).astype(np.uint8))
    spans = [np.ptp(np.asarray(each)) for each in (hazy, look_at(hazy, "stretched"))]
    assert spans[1] > 1.5 * spans[0]


def test_the_configuration_names_every_look() -> None:
    annotation = DialogPlayConfig.model_fields["looks"].annotation
    (names,) = get_args(annotation)
    assert set(get_args(names)) == set(LOOKS)


def test_an_encoded_picture_in_no_light_keeps_its_bytes() -> None:
    from PIL import Image

    picture = Image.fromarray(render(sample_scene(3, "field")))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    assert encoded_look(buffer.getvalue(), "") == buffer.getvalue()
    shown = Image.open(io.BytesIO(encoded_look(buffer.getvalue(), "deepest")))
    assert np.array_equal(np.asarray(shown), np.asarray(look_at(picture, "deepest")))
    with pytest.raises(DropError):
        encoded_look(b"no picture", "deepest")
