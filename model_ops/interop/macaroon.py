"""The files of MACAROON's authors and of VLFeedback: read as pairs, and written from our pairs.

Its one idea: a record is taken for what it looks like, one at a time, and one that cannot be used
is handed on with its reason, never dropped in silence. Layouts (methods/contrastive_macaroon.md,
section 3): the pair file (`preference_dataset.json`, `VLfeedback_dataset.json`), the split file
(`*_seperate.json`, the authors' spelling), and VLFeedback as its own authors publish it. Talks of
several turns (`preference_dataset_multiturn.json`) are no pairs: `examples` reads them.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import fsspec
import pyarrow.parquet as pq

from schemas.artifacts import read_rows
from schemas.checks import text_of
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest
from schemas.rows import PairRow, QuarantineRow, row_id
from schemas.store import Store

PAIRS, SPLIT = "preference_dataset.json", "preference_dataset_seperate.json"
RATED = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
"""The three ratings of VLFeedback; a response's rank is their mean."""
MIN_GAP = 1.0
"""Pairs whose mean ratings differ by less are ties."""
_BATCH = 256


@dataclass(frozen=True, slots=True)
class ImportedPair:
    """A question about an image with a preferred and a rejected reply; in a split file one of the
    replies is None. `source` is the file and the record's number (from 0)."""

    question: str
    image: bytes
    chosen: str | None
    rejected: str | None
    source: str


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be used, as JSON, and why."""

    payload: str
    error: DropError
    source: str

    @property
    def row(self) -> QuarantineRow:
        """The record as it goes to quarantine."""
        return QuarantineRow(
            row_id=row_id("imported", source=self.source, payload=self.payload), kind="imported",
            reason=self.error.reason, detail=self.error.detail, source=self.source,
            payload=self.payload)


def bad_record(record: Any, error: DropError, source: str) -> BadRecord:
    """What cannot be used, without its pictures."""
    return BadRecord(json.dumps(_without_bytes(record), default=str), error, source)


def pictures_of(uri: str, images_uri: str | None) -> "Pictures":
    """Where the pictures of the file at *uri* are looked for: in *images_uri*, else beside it.

    Under the record's path or the end of it, as the authors' paths are their own machine's."""
    return Pictures(images_uri or uri.rpartition("/")[0] or ".")


def rank_completions(completions: Any) -> tuple[str, str]:
    """The best and the worst response of a VLFeedback record by the mean of their three ratings.

    A response with a rating that is no number ("N/A") does not compete. Of equals the first counts.
    Raises `DropError` (`too_few_ratings`, `tie`).
    """
    rated = [(mean, str(each.get("response") or "")) for each in _as_list(completions)
             if (mean := _mean_rating(each.get("annotations"))) is not None]
    if len(rated) < 2:
        raise DropError("too_few_ratings", f"{len(rated)} responses have all three ratings")
    best, worst = max(rated, key=lambda r: r[0]), min(rated, key=lambda r: r[0])
    if best[0] - worst[0] < MIN_GAP:
        raise DropError("tie", f"mean ratings {worst[0]:.2f} to {best[0]:.2f}")
    return best[1], worst[1]


class Exported(NamedTuple):
    """What was written."""

    pairs: int
    images: int


def export_pairs(store: Store, pairs: Manifest, folder: str) -> Exported:
    """Write *pairs* for the authors' code: `preference_dataset.json`, the split file, `images/`.

    *folder* is a path or an fsspec URI; image paths in the files are relative to it. The JSON files
    come last. Raises `ConfigError` if they are there already, or for rows without exactly one image
    (the layout has no place for more).
    """
    target, root = fsspec.url_to_fs(folder)
    for name in (PAIRS, SPLIT):
        if target.exists(f"{root}/{name}"):
            raise ConfigError(f"{folder}/{name} is there already: export to another folder")
    target.makedirs(f"{root}/images", exist_ok=True)
    whole: list[dict[str, Any]] = []
    halves: list[dict[str, Any]] = []
    written: set[str] = set()
    for row in read_rows(store, pairs, PairRow):
        name = _image_name(row)
        if name not in written:
            target.pipe_file(f"{root}/images/{name}", row.images[0].bytes)
            written.add(name)
        replies = {"preferred": text_of(row.chosen), "rejected": text_of(row.rejected)}
        whole.append(_record(row, name, replies))
        halves += [_record(row, name, {kind: reply}) for kind, reply in replies.items()]
    for name, records in ((SPLIT, halves), (PAIRS, whole)):
        text = json.dumps(records, ensure_ascii=False, indent=1)
        target.pipe_file(f"{root}/{name}", text.encode())
    return Exported(len(whole), len(written))


def _image_name(row: PairRow) -> str:
    if len(row.images) != 1 or len(row.image_ids) != 1:
        raise ConfigError(f"pair {row.row_id} has {len(row.images)} images: the authors' layout "
                          f"holds exactly one")
    return f"{row.image_ids[0]}.{suffix_of(row.images[0].bytes)}"


