"""Row models as Arrow and back, and as `datasets` reads them."""

import json
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import rows as row_models
from schemas.arrow import arrow_schema, rows_to_table, table_to_parquet, table_to_rows
from schemas.artifacts import publish, write_shard
from schemas.manifest import Manifest
from schemas.rows import ImageRow, ItemRow, Picture, Row, TrainRow, Turn
from schemas.store import Store
from tests.schemas.rows_for_tests import game, message, png, train_row

ROW_TYPES = [kind for kind in vars(row_models).values()
             if isinstance(kind, type) and issubclass(kind, Row) and kind is not Row]


@pytest.mark.parametrize("kind", ROW_TYPES, ids=lambda kind: kind.__name__)
def test_every_row_model_has_a_schema_whose_features_cover_all_columns(kind: type[Row]) -> None:
    from datasets import Features

    schema = arrow_schema(kind)
    features = Features.from_dict(json.loads(schema.metadata[b"huggingface"])["info"]["features"])
    assert list(features) == list(kind.model_fields)
    assert features.arrow_schema.remove_metadata() == schema.remove_metadata()


def test_rows_come_back_equal() -> None:
    rows = [game(n) for n in range(5)]
    assert table_to_rows(rows_to_table(rows, row_models.GameRow), row_models.GameRow) == rows
    trained = [train_row(), train_row(images=[], prompt=[message("user", "q")])]
    assert table_to_rows(rows_to_table(trained, TrainRow), TrainRow) == trained


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(st.builds(Turn)))
def test_any_turns_come_back_equal(turns: list[Turn]) -> None:
    table = rows_to_table(turns, Turn)
    assert [t.model_dump_json() for t in table_to_rows(table, Turn)] == [
        t.model_dump_json() for t in turns]
    assert table_to_parquet(table) == table_to_parquet(rows_to_table(turns, Turn))


def test_a_subset_of_columns_gives_rows_with_these_only() -> None:
    table = rows_to_table([game(1)], row_models.GameRow).select(["row_id", "images"])
    (row,) = table_to_rows(table, row_models.GameRow)
    assert row.row_id == "row-1" and row.images == game(1).images
    with pytest.raises(AttributeError):
        _ = row.seed


def test_literals_are_text_and_unknown_types_are_refused() -> None:
    class Odd(Row):
        kind: Literal["a", "b"]

    class Worse(Row):
        anything: dict[str, int]

    assert arrow_schema(Odd).field("kind").type == pa.string()
    with pytest.raises(TypeError, match="dict"):
        arrow_schema(Worse)


def test_images_have_small_row_groups_and_other_rows_large_ones(local_store: Store) -> None:
    def groups(rows: list[Any], kind: type[Row]) -> int:
        local_store.write_bytes("t", table_to_parquet(rows_to_table(rows, kind)))
        with local_store.open_parquet("t") as file:
            return int(file.num_row_groups)

    small, large = Picture(bytes=png()), Picture(bytes=b"x" * (3 << 20))
    image = ImageRow(image_id="i", image=small, width=8, height=8, source="s", split="all")
    assert groups([image] * 100, ImageRow) == 4
    assert groups([image.model_copy(update={"image": large})] * 6, ImageRow) == 3
    assert groups([game(n) for n in range(1000)], row_models.GameRow) == 1


def test_load_dataset_shows_decoded_images_and_nested_messages(local_store: Store,
                                                               tmp_path: Path) -> None:
    from datasets import load_dataset

    two = train_row(images=[Picture(bytes=png((9, 9, 9))), Picture(bytes=png())],
                    prompt=[message("user", "<image>", "<image>", "which ?")])
    shards = [write_shard(local_store, "train", 0, [train_row(), two], TrainRow),
              write_shard(local_store, "train", 1, [train_row(row_id="t-3")], TrainRow),
              write_shard(local_store, "train", 2, [train_row(completion=[])], TrainRow)]
    publish(local_store, Manifest(kind="train", prefix="train", inputs_digest="i", shards=shards))
    files = [local_store.uri(f"train/{shard.path}") for shard in shards]
    loaded = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path), split="train")
    assert [len(row["images"]) for row in loaded] == [1, 2, 1]
    assert loaded[1]["images"][0].convert("RGB").getpixel((0, 0)) == (9, 9, 9)
    assert loaded[0]["prompt"] == [message("user", "<image>", "is it red ?").model_dump()]
    by_card = load_dataset(local_store.uri("train"), cache_dir=str(tmp_path), split="train")
    assert by_card["row_id"][:] == ["t-1", "t-1", "t-3"]


def test_row_groups_of_other_rows_do_not_depend_on_their_number() -> None:
    assert rows_to_table([], ItemRow).num_rows == 0
    assert table_to_parquet(rows_to_table([], ItemRow))
