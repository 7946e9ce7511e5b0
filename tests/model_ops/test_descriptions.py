"""Planned descriptions: from images, from a file of the authors' layout, what is quarantined."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from model_ops.descriptions import plan_prompts
from model_ops.images import import_images
from model_ops.programs.describing import description_messages, description_texts
from model_ops.prompts import load_prompts
from schemas.artifacts import publish, read_quarantine, read_rows, write_shard
from schemas.config import DescriptionPromptsConfig, ImagesConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.rows import ImageRow, QuarantineRow
from schemas.searches import DescriptionRow
from schemas.store import Store

PROMPTS = load_prompts("default")


def nursery(store: Store, num: int = 24) -> Manifest:
    return import_images(store, ImagesConfig(uri="nursery://field", limit=num))


def photographs(store: Store, folder: Path) -> Manifest:
    """Pictures as COCO has them on disk, one by its bare name, one name in two folders."""
    names = ("COCO_train2014_000000000001.jpg", "COCO_train2014_000000000002.jpg", "3.jpg",
             "a/4.jpg", "b/4.jpg")
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (50 * number, 0, 0)).save(folder / name)
    return import_images(store, ImagesConfig(uri=str(folder)))


def plan(store: Store, images: Manifest, seed: int = 1, prefix: str = "prompts",
         prompts: str = "default", **config: Any) -> Manifest:
    return plan_prompts(store, images, DescriptionPromptsConfig(**config), load_prompts(prompts),
                        seed, prefix, 5)


def rows_of(store: Store, manifest: Manifest) -> list[DescriptionRow]:
    return list(read_rows(store, manifest, DescriptionRow))


def drops_of(store: Store, manifest: Manifest) -> list[QuarantineRow]:
    return list(read_quarantine(store, manifest))


def write(path: Path, entries: Sequence[Any]) -> str:
    """The entries as the file's name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(entries)), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, entries)))
    else:
        path.write_text(json.dumps(entries))
    return str(path)


# --- from the images ---


def test_every_image_is_asked_one_of_the_sets_own_texts(local_store: Store) -> None:
    images = nursery(local_store)
    made = plan(local_store, images)
    rows = rows_of(local_store, made)
    assert len({row.image.image_id for row in rows}) == len({row.row_id for row in rows}) == 24
    assert {row.question for row in rows} <= set(description_texts(PROMPTS))
    assert len({row.question for row in rows}) > 3, "a draw, not one text for all"
    assert all(row.prompt_id == row.image.image_id and row.seed == 1 for row in rows)
    assert made.funnel == {"candidates": 24, "planned": 24}
    assert (made.kind, made.parents) == ("prompts", {"images": images.digest})
    assert [shard.num_rows for shard in made.shards] == [5, 5, 5, 5, 4]


def test_rounds_ask_the_same_and_seeds_do_not(local_store: Store) -> None:
    images = nursery(local_store)
    first = plan(local_store, images, prefix="round1")
    assert rows_of(local_store, first) == rows_of(local_store, plan(local_store, images,
                                                                    prefix="round2"))
    assert plan(local_store, images, prefix="round1") == first
    other = rows_of(local_store, plan(local_store, images, seed=2))
    assert [row.question for row in other] != [row.question for row in rows_of(local_store, first)]


def test_a_limit_draws_the_same_images_with_their_own_texts(local_store: Store) -> None:
    images = nursery(local_store)
    whole = rows_of(local_store, plan(local_store, images))
    made = plan(local_store, images, prefix="few", limit=7)
    few = rows_of(local_store, made)
    assert made.funnel == {"candidates": 24, "not_drawn": 17, "planned": 7}
    assert few == [row for row in whole if row in few]
    assert few != whole[:7]
    assert rows_of(local_store, plan(local_store, images, prefix="again", limit=7)) == few


def test_the_nursery_has_one_text_and_a_set_without_any_is_an_error(local_store: Store) -> None:
    images = nursery(local_store, 6)
    rows = rows_of(local_store, plan(local_store, images, prompts="nursery"))
    assert {row.question for row in rows} == {"describe the image ."}
    without = replace(PROMPTS, texts={"vqa.version": "1"})
    with pytest.raises(ConfigError, match=r"has no text calibrated\.describe_1"):
        plan_prompts(local_store, images, DescriptionPromptsConfig(), without, 1, "p", 5)


