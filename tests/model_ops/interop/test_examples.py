"""Instructions as the field publishes them: JSON, JSONL, Parquet; messages, `conversations`."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from model_ops.interop.examples import Example, read_examples
from model_ops.interop.macaroon import BadRecord
from model_ops.programs.calls import IMAGE, Message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / "a.png")
    return tmp_path


def read(path: Path) -> list[Example | BadRecord]:
    return list(read_examples([str(path)], str(path.parent / "images")))


def save(folder: Path, name: str, records: list[Any]) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records), path)
    elif name.endswith(".jsonl"):
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        path.write_text(json.dumps(records))
    return path


TALK = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A square."},
        {"from": "human", "value": "Which colour?"}, {"from": "gpt", "value": "Red."}]
MESSAGES = [{"role": {"human": "user", "gpt": "assistant"}[turn["from"]],
             "content": turn["value"].replace("<image>\n", "")} for turn in TALK]
ASKED = (Message("user", (IMAGE, "What is it?")), Message("assistant", ("A square.",)),
         Message("user", ("Which colour?",)))


@pytest.mark.parametrize("name", ["set.json", "set.jsonl", "set.parquet"])
@pytest.mark.parametrize("record", [
    {"id": 1, "image": "coco/train2017/a.png", "conversations": TALK},
    {"image": "/home/them/a.png", "conversations": [turn["value"] for turn in TALK]},
    {"messages": MESSAGES, "images": ["a.png"]},
    {"prompt": MESSAGES[:3], "completion": MESSAGES[3:], "image": "a.png"}])
def test_of_a_talk_the_last_reply_is_learnt(
    folder: Path, name: str, record: dict[str, Any]
) -> None:
    [found] = read(save(folder, name, [record]))
    assert isinstance(found, Example), found
    assert (found.prompt, found.chosen, found.rejected) == (ASKED, "Red.", None)
    assert found.images == ((folder / "images" / "a.png").read_bytes(),)


def test_json_may_hold_preferences(folder: Path) -> None:
    [found] = read(save(folder, "set.jsonl", [
        {"prompt": "What?", "chosen": "A square.", "rejected": "Two.", "image": "a.png"}]))
    assert isinstance(found, Example)
    assert (found.chosen, found.rejected) == ("A square.", "Two.")


def test_what_cannot_be_used_says_why(folder: Path) -> None:
    found = read(save(folder, "set.json", [
        {"image": "a.png", "conversations": TALK[:3]}, {"conversations": TALK},
        {"image": "b.png", "conversations": TALK}, {"messages": [], "image": "a.png"},
        {"messages": [{"role": "assistant"}], "image": "a.png"}, {"text": "?"},
        {"conversations": ["Q", "A", "no"], "image": "a.png"}, {"conversations": []}]))
    assert [each.error.reason for each in found if isinstance(each, BadRecord)] == [
        "bad_message", "no_image", "image_missing", "bad_message", "empty_prompt",
        "unknown_layout", "bad_message", "not_a_pair"]
