"""The authors' files: every layout read, every defect named, and our pairs there and back."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from deploy.cli import app
from model_ops.interop.macaroon import (
    BadRecord,
    ImportedPair,
    bad_record,
    export_pairs,
    pair_of,
    pictures_of,
    rank_completions,
    records_of,
)
from schemas.artifacts import publish, write_shard
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest
from schemas.rows import ChatMessage, PairRow, Part, Picture, row_id
from schemas.store import Store

PREFIX = "rounds/round=0001/00-contrastive/pairs"


def picture(colour: str, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 12), colour).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files as somebody has them: pictures in folders, the JSON beside them."""
    made = tmp_path / "macaroon"
    for name, colour in (("images/a.png", "red"), ("images/vg/b.png", "blue")):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(picture(colour))
    return made


def save(folder: Path, name: str, records: Any) -> str:
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records), path)
    elif name.endswith(".jsonl"):
        path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    else:
        path.write_text(json.dumps(records))
    return str(path)


def pair(image: str, question: str = "Which one?", **replies: str) -> dict[str, Any]:
    return {"id": 1, "image": image,
            "conversations": [{"value": question}, {"value": replies}]}


def read_pairs(uri: str, images_uri: str | None) -> list[ImportedPair | BadRecord]:
    pictures, found = pictures_of(uri, images_uri), []
    for number, record in enumerate(records_of(uri)):
        source = f"{uri}#{number}"
        try:
            found.append(pair_of(record, pictures, source))
        except DropError as error:
            found.append(bad_record(record, error, source))
    return found


def good(found: list[ImportedPair | BadRecord]) -> list[ImportedPair]:
    return [each for each in found if isinstance(each, ImportedPair)]


def reasons(found: list[ImportedPair | BadRecord]) -> list[str]:
    return [each.error.reason for each in found if isinstance(each, BadRecord)]


def test_pair_files_are_read_with_the_authors_private_paths(folder: Path) -> None:
    uri = save(folder, "preference_dataset.json", [
        pair("/home/them/MACAROON/images/a.png", preferred="Which?", rejected="Red."),
        pair("images/vg/b.png", "Is it big?", preferred="Big for what?", rejected="Yes.")])
    first, second = good(read_pairs(uri, None))
    assert first == ImportedPair("Which one?", picture("red"), "Which?", "Red.", f"{uri}#0")
    assert (second.question, second.image, second.source) == (
        "Is it big?", picture("blue"), f"{uri}#1")


def test_split_files_have_one_reply_a_record(folder: Path) -> None:
    records = [pair("a.png", preferred="Which?"), pair("a.png", rejected="Red.")]
    for record in records:
        record.pop("id")
    uri = save(folder, "preference_dataset_seperate.json", records)
    found = good(read_pairs(uri, str(folder / "images")))
    assert [(each.chosen, each.rejected) for each in found] == [("Which?", None), (None, "Red.")]


def test_every_record_that_cannot_be_used_says_why(folder: Path) -> None:
    multiturn = {"image": "a.png", "conversations": ["Q", "A", "no", "B"]}
    uri = save(folder, "mixed.jsonl", [
        "{broken", "7", {"text": "?"}, multiturn, pair("a.png", other="x"), pair("a.png"),
        pair("a.png", " ", preferred="x"), pair("a.png", preferred="x", rejected=" "),
        pair("", preferred="x"), pair("gone.png", preferred="x"), pair("../../a.png",
                                                                      preferred="x")])
    found = read_pairs(uri, str(folder / "images"))
    assert reasons(found) == [
        "bad_json", "unknown_layout", "unknown_layout", "not_a_pair", "not_a_pair", "not_a_pair",
        "empty_question", "empty_reply", "no_image", "image_missing"]
    [last] = good(found)
    assert last.image == picture("red"), "a path may not leave the folder"
    bad = next(each for each in found if isinstance(each, BadRecord))
    assert (bad.row.kind, bad.row.reason, bad.row.source) == ("imported", "bad_json", f"{uri}#0")
    assert len({each.row.row_id for each in found if isinstance(each, BadRecord)}) == 10


def test_a_file_that_cannot_be_read_says_so(folder: Path) -> None:
    (folder / "x.parquet").write_text("no parquet")
    (folder / "x.json").write_text("[{")
    for name in ("x.parquet", "x.json", "nowhere.json"):
        with pytest.raises(ConfigError, match=f"{name} cannot be read"):
            read_pairs(str(folder / name), None)


def rated(response: str, *ratings: str) -> dict[str, Any]:
    names = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
    return {"model": "m", "response": response, "annotations": {
        name: {"Rating": rating, "Rationale": "since"}
        for name, rating in zip(names, ratings, strict=True)}}


def test_ratings_become_the_best_and_the_worst_response() -> None:
    four = [rated("fair", "3", "4", "5"), rated("best", "5", "5", "5"),
            rated("poor", "1", "2", "5"), rated("odd", "N/A", "1", "1")]
    assert rank_completions(four) == ("best", "poor")
    lists = {"response": [each["response"] for each in four],
             "annotations": [each["annotations"] for each in four], "model": ["m"] * 4}
    assert rank_completions(lists) == ("best", "poor")
    with pytest.raises(DropError, match=r"tie: mean ratings 4\.00 to 4\.67"):
        rank_completions([rated("a", "4", "4", "4"), rated("b", "4", "5", "5")])
    assert rank_completions([rated("a", "4", "4", "4"), rated("b", "5", "5", "5")]) == ("b", "a")
    for few in (four[2:], [], None, [{"response": "x"}, {"response": "y", "annotations": None}]):
        with pytest.raises(DropError, match="too_few_ratings"):
            rank_completions(few)


