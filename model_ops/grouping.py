"""How images become games: embed them, find which are alike, draw groups and target positions.

Only pixels count: labels and facts are never looked at. [P] groups by clusters and by similarity,
so distractors are hard; neighbour ranks, duplicates and balance are ours [D]. Embedding runs on
Ray Data; drawing is a pure function of embeddings, configuration and seed.
"""

import io
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_ops.images import Progress
from model_ops.neighbours import Indices, Vectors, cluster, rank_neighbours, to_unit
from schemas.artifacts import find_manifest, publish, read_receipt, read_rows, write_shard
from schemas.config import EngineConfig, GroupingConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest, digest
from schemas.rows import GameRow, ImageRef, ImageRow, row_id
from schemas.store import Store

CODE_VERSION = 1
"""Raise it when drawing changes, so that games of older code are not reused."""
IMAGES_PER_CLUSTER = 12
EMBEDDINGS = "embeddings"
MAX_TRIED = 64
"""Distractors tried per game."""


class Group(NamedTuple):
    """Images of a game by index into the collection; the target comes first."""

    members: tuple[int, ...]
    mean_similarity: float
    nearest: int
    """Index into `members` of the distractor most like the target."""


def plan_games(
    store: Store,
    images: Manifest,
    grouping: GroupingConfig,
    games: dict[int, int],
    seed: int,
    prefix: str,
    shard_size: int,
    engine: EngineConfig,
    on_progress: Progress | None = None,
) -> Manifest:
    """Plan *games* (number of games by number of images) over *images* and publish them.

    Finished work for the same inputs is returned as it is. `on_progress` hears of the embeddings,
    which take most of the time. Raises `ConfigError` if the collection cannot hold the games.
    """
    settings = grouping.model_dump(mode="json") | {"games": {str(n): games[n] for n in games}}
    inputs = digest(["plan games", CODE_VERSION, settings, _seen_by(grouping, engine),
                     images.digest, seed, shard_size])
    if (done := find_manifest(store, prefix, inputs)) is not None:
        return done
    _check_size(images, games)
    refs = read_refs(store, images)
    vectors = to_unit(embed(store, images, grouping, engine, on_progress))
    rows = [
        row
        for num_images in sorted(games)
        for row in draw(refs, vectors, grouping, num_images, games[num_images], seed)
    ]
    random.Random(seed).shuffle(rows)
    shards = []
    for index, start in enumerate(range(0, len(rows), shard_size)):
        shard = read_receipt(store, prefix, index, inputs)
        part = rows[start : start + shard_size]
        shards.append(
            shard or write_shard(store, prefix, index, part, GameRow, inputs_digest=inputs)
        )
    manifest = Manifest(
        kind="games",
        prefix=prefix,
        inputs_digest=inputs,
        parents={"images": images.digest},
        shards=shards,
        funnel={"images": images.num_rows, "games": len(rows)},
        config=settings,
    )
    return publish(store, manifest)


def embed(
    store: Store, images: Manifest, grouping: GroupingConfig, engine: EngineConfig,
    on_progress: Progress | None = None,
) -> NDArray[np.floating]:
    """Embeddings of all images in the order of the manifest's rows, float[num_images, dim].

    Kept in the root under a name that tells the images, their largest size and the encoder (a
    folder by its files, a hub id by its name): every round, and every benchmark on the same images,
    takes them from there.
    """
    from model_ops.engines.clip_scorer import embed_images

    ids = [ref.image_id for ref in read_refs(store, images)]
    path = f"{EMBEDDINGS}/{digest([_seen_by(grouping, engine), ids])}.npy"
    if store.exists(path):
        kept: NDArray[np.floating] = np.load(io.BytesIO(store.read_bytes(path)))
        return kept
    made: NDArray[np.floating] = embed_images(
        store, images, grouping.encoder, engine, on_progress)
    buffer = io.BytesIO()
    np.save(buffer, made)
    store.write_bytes(path, buffer.getvalue())
    return made


def _seen_by(grouping: GroupingConfig, engine: EngineConfig) -> list[str | int | None]:
    """What embeddings depend on besides the images."""
    from model_ops.engines.clip_scorer import encoder_identity

    return [encoder_identity(grouping.encoder), engine.max_image_pixels]


def read_refs(store: Store, images: Manifest) -> list[ImageRef]:
    """References to all images, in the order of the manifest's rows; no pixels are read."""
    refs: list[ImageRef] = []
    for shard in images.shards:
        part = images.model_copy(update={"shards": [shard]})
        for row, image in enumerate(read_rows(store, part, ImageRow, ["image_id"])):
            refs.append(ImageRef(image_id=image.image_id, shard=shard.index, row=row))
    return refs


