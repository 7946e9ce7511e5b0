"""Decoded images are remembered within bounds and shrunk to the configured size."""

import io

import pytest
from PIL import Image

from model_ops.engines.pictures import PictureMemory, shrink
from schemas.errors import DropError
from schemas.rows import ImageRef


def ref(name: str) -> ImageRef:
    return ImageRef(image_id=name, shard=0, row=0)


def memory(capacity: int) -> tuple[PictureMemory, list[str]]:
    reads: list[str] = []

    def read(image: ImageRef) -> bytes:
        reads.append(image.image_id)
        buffer = io.BytesIO()
        Image.new("RGB", (10, 10)).save(buffer, "PNG")
        return buffer.getvalue() if image.image_id != "broken" else b"GIF87 no picture"

    return PictureMemory(read, capacity=capacity), reads


def test_an_image_is_read_once_while_it_fits() -> None:
    pictures, reads = memory(capacity=250)
    for name in "abab":
        pictures.picture(ref(name))
    assert reads == ["a", "b"]


def test_each_look_at_an_image_is_remembered_apart() -> None:
    pictures, _ = memory(capacity=1000)
    plain, dim = (pictures.picture(ref("a"), look) for look in ("", "dimmed"))
    assert plain is pictures.picture(ref("a"))
    assert dim is pictures.picture(ref("a"), "dimmed")
    assert plain is not dim


def test_the_least_recently_used_goes_first() -> None:
    pictures, reads = memory(capacity=250)
    for name in ["a", "b", "a", "c", "a", "b"]:
        pictures.picture(ref(name))
    assert reads == ["a", "b", "c", "b"]


def test_an_image_that_cannot_be_decoded_is_dropped_with_its_reason() -> None:
    pictures, _ = memory(capacity=250)
    with pytest.raises(DropError):
        pictures.picture(ref("broken"))


def test_large_images_are_shrunk_with_their_aspect() -> None:
    small = shrink(Image.new("RGB", (400, 100)), max_pixels=10_000)
    assert small.size == (200, 50)
    assert shrink(small, None).size == (200, 50)
