"""From row models to Arrow and back.

Its one idea: the Arrow schema is derived from the row model, and the `huggingface` metadata from
the Arrow schema, so `datasets.load_dataset("parquet", ...)` shows pictures without any code. All
columns are nullable, as `datasets` knows no others. Where bytes go is left to `schemas.artifacts`.
"""

import io
import json
import types
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, create_model

from schemas.rows import Picture, Row

RowT = TypeVar("RowT", bound=Row)

_SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(),
            bytes: pa.binary()}
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""What `datasets` calls an Image."""

GROUP_ROWS = 32
"""Most rows of a row group that holds images: the unit that an image reader fetches."""
GROUP_BYTES = 8 << 20
"""About the most bytes of a row group."""


@lru_cache(maxsize=64)
def arrow_schema(row_type: type[Row]) -> pa.Schema:
    """The Arrow schema of `row_type`, with the metadata that `datasets` reads."""
    fields = [pa.field(name, _arrow_type(field.annotation))
              for name, field in row_type.model_fields.items()]
    features = {field.name: _feature(field.type) for field in fields}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=metadata)


def _arrow_type(annotation: Any) -> pa.DataType:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        (annotation,) = [a for a in arguments if a is not type(None)]
        return _arrow_type(annotation)
    if origin is list:
        return pa.list_(_arrow_type(arguments[0]))
    if origin is Literal:
        return _SCALARS[type(arguments[0])]
    if annotation is Picture:
        return PICTURE
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct([(name, _arrow_type(field.annotation))
                          for name, field in annotation.model_fields.items()])
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    raise TypeError(f"no Arrow type for {annotation!r}: rows hold scalars, lists and row models")


def _feature(arrow: pa.DataType) -> dict[str, Any]:
    """The `datasets` feature of an Arrow type, as its JSON form."""
    if arrow == PICTURE:
        return {"_type": "Image"}
    if pa.types.is_struct(arrow):
        return {field.name: _feature(field.type) for field in arrow.fields}
    if pa.types.is_list(arrow):
        return {"feature": _feature(arrow.value_type), "_type": "List"}
    return {"dtype": {"double": "float64"}.get(str(arrow), str(arrow)), "_type": "Value"}


def rows_to_table(rows: Sequence[Row], row_type: type[Row]) -> pa.Table:
    """The rows as a table of `row_type`'s schema."""
    return pa.Table.from_pylist([row.model_dump() for row in rows], schema=arrow_schema(row_type))


def table_to_rows(table: pa.Table, row_type: type[RowT]) -> list[RowT]:
    """The rows of a table, validated.

    A table with fewer columns gives rows that have these only (others raise AttributeError).
    """
    values = table.to_pylist()
    if set(row_type.model_fields) <= set(table.column_names):
        return [row_type.model_validate(value) for value in values]
    partial = _partial_model(row_type, tuple(table.column_names))
    checked = [partial.model_validate(value) for value in values]
    return [cast(RowT, row_type.model_construct(**dict(row))) for row in checked]


@lru_cache(maxsize=64)
def _partial_model(row_type: type[Row], columns: tuple[str, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = {name: (row_type.model_fields[name].annotation, ...)
                              for name in columns}
    return create_model(f"{row_type.__name__}Columns", __base__=Row, **fields)


def table_to_parquet(table: pa.Table) -> bytes:
    """Parquet bytes; the same table gives the same bytes (fixed settings, no clock, no paths)."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", compression_level=3,
                          version="2.6", data_page_version="1.0", use_dictionary=True,
                          write_statistics=True, store_schema=True) as writer:
        if table.num_rows:  # `datasets` cannot read an empty row group; none at all it can
            writer.write_table(table, row_group_size=_group_rows(table))
    return sink.getvalue()


def _group_rows(table: pa.Table) -> int:
    """Rows per row group: few where there are images, so that reading one reads little else."""
    if not any(_holds_picture(field.type) for field in table.schema):
        return 10_000
    row_bytes = int(table.nbytes) / max(1, int(table.num_rows))
    return max(1, min(GROUP_ROWS, int(GROUP_BYTES / max(1.0, row_bytes))))


def _holds_picture(arrow: pa.DataType) -> bool:
    return bool(arrow == PICTURE or (pa.types.is_list(arrow) and arrow.value_type == PICTURE))