def test_texts_are_in_the_order_of_their_numbers_and_asked_bare() -> None:
    numbered = {f"calibrated.describe_{number}": f"text {number}" for number in range(12, 0, -1)}
    prompts = replace(PROMPTS, texts={**numbered, "calibrated.version": "1"})
    assert description_texts(prompts) == [f"text {number}" for number in range(1, 13)]
    (message,) = description_messages(prompts, "Is it {red}?")
    assert message.parts == ("<image>", "Is it {red}?")
    system = replace(prompts, texts={"calibrated.system": "Be brief."})
    assert [m.role for m in description_messages(system, "x")] == ["system", "user"]


def test_no_image_is_an_error(local_store: Store) -> None:
    shard = write_shard(local_store, "images", 0, [], ImageRow)
    empty = publish(local_store, Manifest(kind="images", prefix="images", inputs_digest="",
                                          shards=[shard]))
    with pytest.raises(ConfigError, match=r"the 0 images of .*images gives candidates 0"):
        plan(local_store, empty)


# --- from a file ---

GOOD = [
    {"id": "000000000001", "image": "000000000001.jpg", "input": "What do you see?\n<image>"},
    {"id": "000000000002", "image": "COCO_train2014_000000000002.jpg",
     "input": "<image>\nAnd here?"},
    {"id": 3, "image": "3.jpg", "input": "  Describe it. "},
    {"id": "4", "image": "a/4.jpg", "input": "Which {one}?"},
]
BAD = [
    ({"id": "5", "image": "9.jpg", "input": "What?"}, "unknown_image", "9.jpg"),
    ({"id": "6", "image": "4.jpg", "input": "What?"}, "ambiguous_image", "4.jpg may be"),
    ({"id": "7", "image": "3.jpg", "input": "<image>"}, "bad_prompt", "needs id, image and input"),
    ({"id": "8", "image": "3.jpg"}, "bad_prompt", "needs id, image and input"),
    ({"id": "9", "image": "", "input": "What?"}, "bad_prompt", "needs id, image and input"),
    ({"image": "3.jpg", "input": "What?"}, "bad_prompt", "needs an id of its own"),
    ({"id": "4", "image": "3.jpg", "input": "What?"}, "bad_prompt", "'4' was there before"),
]


@pytest.mark.parametrize("name", ["prompts.json", "prompts.jsonl"])
def test_a_file_of_the_authors_layout_loads(local_store: Store, tmp_path: Path, name: str) -> None:
    images = photographs(local_store, tmp_path / "pictures")
    uri = write(tmp_path / name, [*GOOD, *[entry for entry, _, _ in BAD], "odd"])
    made = plan(local_store, images, uri=uri)
    rows = rows_of(local_store, made)
    assert [(row.prompt_id, row.question) for row in rows] == [
        ("000000000001", "What do you see?"), ("000000000002", "And here?"), ("3", "Describe it."),
        ("4", "Which {one}?")]
    assert len({row.image.image_id for row in rows}) == 4
    dropped = drops_of(local_store, made)
    assert [row.reason for row in dropped] == [reason for _, reason, _ in BAD] + ["bad_prompt"]
    for row, (entry, _, detail) in zip(dropped, BAD, strict=False):
        assert detail in row.detail and json.loads(row.payload) == entry and row.source == uri
    assert made.funnel == {"candidates": 12, "ambiguous_image": 1, "bad_prompt": 6,
                           "unknown_image": 1, "planned": 4}


def test_a_parquet_file_loads_and_its_limit_is_drawn_from_what_can_be_used(
    local_store: Store, tmp_path: Path
) -> None:
    images = photographs(local_store, tmp_path / "pictures")
    uri = write(tmp_path / "p.parquet", [{**entry, "id": str(entry["id"])} for entry in GOOD]
                + [BAD[0][0]])
    made = plan(local_store, images, uri=uri, limit=2)
    assert made.funnel == {"candidates": 5, "unknown_image": 1, "not_drawn": 2, "planned": 2}


def test_a_changed_file_is_planned_again_and_the_sets_texts_do_not_matter(
    local_store: Store, tmp_path: Path
) -> None:
    images = photographs(local_store, tmp_path / "pictures")
    uri = write(tmp_path / "prompts.json", GOOD)
    first = plan(local_store, images, uri=uri)
    assert plan(local_store, images, uri=uri, prompts="nursery") == first
    write(tmp_path / "prompts.json", GOOD[:2])
    assert plan(local_store, images, uri=uri).funnel == {"candidates": 2, "planned": 2}


@pytest.mark.parametrize(("content", "message"), [
    ("[]", "gives candidates 0"), ("{broken", "cannot be read"),
    ('[{"id": "1", "image": "no.jpg", "input": "What?"}]', "candidates 1, unknown_image 1")])
def test_a_file_without_a_usable_prompt_is_an_error(
    local_store: Store, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        plan(local_store, nursery(local_store, 6), uri=str(tmp_path / "p.json"))
