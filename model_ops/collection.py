"""How many images there are and how big, without decoding one: for plans and dry runs.

The source is listed. If what was imported was made from just that list, its manifest and its size
columns are read; otherwise, for a local folder, some headers are looked at.
"""

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from model_ops.images import find_images
from model_ops.pixels import FORMATS
from model_ops.sources import Candidate, open_source
from schemas.artifacts import read_rows
from schemas.config import ImagesConfig
from schemas.errors import ConfigError
from schemas.rows import ImageRow
from schemas.store import Store

HEADERS_READ = 200
"""Headers looked at in a local folder: enough for a mean size, a second at most."""
NURSERY_BYTES = 6_000
"""A nursery picture as PNG: 48 x 48 noisy pixels hardly compress."""
ASSUMED_BYTES = 250_000
"""A photograph as JPEG, where a bucket cannot be listed."""
NURSERY_PIXELS = 48 * 48


@dataclass(frozen=True, slots=True)
class Collection:
    """Number and sizes of a source's images. `pixels` holds the known ones (perhaps a sample)."""

    num_images: int
    num_bytes: int
    pixels: list[int] = field(default_factory=list)
    imported: bool = False
    num_unusable: int = 0
    unreachable: str = ""
    """Why the source could not be listed; then `num_images` is the configured limit."""


def survey(config: ImagesConfig, store: Store | None = None, prefix: str = "images") -> Collection:
    """Count the images of a source, or what the store has of it; `ConfigError` if none."""
    source = open_source(config)
    try:
        found = list(source.candidates())
    except ConfigError:
        raise
    except Exception as error:  # every file system behind fsspec has errors of its own
        return _unreachable(config, error)
    if store is not None and (known := _imported(store, config, found, prefix)):
        return known
    usable = [candidate for candidate in found if not candidate.problem and candidate.num_bytes]
    if not usable:
        raise ConfigError(f"images.uri {config.uri!r} has no images: {len(found)} files were found")
    if config.uri.startswith("nursery://"):
        return Collection(len(usable), NURSERY_BYTES * len(usable), [NURSERY_PIXELS])
    pixels = _headers(config, usable)
    if pixels is not None and not pixels:
        raise ConfigError(
            f"images.uri {config.uri!r} has no images: none of {min(len(usable), HEADERS_READ)} "
            f"files looked at is one"
        )
    num_bytes = sum(candidate.num_bytes for candidate in usable)
    return Collection(len(usable), num_bytes, pixels or [], False, len(found) - len(usable))


def _unreachable(config: ImagesConfig, error: Exception) -> Collection:
    """A bucket that this machine cannot list: plan with the limit, or say that it is needed."""
    why = f"images.uri {config.uri!r} cannot be listed from here ({type(error).__name__}: {error})"
    if config.limit is None:
        raise ConfigError(f"{why}: check credentials and address, or set images.limit") from error
    return Collection(config.limit, ASSUMED_BYTES * config.limit, unreachable=why)


def _imported(
    store: Store, config: ImagesConfig, found: list[Candidate], prefix: str
) -> Collection | None:
    """What the import that the run would find done has; None if it would import (again)."""
    try:
        manifest = find_images(store, config, found, prefix)
    except Exception:  # a bucket out of reach: its client has errors of its own
        return None
    if manifest is None:
        return None
    rows = read_rows(store, manifest, ImageRow, columns=["width", "height"])
    return Collection(
        num_images=manifest.num_rows,
        num_bytes=sum(shard.num_bytes for shard in manifest.shards),
        pixels=[row.width * row.height for row in rows],
        imported=True,
        num_unusable=sum(shard.num_quarantined for shard in manifest.shards),
    )


def _headers(config: ImagesConfig, candidates: list[Candidate]) -> list[int] | None:
    """Declared pixels of evenly chosen local files; `None` for a bucket, which is not read."""
    if "://" in config.uri.removeprefix("file://"):
        return None
    root = Path(config.uri.removeprefix("file://")).expanduser()
    stride = -(-len(candidates) // HEADERS_READ)
    sizes = (_declared(root / candidate.key) for candidate in candidates[::stride])
    return [size for size in sizes if size]


def _declared(path: Path) -> int:
    """Pixels that a file's header declares; 0 if it is no picture."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # decoders raise anything on hostile bytes; the import will say what
        return 0
