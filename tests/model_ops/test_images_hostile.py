"""Two hundred hostile files: the good ones are used, each bad one has its reason."""

import io
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from model_ops import sources
from model_ops.images import import_images
from model_ops.pixels import decode
from schemas.artifacts import read_quarantine, read_rows
from schemas.config import ImagesConfig
from schemas.errors import DropError, StoreError
from schemas.rows import ImageRow
from schemas.store import Store
from tests.schemas.rows_for_tests import png

LIMIT = 1_000_000


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def declares(width: int, height: int) -> bytes:
    """A PNG whose header declares a size and that holds next to nothing."""
    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))
            + chunk(b"IEND", b""))


def noise(seed: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def deep_grey(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 65_536, (24, 16), dtype=np.uint16)
    return encoded(Image.fromarray(pixels), "PNG")


def animation(seed: int) -> bytes:
    return encoded(noise(seed), "GIF", save_all=True, append_images=[noise(seed + 1)])


Make = Callable[[int], bytes]
GOOD: Mapping[str, Make] = {
    "plain.png": lambda n: encoded(noise(n), "PNG"),
    "plain.jpg": lambda n: encoded(noise(n), "JPEG"),
    "cmyk.jpg": lambda n: encoded(noise(n, "CMYK"), "JPEG"),
    "deep.png": deep_grey,
    "moving.gif": animation,
    "palette.png": lambda n: encoded(noise(n, "P"), "PNG", transparency=0),
    "alpha.webp": lambda n: encoded(noise(n, "RGBA"), "WEBP", lossless=True),
    "really-a-png.jpg": lambda n: encoded(noise(n + 500), "PNG"),
    "dots..in name é.png": lambda n: encoded(noise(n + 900), "PNG"),
}
BAD: Mapping[str, tuple[str, Make]] = {
    "truncated.png": ("undecodable_image", lambda n: encoded(noise(n), "PNG")[:-200]),
    "truncated.jpg": ("undecodable_image", lambda n: encoded(noise(n), "JPEG")[:400]),
    "signature.png": ("undecodable_image", lambda n: b"\x89PNG\r\n\x1a\n" + bytes([n])),
    "empty.png": ("empty_file", lambda n: b""),
    "bomb.png": ("too_many_pixels", lambda n: declares(30_000, 30_000)),
    "large.png": ("too_many_pixels", lambda n: declares(2_000 + n, 1_000)),
    "text.jpg": ("not_an_image", lambda n: f"I am a text {n}".encode()),
    "page.png": ("not_an_image", lambda n: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "twin.png": ("duplicate", lambda n: png()),
}


def fill(folder: Path) -> dict[str, str]:
    """200 files; returns name -> reason ("" for good ones)."""
    expected: dict[str, str] = {}
    for n in range(11):
        place = folder / f"d{n:02d}" / "deeper"
        place.mkdir(parents=True)
        for name, make in GOOD.items():
            (place / name).write_bytes(make(n))
            expected[f"d{n:02d}/deeper/{name}"] = ""
        if n < 10:
            for name, (reason, make) in BAD.items():
                (place / name).write_bytes(make(n))
                expected[f"d{n:02d}/deeper/{name}"] = reason
    expected["d00/deeper/twin.png"] = ""
    return {**expected, **odd_names(folder)}


def odd_names(folder: Path) -> dict[str, str]:
    """Eleven files whose place or name is the trouble."""
    for n in range(5):
        Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff%d.png" % n)).write_bytes(png((n, 0, 0)))
    outside = folder.parent / "outside.png"
    outside.write_bytes(png((7, 7, 7)))
    (folder / "link.png").symlink_to(outside)
    (folder / "dots.png").symlink_to("../outside.png")
    (folder / "elsewhere").symlink_to(folder.parent)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "inside").symlink_to("d00")
    os.mkfifo(folder / "pipe.png")
    return {**{f"bad\\xff{n}.png": "bad_file_name" for n in range(5)},
            "link.png": "path_outside_root", "dots.png": "path_outside_root",
            "elsewhere": "path_outside_root", "loop.png": "unreadable_file",
            "inside": "not_a_file", "pipe.png": "not_a_file"}


def test_two_hundred_hostile_files_are_all_accounted_for(
        local_store: Store, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    expected = fill(tmp_path / "photos")
    assert len(expected) == 200
    config = ImagesConfig(uri=str(tmp_path / "photos"), max_pixels=LIMIT)
    manifest = import_images(local_store, config, shard_size=32)
    kept = {row.source: "" for row in read_rows(local_store, manifest, ImageRow)}
    dropped = {row.source: row.reason for row in read_quarantine(local_store, manifest)}
    assert kept | dropped == expected and len(kept) + len(dropped) == 200
    reasons = Counter(reason for reason in expected.values() if reason)
    assert manifest.funnel == {"found": 200, **reasons, "kept": len(kept)}
    assert import_images(Store(str(tmp_path / "again")), config, shard_size=32
                         ).digest == manifest.digest


@pytest.mark.s3
def test_object_names_that_climb_out_of_the_prefix_are_refused(
        local_store: Store, s3_root: str) -> None:
    files = fsspec.filesystem("s3")
    bucket = s3_root.removeprefix("s3://").split("/")[0]
    for name in ("run/a.png", "run/x/../../b.png", "run/\ufffd.png"):
        files.call_s3("put_object", Bucket=bucket, Key=name, Body=png())
    manifest = import_images(local_store, ImagesConfig(uri=s3_root))
    dropped = {row.source: row.reason for row in read_quarantine(local_store, manifest)}
    assert manifest.num_rows == 1
    assert dropped == {"x/../../b.png": "path_outside_root", "\ufffd.png": "bad_file_name"}


def test_a_file_that_is_gone_or_too_big_is_quarantined(
        local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png((n, 0, 0)))
    (tmp_path / "big.png").write_bytes(bytes(2_000))
    monkeypatch.setattr(sources, "MAX_BYTES", 1_000)
    listed = sources.FolderSource.candidates

    def vanish(self: sources.FolderSource) -> list[sources.Candidate]:
        found = list(listed(self))
        (tmp_path / "1.png").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(sources.FolderSource, "candidates", vanish)
    manifest = import_images(local_store, ImagesConfig(uri=str(tmp_path)))
    dropped = {row.source: row.reason for row in read_quarantine(local_store, manifest)}
    assert dropped["1.png"] == "unreadable_file" and dropped["big.png"] == "file_too_big"


def s3_error(code: str) -> Exception:
    """As s3fs raises it."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    return translate_boto_error(ClientError({"Error": {"Code": code}}, "GetObject"))


@pytest.mark.parametrize(("error", "is_the_files"), [
    (FileNotFoundError("b.png"), True), (s3_error("AccessDenied"), True),
    (s3_error("NoSuchKey"), True), (TimeoutError(), False), (s3_error("500"), False),
    (s3_error("SlowDown"), False), (s3_error("ExpiredToken"), False),
    (RuntimeError("a backend's own"), False)])
def test_a_bucket_that_fails_costs_no_pictures(
        local_store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception,
        is_the_files: bool) -> None:
    files = fsspec.filesystem("memory")
    for name in "abc":
        files.pipe_file(f"/failing/{name}.png", png((ord(name), 0, 0)))
    read, config = type(files).cat_file, ImagesConfig(uri="memory://failing")

    def cat_file(self: object, path: str) -> bytes:
        if path.endswith("b.png"):
            raise error
        return read(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(type(files), "cat_file", cat_file)
        if is_the_files:
            assert import_images(local_store, config).funnel["unreadable_file"] == 1
            return
        with pytest.raises(StoreError, match="memory://failing"):
            import_images(local_store, config)
    assert import_images(local_store, config).num_rows == 3


def test_a_bucket_that_cannot_be_listed_is_a_store_error(
        local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(*_: object, **__: object) -> dict[str, object]:
        raise s3_error("500")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "find", find)
    with pytest.raises(StoreError, match="cannot be read"):
        import_images(local_store, ImagesConfig(uri="memory://unlisted"))


def test_every_kind_of_good_picture_becomes_rgb() -> None:
    for make in GOOD.values():
        image = decode(make(3), LIMIT)
        assert image.mode == "RGB" and image.size == (16, 24)


def test_rotation_of_the_camera_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = noise(1)
    assert decode(encoded(image, "JPEG", exif=exif), LIMIT).size == (24, 16)
    assert decode(encoded(image, "JPEG", exif=b"Exif\0\0garbage"), LIMIT).size == (16, 24)


def test_deep_grey_keeps_its_range() -> None:
    ramp = np.linspace(0, 65_535, 256, dtype=np.uint16).reshape(1, 256)
    levels = np.asarray(decode(encoded(Image.fromarray(ramp), "PNG"), LIMIT))[0, :, 0]
    assert levels[0] == 0 and levels[-1] == 255 and abs(int(levels[128]) - 128) <= 1
    for top in (1.0, 255.0):
        floats = encoded(Image.fromarray(np.array([[0, top]], dtype=np.float32)), "TIFF")
        assert np.asarray(decode(floats, LIMIT))[0, :, 0].tolist() == [0, 255]


def test_transparency_becomes_white_and_the_first_frame_counts() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode(encoded(clear, "PNG"), LIMIT).getpixel((0, 0)) == (255, 255, 255)
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    moving = encoded(red, "GIF", save_all=True, append_images=[blue])
    assert decode(moving, LIMIT).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("limit", [LIMIT, 10**12])
def test_a_bomb_is_refused_by_its_header(limit: int) -> None:
    with pytest.raises(DropError, match="too_many_pixels"):
        decode(declares(30_000, 30_000), limit)
