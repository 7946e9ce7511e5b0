"""General data: what is drawn, what it becomes for each objective, and what is quarantined."""

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model_ops.mix import MixJob, draw, publish_mix
from schemas.artifacts import read_quarantine, read_rows
from schemas.config import MixConfig, RewardWords
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.rows import PairRow, TrainRow
from schemas.store import Store


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 2 * number, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def job(store: Store, uri: Path | str, objective: str = "crl", **changes: Any) -> MixJob:
    mix = MixConfig(uri=str(uri), **changes.pop("mix", {}))
    return MixJob(**{"store": store, "mix": mix, "objective": objective, "words": RewardWords(),
                     "num_own": 100, "prefix": "mix", "round": 2, "stage": "00-contrastive",
                     "seed": 3, "shard_size": 4, **changes})


def authors_file(folder: Path, num: int, kinds: tuple[str, ...] = ("preferred", "rejected")
                 ) -> Path:
    """The authors' pair layout, or (with one kind) their split layout."""
    records = []
    for number in range(num):
        (folder / f"{number}.png").write_bytes(png(number))
        replies = {kind: f"{kind} reply {number}" for kind in kinds}
        records.append({"id": number, "image": f"/their/home/{number}.png",
                        "conversations": [{"value": f"question {number} ?"}, {"value": replies}]})
    path = folder / "preference_dataset.json"
    path.write_text(json.dumps(records))
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def talk(role: str, text: str, image: bool = False) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "image", "text": None}] if image else []
    return [{"role": role, "content": [*parts, {"type": "text", "text": text}]}]


def train_rows(store: Store, made: Manifest) -> list[TrainRow]:
    return list(read_rows(store, made, TrainRow))


def asked(row: TrainRow | PairRow) -> list[str | None]:
    return [part.text for message in row.prompt for part in message.content]


def test_a_pair_becomes_a_good_and_a_bad_row(local_store: Store, tmp_path: Path) -> None:
    made = publish_mix(job(local_store, authors_file(tmp_path, 6)))
    rows = train_rows(local_store, made)
    assert made.kind == "train" and made.funnel == {"read": 6, "drawn": 6, "kept": 6}
    assert Counter(row.role for row in rows) == {"good": 6, "bad": 6}
    for good, bad in zip(rows[::2], rows[1::2], strict=True):
        number = good.source_row_id.rpartition("#")[2]
        assert asked(good) == [None, f"good question {number} ?"]
        assert asked(bad) == [None, f"bad question {number} ?"]
        assert good.completion[0].content[0].text == f"preferred reply {number}"
        assert bad.completion[0].content[0].text == f"rejected reply {number}"
        assert good.images == bad.images and good.row_id != bad.row_id
        assert good.image_ids == [hashlib.sha256(png(int(number))).hexdigest()]
        assert (good.round, good.stage, good.weight) == (2, "00-contrastive", 1.0)


def test_sft_takes_the_chosen_reply_without_a_word(local_store: Store, tmp_path: Path) -> None:
    rows = train_rows(local_store, publish_mix(job(local_store, authors_file(tmp_path, 3), "sft")))
    assert [row.role for row in rows] == ["mix"] * 3
    assert all(str(asked(row)[1]).startswith("question") for row in rows)


def test_dpo_takes_both_as_one_row(local_store: Store, tmp_path: Path) -> None:
    made = publish_mix(job(local_store, authors_file(tmp_path, 3), "dpo"))
    rows = list(read_rows(local_store, made, PairRow))
    assert [row.chosen[0].content[0].text for row in rows] == [
        f"preferred reply {number}" for number in range(3)]
    assert len(rows) == 3 and rows[0].rejected[0].content[0].text == "rejected reply 0"


def test_split_records_give_one_row_each(local_store: Store, tmp_path: Path) -> None:
    path = authors_file(tmp_path, 4, kinds=("rejected",))
    assert [row.role for row in train_rows(local_store, publish_mix(job(local_store, path)))] == [
        "bad"] * 4
    with pytest.raises(ConfigError, match="none of its 4 records gives a row for objective 'sft'"):
        publish_mix(job(local_store, path, "sft"))


@pytest.mark.parametrize(("ratio", "num_rows"), [(0.1, 10), (0.05, 6), (1.0, 40)])
def test_the_ratio_counts_rows_and_stops_where_the_file_ends(
        local_store: Store, tmp_path: Path, ratio: float, num_rows: int) -> None:
    """An odd number of rows is rounded up to whole pairs."""
    made = publish_mix(job(local_store, authors_file(tmp_path, 20), mix={"ratio": ratio}))
    assert made.num_rows == num_rows and made.funnel["read"] == 20


@pytest.mark.parametrize(("max_rows", "num_rows"), [(None, 40), (9, 10)])
def test_without_a_ratio_all_rows_are_taken_up_to_the_most_that_are_learnt(
        local_store: Store, tmp_path: Path, max_rows: int | None, num_rows: int) -> None:
    made = publish_mix(job(local_store, authors_file(tmp_path, 20), mix={"ratio": None}, num_own=0,
                           max_rows=max_rows))
    assert made.num_rows == num_rows


