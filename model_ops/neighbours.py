"""Nearest neighbours and clusters of image embeddings, in numpy and in bounded memory.

Embeddings are unit vectors float32[num_images, dim]; similarities are cosines, computed in blocks
so that 100,000 images need no full matrix. What is done with neighbours is grouping's business.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Indices = NDArray[np.int64]

BLOCK_CELLS = 8_000_000
"""Similarities held at a time (32 MB)."""


class Ranked(NamedTuple):
    """An image's most similar other images, the nearest first; duplicates are left out."""

    seed: int
    neighbours: Indices


def to_unit(embeddings: NDArray[np.floating]) -> Vectors:
    """Rows scaled to length 1 as float32."""
    vectors = np.asarray(embeddings, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(lengths, 1e-12)
    return unit


def rank_neighbours(
    vectors: Vectors, seeds: Indices, num: int, max_cosine: float
) -> Iterator[Ranked]:
    """For each of *seeds* the *num* nearest images, without itself and without near-duplicates
    (cosine above *max_cosine*); fewer if there are no more."""
    step = max(1, BLOCK_CELLS // len(vectors))
    for start in range(0, len(seeds), step):
        block = seeds[start : start + step]
        cosines = vectors[block] @ vectors.T
        cosines[cosines > max_cosine] = -np.inf
        cosines[np.arange(len(block)), block] = -np.inf
        for seed, row in zip(block, cosines, strict=True):
            yield Ranked(int(seed), _top(row, num))


def _top(cosines: Vectors, num: int) -> Indices:
    found = np.argpartition(-cosines, num)[:num] if num < len(cosines) else np.arange(len(cosines))
    found = found[np.isfinite(cosines[found])]
    ranked: Indices = found[np.lexsort((found, -cosines[found]))]
    return ranked


def cluster(vectors: Vectors, num_clusters: int, seed: int, iterations: int = 10) -> Indices:
    """Spherical k-means: the cluster of each image, int64[num_images]."""
    rng = np.random.default_rng(seed)
    centres = vectors[rng.choice(len(vectors), num_clusters, replace=False)].copy()
    labels = _nearest_centre(vectors, centres)
    for _ in range(iterations):
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, vectors)
        filled = np.linalg.norm(sums, axis=1) > 1e-9
        centres[filled] = to_unit(sums[filled])
        updated = _nearest_centre(vectors, centres)
        if np.array_equal(updated, labels):
            break
        labels = updated
    return labels


def _nearest_centre(vectors: Vectors, centres: Vectors) -> Indices:
    step = max(1, BLOCK_CELLS // len(centres))
    blocks = (vectors[start : start + step] for start in range(0, len(vectors), step))
    return np.concatenate([(block @ centres.T).argmax(axis=1) for block in blocks])
