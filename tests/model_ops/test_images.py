"""Importing and reading pictures: resume, order, limits, duplicates, references."""

import os
import pickle
from pathlib import Path

import fsspec
import pytest

from model_ops.images import ImageReader, import_images
from model_ops.sources import FolderSource
from schemas.artifacts import read_quarantine, read_rows, read_shard
from schemas.config import ImagesConfig
from schemas.errors import ConfigError, StoreError
from schemas.manifest import Manifest
from schemas.rows import ImageRef, ImageRow
from schemas.store import Store
from tests.schemas.rows_for_tests import png

NURSERY = ImagesConfig(uri="nursery://field", limit=50)


def folder_of(tmp_path: Path, num: int) -> Path:
    """A folder tree with `num` different pictures."""
    for n in range(num):
        place = tmp_path / "photos" / f"d{n % 3}" / f"{n:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png((n, n, n)))
    return tmp_path / "photos"


def rows_of(store: Store, manifest: Manifest) -> list[ImageRow]:
    return list(read_rows(store, manifest, ImageRow))


def test_nursery_pictures_come_with_their_facts_and_original_bytes(store: Store) -> None:
    manifest = import_images(store, NURSERY, shard_size=20)
    rows = rows_of(store, manifest)
    assert manifest.funnel == {"found": 50, "kept": 50} and len(manifest.shards) == 3
    assert all(row.facts and row.split == "field" for row in rows)
    assert rows[0].image.bytes.startswith(b"\x89PNG")
    reader = pickle.loads(pickle.dumps(ImageReader(store, manifest)))
    for shard in manifest.shards:
        for number, row in enumerate(read_shard(store, manifest, shard.index, ImageRow)):
            ref = ImageRef(image_id=row.image_id, shard=shard.index, row=number)
            assert reader.read(ref) == row.image.bytes
    assert reader.read_row(2, 3) == rows[43]


def test_importing_again_and_after_a_crash_gives_the_same(local_store: Store) -> None:
    first = import_images(local_store, NURSERY, shard_size=20)
    assert import_images(local_store, NURSERY, shard_size=20) == first
    local_store.delete("images/manifest.json")
    local_store.delete("images/receipts/00001.json")
    seen: list[tuple[int, int]] = []
    again = import_images(local_store, NURSERY, shard_size=20,
                          on_progress=lambda done, total: seen.append((done, total)))
    assert again.digest == first.digest and seen == [(20, 50), (40, 50), (50, 50)]


