"""(e) Peak memory of the driving process and of the actor at 1,000 and at 100,000 images.

One `vqa` question an image: a program of one call, so that 100,000 of them take a minute, and the
pool has as much to keep per item as with any program. The real pool on real Ray Data plays them
with the scripted engine, in a fresh process for each size (a peak is for life). Images are 8 x 8
noise, each one different. Planning is not in it: images and items are published before.
"""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.artifacts import publish, write_shard
from schemas.manifest import Manifest, Shard
from schemas.rows import ImageRef, ImageRow, Picture, QuestionRow, Row
from schemas.store import Store
from tests.bench.figures import Goal, show

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
SIZES = (1_000, 100_000)
MOST = 1.3
SHARD = 500
_SIDE = 8


def test_memory_does_not_grow_with_the_collection(
        tmp_path: Path, repo: Path, child_env: Callable[[], dict[str, str]]) -> None:
    small, large = (_measure(tmp_path / str(size), size, repo, child_env()) for size in SIZES)
    assert (small["rows"], large["rows"]) == SIZES
    ratios = {}
    for who in ("driver", "actor"):
        before, after = small[f"{who}_mib"], large[f"{who}_mib"]
        ratios[who] = after / before
        note = (f"{before:.0f} MiB at {SIZES[0]:,} images, {after:.0f} MiB at {SIZES[1]:,} "
                f"({large['seconds']:.0f} s)")
        show(f"(e) peak memory of the {who}, growth", [ratios[who]], note, Goal("<=", MOST),
             mib={str(SIZES[0]): before, str(SIZES[1]): after})
    assert max(ratios.values()) < MOST


def _measure(folder: Path, num_images: int, repo: Path, env: dict[str, str]) -> dict[str, Any]:
    store = Store(str(folder))
    _publish(store, num_images)
    ended = subprocess.run([sys.executable, "-m", "tests.bench.scripted_pool", store.root],
                           cwd=repo, env=env, text=True, capture_output=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    measured: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return measured


def _publish(store: Store, num_images: int) -> None:
    """Images and a question about each, shard by shard."""
    images: list[Shard] = []
    items: list[Shard] = []
    for index in range(-(-num_images // SHARD)):
        rows = [_image(number) for number in range(index * SHARD,
                                                   min((index + 1) * SHARD, num_images))]
        asked = [_question(row, index, place) for place, row in enumerate(rows)]
        images.append(_write(store, "images", index, rows, ImageRow))
        items.append(_write(store, "items", index, asked, QuestionRow))
    for kind, shards in (("images", images), ("items", items)):
        publish(store, Manifest(kind=kind, prefix=kind, inputs_digest="bench", shards=shards))


def _write(store: Store, prefix: str, index: int, rows: list[Any], kind: type[Row]) -> Shard:
    return write_shard(store, prefix, index, rows, kind, inputs_digest="bench")


def _image(number: int) -> ImageRow:
    noise = np.random.default_rng(number).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG", compress_level=1)
    data = buffer.getvalue()
    return ImageRow(image_id=sha256(data).hexdigest(), image=Picture(bytes=data), width=_SIDE,
                    height=_SIDE, source=f"{number}.png", split="bench")


def _question(image: ImageRow, shard: int, row: int) -> QuestionRow:
    ref = ImageRef(image_id=image.image_id, shard=shard, row=row)
    return QuestionRow(row_id=image.image_id[:32], image=ref, kind="yesno", seed=0, domain="bench",
                       question="is there a red circle ?", answers=["yes"])