def draw(
    refs: list[ImageRef],
    vectors: Vectors,
    grouping: GroupingConfig,
    num_images: int,
    num_games: int,
    seed: int,
) -> Iterator[GameRow]:
    """*num_games* games of *num_images* images. Every position holds the target equally often
    (to within one game); every image is a target before any is one again, as far as it has
    distractors."""
    rng = np.random.default_rng([seed, num_images])
    positions = rng.permutation(np.arange(num_games) % num_images)
    groups = _groups(vectors, grouping, num_images, num_games, rng)
    for number, (group, position) in enumerate(zip(groups, positions, strict=True)):
        order = _shown_order(num_images, int(position), rng)
        yield _game_row(refs, group, order, grouping.method, number, seed)


def _game_row(
    refs: list[ImageRef], group: Group, order: list[int], method: str, number: int, seed: int
) -> GameRow:
    shown = [refs[group.members[member]] for member in order]
    ids = [ref.image_id for ref in shown]
    target = order.index(0)
    return GameRow(
        row_id=row_id("game", images=ids, target=target, number=number, method=method, seed=seed),
        group_id=row_id("group", images=sorted(ids)),
        images=shown,
        target=target,
        grouping=method,
        mean_similarity=group.mean_similarity,
        seed=seed,
        nearest=order.index(group.nearest),
    )


def _shown_order(num_images: int, position: int, rng: np.random.Generator) -> list[int]:
    """A random order of members 0..N-1 with member 0, the target, at *position*."""
    order = [int(member) for member in rng.permutation(np.arange(1, num_images))]
    order.insert(position, 0)
    return order


def _groups(
    vectors: Vectors,
    grouping: GroupingConfig,
    num_images: int,
    num_games: int,
    rng: np.random.Generator,
) -> Iterator[Group]:
    """Go through the images in random order, again and again, until there are enough groups."""
    labels = _labels(vectors, grouping, rng)
    num_drawn = 0
    while num_drawn < num_games:
        before = num_drawn
        seeds = rng.permutation(len(vectors))
        for seed, pool in _pools(vectors, grouping, labels, seeds, num_games - num_drawn):
            tried = rng.choice(len(pool), min(len(pool), MAX_TRIED), replace=False)
            members = _distinct(vectors, seed, pool[tried], num_images, grouping)
            if members is not None and num_drawn < num_games:
                num_drawn += 1
                yield _measured(vectors, members)
        if num_drawn == before:
            raise ConfigError(
                f"no image has {num_images - 1} distractors under grouping.method="
                f"{grouping.method!r}: give more images, raise grouping.farthest or "
                f"grouping.max_cosine, or use method 'random'"
            )


def _labels(vectors: Vectors, grouping: GroupingConfig, rng: np.random.Generator) -> Indices:
    if grouping.method != "cluster":
        return np.zeros(len(vectors), dtype=np.int64)
    num_clusters = max(1, len(vectors) // IMAGES_PER_CLUSTER)
    return cluster(vectors, num_clusters, int(rng.integers(2**31)))


def _pools(
    vectors: Vectors, grouping: GroupingConfig, labels: Indices, seeds: Indices, num_wanted: int
) -> Iterator[tuple[int, Indices]]:
    """Each seed image with the images that may be its distractors."""
    if grouping.method == "similarity":
        # A few more seeds than games, as some have too few distractors; the rest come next round.
        seeds = seeds[: num_wanted + num_wanted // 4 + 16]
        for ranked in rank_neighbours(vectors, seeds, grouping.farthest, grouping.max_cosine):
            yield ranked.seed, ranked.neighbours[grouping.nearest - 1 :]
        return
    by_label = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[by_label], np.arange(labels.max() + 2))
    for seed in seeds:
        label = labels[seed]
        pool = by_label[bounds[label] : bounds[label + 1]]
        yield int(seed), pool


def _distinct(
    vectors: Vectors, seed: int, pool: Indices, num_images: int, grouping: GroupingConfig
) -> tuple[int, ...] | None:
    """The seed and the first of *pool* that are no duplicates of each other, or None if too few."""
    members = [seed]
    for candidate in pool:
        alike = vectors[members] @ vectors[candidate]
        if candidate not in members and alike.max() <= grouping.max_cosine:
            members.append(int(candidate))
        if len(members) == num_images:
            return tuple(members)
    return None


def _measured(vectors: Vectors, members: tuple[int, ...]) -> Group:
    chosen = vectors[list(members)]
    cosines = chosen @ chosen.T
    pairs = cosines[np.triu_indices(len(members), k=1)]
    return Group(members, float(pairs.mean()), 1 + int(cosines[0, 1:].argmax()))


def _check_size(images: Manifest, games: dict[int, int]) -> None:
    largest = max(games, default=0)
    if not games or min(games) < 2:
        raise ConfigError(f"games needs at least one size of 2 images or more, got {games}")
    if images.num_rows < largest:
        raise ConfigError(
            f"{images.prefix} has {images.num_rows} images, too few for games of {largest}: give "
            "more images or plan smaller games"
        )