@pytest.mark.slow
def test_a_folder_and_a_bucket_with_the_same_files_give_the_same_pictures(
        store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = folder_of(tmp_path, 12)
    uri = str(folder)
    if not store.is_local:
        uri = store.root.removesuffix("/run") + "/photos"
        fsspec.filesystem("s3").put(str(folder), uri, recursive=True)
    rows = rows_of(store, import_images(store, ImagesConfig(uri=uri), shard_size=5))
    assert [row.source for row in rows] == sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    assert rows[0].image.path == "000.png" and rows[0].width == 8


def test_files_added_behind_keep_the_finished_shards(local_store: Store, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 10)
    config = ImagesConfig(uri=str(folder))
    first = import_images(local_store, config, shard_size=5)
    (folder / "z.png").write_bytes(png((1, 2, 250)))
    second = import_images(local_store, config, shard_size=5)
    assert second.shards[:2] == first.shards and second.num_rows == 11
    assert second.digest != first.digest


@pytest.mark.slow
def test_a_picture_replaced_by_one_of_the_same_size_is_noticed(
        store: Store, tmp_path: Path) -> None:
    folder, old, new = folder_of(tmp_path, 4), png((3, 3, 3)), png((4, 4, 9))
    assert len(old) == len(new) and (folder / "d0" / "003.png").read_bytes() == old
    uri, files = str(folder), fsspec.filesystem("file")
    if not store.is_local:
        uri, files = store.root.removesuffix("/run") + "/photos", fsspec.filesystem("s3")
        files.put(str(folder), uri, recursive=True)
    first = import_images(store, ImagesConfig(uri=uri))
    assert import_images(store, ImagesConfig(uri=uri)) == first
    files.pipe_file(f"{uri}/d0/003.png", new)
    second = import_images(store, ImagesConfig(uri=uri))
    assert second.digest != first.digest
    assert new in [row.image.bytes for row in rows_of(store, second)]
    assert import_images(store, ImagesConfig(uri=uri)) == second


def test_a_folder_that_was_only_touched_is_the_same_collection(
        local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, 4)
    config = ImagesConfig(uri=str(folder))
    first = import_images(local_store, config)
    os.utime(folder / "d0" / "003.png", (1, 1))
    assert import_images(local_store, config) == first
    monkeypatch.setattr(FolderSource, "read", None)  # it is read again once, not each time
    assert import_images(local_store, config) == first


def test_the_first_of_equal_files_is_kept_also_over_shards_and_restarts(
        local_store: Store, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 6)
    (folder / "z.png").write_bytes(png((0, 0, 0)))
    config = ImagesConfig(uri=str(folder))
    manifest = import_images(local_store, config, shard_size=2)
    local_store.delete("images/manifest.json")
    local_store.delete("images/receipts/00003.json")
    assert import_images(local_store, config, shard_size=2).digest == manifest.digest
    (dropped,) = read_quarantine(local_store, manifest)
    assert (dropped.source, dropped.reason) == ("z.png", "duplicate")
    assert manifest.funnel == {"found": 7, "duplicate": 1, "kept": 6}


def test_a_limit_draws_by_seed_and_keeps_the_order(local_store: Store, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 30)

    def drawn(seed: int) -> list[str]:
        config = ImagesConfig(uri=str(folder), limit=8, seed=seed)
        manifest = import_images(local_store, config, prefix=f"images{seed}")
        return [row.source for row in rows_of(local_store, manifest)]

    assert len(drawn(0)) == 8 and drawn(0) == sorted(drawn(0)) and drawn(0) != drawn(1)


def test_large_files_make_small_shards(local_store: Store, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_ops.images.SHARD_BYTES", 200)
    manifest = import_images(local_store, ImagesConfig(uri=str(folder_of(tmp_path, 6))))
    assert [shard.num_rows for shard in manifest.shards] == [2, 2, 2]


def test_a_reference_to_another_import_is_an_error(local_store: Store) -> None:
    manifest = import_images(local_store, NURSERY)
    reader = ImageReader(local_store, manifest)
    row = rows_of(local_store, manifest)[0]
    for shard, number, image_id in [(0, 1, row.image_id), (0, 999, row.image_id),
                                    (0, -1, row.image_id), (9, 0, row.image_id), (0, 0, "other")]:
        with pytest.raises(StoreError, match="plan again"):
            reader.read(ImageRef(image_id=image_id, shard=shard, row=number))


@pytest.mark.slow
def test_the_reader_holds_no_more_than_its_cache(local_store: Store) -> None:
    config = ImagesConfig(uri="nursery://home", limit=200)
    manifest = import_images(local_store, config, shard_size=2)
    reader = ImageReader(local_store, manifest, cache_bytes=1)
    for shard in manifest.shards:
        row = read_shard(local_store, manifest, shard.index, ImageRow)[0]
        reader.read(ImageRef(image_id=row.image_id, shard=shard.index, row=0))
    assert len(reader._groups) == 1 and len(reader._files) == 64


@pytest.mark.parametrize(("uri", "match"), [
    ("/no/such/folder", "not a folder"), ("nursery://mars", "the nursery has"),
    ("nope://x", "cannot be read"), ("memory://empty", "holds no objects"),
])
def test_a_source_that_is_not_there_is_a_configuration_error(
        local_store: Store, uri: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        import_images(local_store, ImagesConfig(uri=uri, limit=1))


def test_the_nursery_needs_a_limit_and_a_folder_one_good_picture(
        local_store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="limit"):
        import_images(local_store, ImagesConfig(uri="nursery://home"))
    with pytest.raises(ConfigError, match="no usable image"):
        import_images(local_store, ImagesConfig(uri=str(tmp_path)))
