"""From manifests to the rows that a job trains on.

Its one idea: the published Parquet files are what `datasets` reads, so there is no adapter; this
file only names the shards, chooses rows by seed, and leaves images encoded until a batch needs
them. What is a good row is left to `curation`.
"""

import random
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.arrow import arrow_schema
from schemas.errors import TrainingError
from schemas.rows import PairRow, Row, TrainRow

if TYPE_CHECKING:
    from datasets import Dataset, Features

    from model_ops.training.job import TrainJob
    from schemas.manifest import Manifest

COLUMNS: dict[type[Row], list[str]] = {
    TrainRow: ["prompt", "completion", "images", "weight"],
    PairRow: ["prompt", "chosen", "rejected", "images"],
}
"""What is read of each kind of row."""


def row_type(objective: str) -> type[Row]:
    """The kind of row that an objective learns from."""
    return PairRow if objective == "dpo" else TrainRow


def choose_rows(counts: list[int], replay: float, max_rows: int | None, seed: int,
                num_current: int = 1) -> list[int]:
    """Indices into the concatenation of `counts` row sets (oldest first, the last `num_current` are
    this round's).

    Without `replay` every set counts alike. With it, all rows of this round are taken and
    so many earlier ones are drawn that they make up that share (or all of them, if too few).
    At most `max_rows` in all. Sorted: the trainer shuffles by its own seed.
    """
    draw = random.Random(seed)
    total, num_earlier = sum(counts), sum(counts[:-num_current])
    if not replay:
        return _sample(draw, range(total), max_rows or total)
    cap = max_rows or total
    room = max(1, round(cap * (1 - replay)), cap - num_earlier)
    current = _sample(draw, range(num_earlier, total), room)
    wanted = min(round(len(current) * replay / (1 - replay)), cap - len(current))
    return sorted([*_sample(draw, range(num_earlier), wanted), *current])


def _sample(draw: random.Random, indices: range, num: int) -> list[int]:
    return sorted(draw.sample(indices, min(num, len(indices))))


def count_rows(job: "TrainJob") -> int:
    """How many rows `load_rows` gives."""
    return len(_chosen(job))


def row_sets(job: "TrainJob") -> list["Manifest"]:
    """What a job learns from: `job.rows`, then its mix and its rehearsal."""
    return [*job.rows, *filter(None, [job.mix, job.rehearsal])]


def _chosen(job: "TrainJob") -> list[int]:
    counts = [m.num_rows for m in row_sets(job)]
    return choose_rows(counts, job.config.replay, job.config.max_rows, job.seed,
                       num_current=len(counts) - len(job.rows) + 1)


def load_rows(job: "TrainJob", cache: Path) -> "Dataset":
    """The rows to train on, with `COLUMNS`; images are `{bytes, path}`, still encoded.

    `cache` is where `datasets` puts its memory-mapped copy.
    """
    from datasets import load_dataset

    shards = [f"{job.store.uri(m.prefix)}/{s.path}" for m in row_sets(job) for s in m.shards
              if s.num_rows]
    if not shards:
        places = ", ".join(job.store.uri(m.prefix) for m in job.rows) or "no manifest at all"
        raise TrainingError(f"no rows to train on ({places}): the curation dropped everything; "
                            f"look at its funnel, then loosen `curation` or play more `games`")
    kind = row_type(job.config.objective)
    rows = load_dataset("parquet", data_files=shards, split="train", cache_dir=str(cache),
                        columns=COLUMNS[kind], features=_features(kind))
    chosen = _chosen(job)
    return rows.select(chosen) if len(chosen) < len(rows) else rows


def _features(kind: type[Row]) -> "Features":
    """As the files' metadata says, but for the images, which stay encoded."""
    from datasets import Features, Image, List

    declared = Features.from_arrow_schema(arrow_schema(kind))
    declared["images"] = List(Image(decode=False))
    return Features({name: declared[name] for name in COLUMNS[kind]})
