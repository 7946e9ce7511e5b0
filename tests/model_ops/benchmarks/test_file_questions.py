"""Which image a question of a file is about, where file names repeat in several folders."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model_ops.benchmarks.questions import file_questions, image_name
from model_ops.images import import_images
from schemas.artifacts import read_rows
from schemas.config import ImagesConfig
from schemas.rows import ImageRow
from schemas.store import Store


def test_a_question_is_about_the_image_of_its_folder(local_store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for place, name in enumerate(("a/1.png", "b/1.png")):
        (folder / name).parent.mkdir(parents=True)
        Image.new("RGB", (20, 20), (90 * place, 0, 0)).save(folder / name)
    names = ["a/1.png", "b/1.png", "photos/a/1.png", "1.png", "c/1.png"]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps({"image": name, "question": name, "answers": "x"})
                              for name in names))
    images = import_images(local_store, ImagesConfig(uri=str(folder)))
    rows, unusable = file_questions(local_store, images, str(path), 5, "photos", 0)
    sources = {row.image_id: row.source for row in read_rows(local_store, images, ImageRow)}
    assert {row.question: sources[row.image.image_id] for row in rows} == {
        "a/1.png": "a/1.png", "b/1.png": "b/1.png", "photos/a/1.png": "a/1.png"}
    assert {json.loads(row.payload)["image"]: row.reason for row in unusable} == {
        "1.png": "ambiguous_image", "c/1.png": "unknown_image"}


@pytest.mark.parametrize(("entry", "name"), [
    ({"Image ID": 2345}, "2345.jpg"), ({"Image ID": "a.b"}, "a.b.jpg"),
    ({"Image ID": "c.png"}, "c.png"), ({"Image ID": "c.JPG"}, "c.JPG"),
    ({"image": "folder/d.webp"}, "folder/d.webp"), ({"image": None}, ""), ({}, "")])
def test_an_entry_names_its_image_in_our_way_or_the_authors(
    entry: dict[str, Any], name: str
) -> None:
    assert image_name(entry) == name
