"""Other people's instructions and preferences, one record at a time, in one form.

Its one idea: whatever a file looks like, a record is a prompt with pictures and one or two replies.
TRL's layouts (`prompt` with `completion`, or with `chosen` and `rejected`; messages or plain text;
`images` or `image`), `messages`, LLaVA's `conversations` and those of MACAROON's multi-turn files
(plain texts, the user's first) are read here, as Parquet, JSON or JSONL; the authors' other files
and VLFeedback by `macaroon`. Of a longer talk the last reply is learnt.
What becomes of an example is left to `model_ops.mix`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow.parquet as pq

from model_ops.interop.macaroon import (
    BadRecord,
    ImportedPair,
    Pictures,
    bad_record,
    image_of,
    pair_of,
    pictures_of,
    records_of,
)
from model_ops.programs.calls import IMAGE, Message
from schemas.errors import ConfigError, DropError

_LAYOUTS = ({"prompt", "completion"}, {"prompt", "chosen", "rejected"}, {"messages"})
_COLUMNS = ("prompt", "completion", "chosen", "rejected", "messages", "images", "image")
_ROLES = {"human": "user", "gpt": "assistant"}
"""LLaVA's names for who speaks."""
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Example:
    """A record as it is used: a prompt with its pictures, and one or two replies to it."""

    prompt: tuple[Message, ...]
    chosen: str | None
    rejected: str | None
    images: tuple[bytes, ...]
    source: str
    """The file and the record's number (from 0)."""


def list_files(uri: str) -> list[str]:
    """The file that *uri* names, or all Parquet files below it; `ConfigError` if there is none."""
    try:
        files, path = fsspec.url_to_fs(uri)
        if not files.isdir(path):
            files.info(path)
            return [uri]
        found = [files.unstrip_protocol(name) for name in sorted(files.find(path))
                 if name.endswith(".parquet")]
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{uri} cannot be read: {type(error).__name__}: {error}; give a JSON, "
                          f"JSONL or Parquet file, or a folder of Parquet files") from error
    if not found:
        raise ConfigError(f"{uri} is a folder without Parquet files: name the JSON file in it")
    return found


def stamp(uri: str) -> list[str]:
    """What tells a file from its later versions: name, size, and tag or time."""
    files, path = fsspec.url_to_fs(uri)
    about = files.info(path)
    tag = about.get("ETag") or about.get("mtime") or about.get("LastModified") or ""
    return [uri, str(about.get("size")), str(tag)]


def read_examples(files: Sequence[str], images_uri: str | None) -> Iterator[Example | BadRecord]:
    """All records of *files* in order; those that cannot be used as `BadRecord`.

    Reasons beside `macaroon.pair_of`'s: `bad_message`, `empty_prompt`. Raises `ConfigError` if a
    file cannot be read.
    """
    for uri in files:
        pictures = pictures_of(uri, images_uri)
        if uri.endswith(".parquet") and any(layout <= _columns(uri) for layout in _LAYOUTS):
            records = _parquet_records(uri)
        else:
            records = records_of(uri)
        for number, record in enumerate(records):
            source = f"{uri}#{number}"
            try:
                yield _example(record, pictures, source)
            except DropError as error:
                yield bad_record(record, error, source)


def _example(record: Any, pictures: Pictures, source: str) -> Example:
    if isinstance(record, Mapping) and _is_instruction(record):
        return _from_record(record, pictures, source)
    return _from_pair(pair_of(record, pictures, source))


def _is_instruction(record: Mapping[str, Any]) -> bool:
    """Whether it is of one of the layouts that are read here."""
    if any(layout <= record.keys() for layout in _LAYOUTS):
        return True
    turns = record.get("conversations")
    return isinstance(turns, list) and bool(turns) and (_are_texts(turns) or all(
        isinstance(turn, Mapping) and turn.get("from") and isinstance(turn.get("value"), str)
        for turn in turns))


def _are_texts(turns: list[Any]) -> bool:
    return all(isinstance(turn, str) for turn in turns)


def _from_pair(pair: ImportedPair) -> Example:
    question = pair.question.replace(IMAGE, "").strip()  # LLaVA's files have it in the text
    return Example((Message("user", (IMAGE, question)),), pair.chosen, pair.rejected,
                   (pair.image,), pair.source)


def _columns(uri: str) -> set[str]:
    try:
        with fsspec.open(uri, "rb") as file:
            return set(pq.read_schema(file).names)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{uri} is not a Parquet file: {error}") from error


def _parquet_records(uri: str) -> Iterator[dict[str, Any]]:
    with fsspec.open(uri, "rb") as opened:
        file = pq.ParquetFile(opened)
        columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(_BATCH, columns=columns):
            yield from batch.to_pylist()


def _from_record(record: Mapping[str, Any], pictures: Pictures, source: str) -> Example:
    try:
        prompt, reply = _talk(record)
        cells = record.get("images") or [record.get("image")]
        images = tuple(image_of(cell, pictures) for cell in cells)
        return Example(_prompt(prompt, len(images)), _reply(reply),
                       _reply(record.get("rejected")), images, source)
    except (KeyError, TypeError, AttributeError) as error:
        raise DropError("bad_message", f"not TRL's messages: {type(error).__name__} "
                                       f"{error}") from error


def _talk(record: Mapping[str, Any]) -> tuple[Any, Any]:
    """What is said before the reply that is learnt, and that reply."""
    if "prompt" in record:
        return record["prompt"], record.get("chosen", record.get("completion"))
    turns = record.get("messages")
    if not turns and _are_texts(talk := record["conversations"]):
        turns = [{"role": ("user", "assistant")[number % 2], "content": text}
                 for number, text in enumerate(talk)]
    elif not turns:
        turns = [{"role": _ROLES.get(turn["from"], turn["from"]), "content": turn["value"]}
                 for turn in talk]
    if turns[-1]["role"] != "assistant":
        raise DropError("bad_message", "the last message is not the assistant's")
    return turns[:-1], turns[-1:]


def _prompt(said: Any, num_images: int) -> tuple[Message, ...]:
    """A prompt of TRL's layouts; without placeholders the images come before the first question."""
    turns = [{"role": "user", "content": said}] if isinstance(said, str) else said or []
    messages = [Message(str(turn["role"]), tuple(_parts(turn["content"]))) for turn in turns]
    if not any(IMAGE in message.parts for message in messages):
        asked = next((i for i, message in enumerate(messages) if message.role == "user"), None)
        if asked is None:
            raise DropError("empty_prompt", "no user message")
        messages[asked] = Message("user", (IMAGE,) * num_images + messages[asked].parts)
    return tuple(messages)


def _parts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content.replace(IMAGE, "").strip()
        return
    for part in content or []:
        yield IMAGE if part["type"] == "image" else str(part["text"]).replace(IMAGE, "")


def _reply(said: Any) -> str | None:
    """The text of a reply; parts and messages are joined by line breaks."""
    if said is None or isinstance(said, str):
        return said
    return "\n".join(part for turn in said for part in _parts(turn["content"]))