def suffix_of(data: bytes) -> str:
    """The usual end of an encoded picture's file name, such as `jpg`; `ConfigError` if none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return {"jpeg": "jpg", "mpo": "jpg"}.get(name := (image.format or "png").lower(), name)
    except Exception as error:  # decoders raise anything on hostile bytes
        raise ConfigError(f"an image of the rows cannot be opened ({error}): the artifact was "
                          f"changed after it was written; make it again") from error


def _record(row: PairRow, image: str, replies: Mapping[str, str]) -> dict[str, Any]:
    users = [message for message in row.prompt if message.role == "user"]
    return {"id": row.row_id, "image": f"images/{image}",
            "conversations": [{"value": text_of(users[-1:])}, {"value": dict(replies)}]}


class Pictures:
    """Reads images below a folder by a path that may begin with folders of another machine."""

    def __init__(self, uri: str) -> None:
        self._files, self._root = fsspec.url_to_fs(uri)
        self._uri = uri
        self._skipped = 0
        """Leading folders that the last path had too many."""

    def read(self, path: str) -> bytes:
        """The bytes; `DropError` (`no_image`, `image_missing`) without a file."""
        parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        if not parts:
            raise DropError("no_image", "the record names no image")
        tails = range(len(parts))
        for skipped in sorted(tails, key=lambda tail: (tail != self._skipped, tail)):
            try:
                found: bytes = self._files.cat_file("/".join([self._root, *parts[skipped:]]))
            except (OSError, ValueError):
                continue
            self._skipped = skipped
            return found
        raise DropError("image_missing", f"{path} is not in {self._uri}")


def records_of(uri: str) -> Iterator[Any]:
    """The file's records; a JSONL line that is no JSON comes as the text that it is. Raises
    `ConfigError` if the file cannot be read."""
    try:
        if uri.endswith(".parquet"):
            with fsspec.open(uri, "rb") as file:
                for batch in pq.ParquetFile(file).iter_batches(_BATCH):
                    yield from batch.to_pylist()
            return
        with fsspec.open(uri, "rb") as file:
            text = file.read().decode()
        yield from json.loads(text) if text.lstrip().startswith("[") else _lines(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{uri} cannot be read as JSON, JSONL or Parquet: {error}") from error


def _lines(text: str) -> Iterator[Any]:
    for line in text.splitlines():
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                yield line


def pair_of(record: Any, pictures: Pictures, source: str) -> ImportedPair:
    """A record as a pair, or as half of one (split files).

    `DropError`: `bad_json`, `unknown_layout`, `not_a_pair`, `empty_question`, `empty_reply`,
    `too_few_ratings`, `tie`, `no_image`, `image_missing`.
    """
    if isinstance(record, str):
        raise DropError("bad_json", record[:80])
    if not isinstance(record, Mapping):
        raise DropError("unknown_layout", f"a {type(record).__name__}, not a record")
    if "conversations" in record:
        question, chosen, rejected = _conversation(record["conversations"])
    elif "completions" in record:
        question = record.get("prompt")
        chosen, rejected = rank_completions(record["completions"])
    else:
        raise DropError("unknown_layout", "needs 'conversations' or 'completions'; has "
                                          + ", ".join(map(str, record)))
    if not isinstance(question, str) or not question.strip():
        raise DropError("empty_question")
    if any(reply is not None and not reply.strip() for reply in (chosen, rejected)):
        raise DropError("empty_reply")
    return ImportedPair(question, _image(record, pictures), chosen, rejected, source)


def _conversation(turns: Any) -> tuple[Any, str | None, str | None]:
    """Question, preferred and rejected reply of the authors' two-turn records."""
    values = [turn.get("value") if isinstance(turn, Mapping) else turn
              for turn in turns] if isinstance(turns, Sequence) else []
    replies = values[1] if len(values) == 2 else None
    if not isinstance(replies, Mapping) or not replies or not replies.keys() <= {"preferred",
                                                                                 "rejected"}:
        raise DropError("not_a_pair", f"{len(values)} turns, the second must hold 'preferred' or "
                                      f"'rejected'")
    if not all(isinstance(reply, str) for reply in replies.values()):
        raise DropError("empty_reply", "a reply is not a text")
    return values[0], replies.get("preferred"), replies.get("rejected")


def _image(record: Mapping[str, Any], pictures: Pictures) -> bytes:
    """The record's image: `image` (VLFeedback: `img_path`)."""
    return image_of(record.get("image") or record.get("img_path"), pictures)


def image_of(image: Any, pictures: Pictures) -> bytes:
    """An image as a record has it: its bytes, or the file that it names."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Mapping):
        if isinstance(image.get("bytes"), bytes):
            return bytes(image["bytes"])
        image = image.get("path")
    return pictures.read(str(image or ""))


def _as_list(completions: Any) -> list[Mapping[str, Any]]:
    """Completions as a list of records; `datasets` stores them as one record of lists."""
    if isinstance(completions, Mapping):
        names = [name for name in ("annotations", "response") if name in completions]
        columns = [completions[name] for name in names]
        completions = [dict(zip(names, values, strict=True)) for values in zip(*columns,
                                                                               strict=False)]
    return [each for each in completions or [] if isinstance(each, Mapping)]


def _mean_rating(annotations: Any) -> float | None:
    """Mean of the three ratings, which are texts such as "4"; None if one is no number."""
    try:
        ratings = [float(annotations[name]["Rating"]) for name in RATED]
    except (KeyError, TypeError, ValueError):
        return None
    mean = sum(ratings) / len(ratings)
    return mean if 0 <= mean <= 10 else None


def _without_bytes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_bytes(part) for name, part in value.items() if name != "bytes"}
    return [_without_bytes(part) for part in value] if isinstance(value, list) else value