@pytest.mark.parametrize("name", ["vlf.jsonl", "vlf.parquet"])
def test_vlfeedback_is_read_as_its_authors_publish_it(folder: Path, name: str) -> None:
    both = [rated("good", "5", "5", "5"), rated("bad", "1", "2", "5")]
    records: list[dict[str, Any]] = [
        {"id": "1", "img_path": "merged_images/a.png", "prompt": "What?", "completions": both},
        {"id": "2", "img_path": "merged_images/a.png", "prompt": "What?",
         "completions": [rated("x", "3", "3", "3"), rated("y", "3", "N/A", "3")]}]
    if name.endswith("parquet"):
        records = [{**record, "image": {"bytes": picture("green"), "path": None}}
                   for record in records]
    found = read_pairs(save(folder, name, records), str(folder / "images"))
    [kept] = good(found)
    assert (kept.question, kept.chosen, kept.rejected) == ("What?", "good", "bad")
    assert kept.image == picture("green" if name.endswith("parquet") else "red")
    assert reasons(found) == ["too_few_ratings"]
    [bad] = [each for each in found if isinstance(each, BadRecord)]
    assert "bytes" not in bad.payload and json.loads(bad.payload)["id"] == "2"


def message(role: str, text: str, images: int = 0) -> ChatMessage:
    parts = [Part(type="image")] * images + [Part(type="text", text=text)]
    return ChatMessage(role=role, content=parts)


def pair_row(number: int, data: bytes, image_id: str, images: int = 1) -> PairRow:
    return PairRow(
        row_id=row_id("pair", number=number), round=1, stage="00-contrastive", model_digest="m",
        prompt_version="p", seed=0, images=[Picture(bytes=data)] * images,
        prompt=[message("system", "You help."), message("user", f"Is it big {number}?", images)],
        chosen=[message("assistant", f"Big “für” whom {number}?")],
        rejected=[message("assistant", f"Yes {number}.")], role="Subjective Interpretations",
        source_row_id="s", image_ids=[image_id] * images)


def published(store: Store, rows: list[PairRow], kind: str = "pairs") -> Manifest:
    shards = [write_shard(store, PREFIX, index, [row], PairRow) for index, row in enumerate(rows)]
    return publish(store, Manifest(kind=kind, prefix=PREFIX, inputs_digest=kind, shards=shards))


ROWS = [pair_row(0, picture("red"), "aa"), pair_row(1, picture("blue", "JPEG"), "bb"),
        pair_row(2, picture("red"), "aa")]


@pytest.mark.slow
def test_our_pairs_survive_the_way_there_and_back(store: Store, tmp_path: Path) -> None:
    there = str(tmp_path / "out")
    assert export_pairs(store, published(store, ROWS), there) == (3, 2)
    assert sorted(p.name for p in Path(there, "images").iterdir()) == ["aa.png", "bb.jpg"]
    back = good(read_pairs(f"{there}/preference_dataset.json", None))
    assert [(each.question, each.image, each.chosen, each.rejected) for each in back] == [
        (f"Is it big {n}?", row.images[0].bytes, f"Big “für” whom {n}?", f"Yes {n}.")
        for n, row in enumerate(ROWS)]
    halves = good(read_pairs(f"{there}/preference_dataset_seperate.json", None))
    assert [(each.chosen is None, each.rejected is None) for each in halves] == [
        (False, True), (True, False)] * 3
    written = json.loads(Path(there, "preference_dataset.json").read_text())
    assert set(written[0]) == {"id", "image", "conversations"}
    assert written[0]["image"] == "images/aa.png"
    with pytest.raises(ConfigError, match="is there already"):
        export_pairs(store, published(store, ROWS), there)


@pytest.mark.slow
@pytest.mark.s3
def test_pairs_are_exported_to_a_bucket_and_read_from_it(s3_root: str) -> None:
    store, there = Store(s3_root), f"{s3_root}/out"
    assert export_pairs(store, published(store, ROWS), there) == (3, 2)
    back = read_pairs(f"{there}/preference_dataset.json", None)
    assert [each.image for each in good(back)] == [row.images[0].bytes for row in ROWS]


def test_rows_of_several_images_have_no_place_in_the_layout(
    local_store: Store, tmp_path: Path
) -> None:
    pairs = published(local_store, [pair_row(0, picture("red"), "aa", images=2)])
    with pytest.raises(ConfigError, match="has 2 images"):
        export_pairs(local_store, pairs, str(tmp_path / "out"))
    assert not (tmp_path / "out" / "preference_dataset.json").exists()


def test_the_command_exports_pairs_and_nothing_else(local_store: Store, tmp_path: Path) -> None:
    published(local_store, ROWS)
    uri, there = local_store.uri(PREFIX), str(tmp_path / "out")
    done = CliRunner().invoke(app, ["export", uri, there, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"pairs": 3, "images": 2, "folder": there}
    published(local_store, ROWS, kind="train")
    refused = CliRunner().invoke(app, ["export", uri, str(tmp_path / "more")])
    assert refused.exit_code == 1 and "holds train, not pairs" in str(refused.exception)