def test_the_draw_is_the_seeds(local_store: Store, tmp_path: Path) -> None:
    path = authors_file(tmp_path, 20)
    drawn = [{row.source_row_id for row in train_rows(local_store, publish_mix(
        job(local_store, path, seed=seed, prefix=f"mix{number}", mix={"ratio": 0.1})))}
        for number, seed in enumerate((1, 1, 2))]
    assert drawn[0] == drawn[1] != drawn[2]


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(1, 40), st.integers(0, 3))
def test_no_more_is_drawn_than_is_wanted(sizes: list[int], wanted: int, seed: int) -> None:
    chosen = draw(sizes, wanted, seed)
    total = sum(sizes[place] for place in chosen)
    assert total <= wanted + 1
    assert total >= wanted or len(chosen) == len(sizes)


def test_parquet_of_trl_is_read_in_all_its_layouts(local_store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    picture = {"bytes": png(1), "path": None}
    parquet(folder / "a.parquet", [{"prompt": talk("user", "messages ?", image=True),
                                    "completion": talk("assistant", "yes"), "images": [picture]}])
    parquet(folder / "b.parquet", [{"prompt": "plain <image> ?", "chosen": "right",
                                    "rejected": "wrong", "image": picture}])
    parquet(folder / "c.parquet", [{"prompt": [{"role": "user", "content": "texts ?"}],
                                    "completion": [{"role": "assistant", "content": "no"}],
                                    "images": [picture]}])
    rows = train_rows(local_store, publish_mix(job(local_store, folder)))
    said = sorted((str(asked(row)[1]), str(row.completion[0].content[0].text)) for row in rows)
    assert said == [("bad plain  ?", "wrong"), ("good messages ?", "yes"),
                    ("good plain  ?", "right"), ("good texts ?", "no")]
    assert all(asked(row)[0] is None and len(row.images) == 1 for row in rows)


def test_what_cannot_be_used_is_quarantined_with_its_reason(local_store: Store,
                                                            tmp_path: Path) -> None:
    def record(prompt: Any = "what ?", completion: str = "a thing", image: bytes | None = png(9)
               ) -> dict[str, Any]:
        return {"prompt": prompt, "completion": completion,
                "images": [{"bytes": image, "path": "x.png"}]}

    held_out = png(77)
    path = parquet(tmp_path / "set.parquet", [
        record(), record(image=None), record(image=b"no picture"), record(completion=" "),
        record(completion="Good, a thing"), record(completion="see <image>"),
        record(image=held_out), record(prompt="")])
    ids = frozenset({hashlib.sha256(held_out).hexdigest()})
    made = publish_mix(job(local_store, path, held_out=ids, max_pixels=100))
    reasons = Counter(row.reason for row in read_quarantine(local_store, made))
    assert reasons == {"image_missing": 1, "not_an_image": 1, "empty_completion": 1,
                       "reward_word_leak": 1, "placeholder_mismatch": 1, "held_out_image": 1,
                       "empty_prompt": 1}
    funnel = dict(made.funnel)
    assert (funnel.pop("read"), funnel.pop("drawn"), funnel.pop("kept")) == (8, 8, 1)
    assert funnel == reasons and made.num_rows == 1


def test_equal_replies_drop_the_whole_pair(local_store: Store, tmp_path: Path) -> None:
    picture = {"bytes": png(1), "path": None}
    rows = [{"prompt": "what ?", "chosen": said, "rejected": "A cat", "images": [picture]}
            for said in ("a  cat", "a dog")]
    made = publish_mix(job(local_store, parquet(tmp_path / "set.parquet", rows)))
    assert made.funnel == {"read": 2, "drawn": 2, "chosen_equals_rejected": 1, "kept": 1}


def test_records_that_the_authors_reader_refuses_are_kept_in_quarantine(local_store: Store,
                                                                        tmp_path: Path) -> None:
    path = authors_file(tmp_path, 3)
    (tmp_path / "1.png").unlink()
    made = publish_mix(job(local_store, path))
    assert made.funnel == {"read": 3, "drawn": 3, "image_missing": 1, "kept": 2}


def test_finished_work_is_kept_and_another_file_is_other_work(local_store: Store,
                                                              tmp_path: Path) -> None:
    path = authors_file(tmp_path, 6)
    first = publish_mix(job(local_store, path))
    assert publish_mix(job(local_store, path)) == first
    receipt = Path(local_store.uri("mix/receipts/00001.json"))
    Path(local_store.uri("mix/manifest.json")).unlink()
    receipt.unlink()
    assert publish_mix(job(local_store, path)).digest == first.digest
    authors_file(tmp_path, 7)
    assert publish_mix(job(local_store, path)).digest != first.digest


@pytest.mark.parametrize(("name", "message"), [("absent.json", "cannot be read"),
                                               ("", "without Parquet files")])
def test_a_place_without_data_is_a_clear_error(local_store: Store, tmp_path: Path, name: str,
                                               message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        publish_mix(job(local_store, tmp_path / name if name else tmp_path))


def test_a_file_that_is_not_what_its_name_says(local_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match="not a Parquet file"):
        publish_mix(job(local_store, path))
