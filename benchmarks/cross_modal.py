"""Vectors of pictures and captions as a SigLIP makes them, without a SigLIP: any number, the same for the same seed.

Owns the recipe. Pictures and captions lie in two cones apart (a random pair has a cosine near 0, a matched one near
0.3, two pictures near 0.4). What they show is clustered, with cluster sizes that fall as in Zipf's law and coordinates
whose variance falls with their number, as in the spectra of trained towers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

CHUNK_ROWS = 10_000
"""Rows are made in chunks of this many, each from a seed of its own, so that any chunk can be made alone."""

_STRANGERS = 1_000_000
_CLUSTERS = 20_000
_TOPICS = 400
_ZIPF_EXPONENT = 0.8
_SPECTRUM_EXPONENT = 0.4
_PICTURE_PARTS = (0.63, 0.63, 0.45)
_CAPTION_PARTS = (0.63, 0.50, 0.60)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows ``begin`` to ``begin + len(pictures)``: row i of each is of the same thing."""

    begin: int
    pictures: np.ndarray
    """(n, dimension) float32, length 1."""
    captions: np.ndarray
    """(n, dimension) float32, length 1."""


class CrossModalSpace:
    """A source of pictures with their captions."""

    def __init__(self, dimension: int, seed: int) -> None:
        self.dimension = dimension
        self._seed = seed
        draw = np.random.default_rng([seed, dimension])
        basis, _ = np.linalg.qr(draw.standard_normal((dimension, dimension)))
        self._rotation = basis.astype(np.float32)
        spread = np.arange(1, dimension + 1, dtype=np.float32) ** -_SPECTRUM_EXPONENT
        spread[:2] = 0.0  # the first two directions are those of the cones
        self._spread = spread / np.linalg.norm(spread)
        topics = self._meanings(draw, _TOPICS)
        of_topic = draw.integers(_TOPICS, size=_CLUSTERS)
        self._centres = unit(topics[of_topic] + self._meanings(draw, _CLUSTERS))
        weight = np.arange(1, _CLUSTERS + 1) ** -_ZIPF_EXPONENT
        self._cluster_ends = np.cumsum(weight / weight.sum())

    def chunks(self, rows: int) -> Iterator[Chunk]:
        """Rows 0 to ``rows``, a chunk at a time."""
        for begin in range(0, rows, CHUNK_ROWS):
            chunk = self._chunk(begin // CHUNK_ROWS)
            count = min(CHUNK_ROWS, rows - begin)
            yield Chunk(begin, chunk.pictures[:count], chunk.captions[:count])

    def strangers(self, count: int) -> np.ndarray:
        """Pictures (count, dimension) float32, at most CHUNK_ROWS, that stand in no chunk of ``chunks``."""
        return self._chunk(_STRANGERS).pictures[:count]

    def _chunk(self, number: int) -> Chunk:
        draw = np.random.default_rng([self._seed, self.dimension, number])
        cluster = np.minimum(np.searchsorted(self._cluster_ends, draw.random(CHUNK_ROWS)), _CLUSTERS - 1)
        meaning = unit(self._centres[cluster] + self._meanings(draw, CHUNK_ROWS))
        return Chunk(
            number * CHUNK_ROWS,
            self._embed(draw, 0, _PICTURE_PARTS, meaning),
            self._embed(draw, 1, _CAPTION_PARTS, meaning),
        )

    def _meanings(self, draw: np.random.Generator, count: int) -> np.ndarray:
        return unit(draw.standard_normal((count, self.dimension), dtype=np.float32) * self._spread)

    def _embed(
        self, draw: np.random.Generator, cone: int, parts: tuple[float, float, float], meaning: np.ndarray
    ) -> np.ndarray:
        axis, shared, own = parts
        noise = draw.standard_normal(meaning.shape, dtype=np.float32)
        noise[:, :2] = 0.0
        vectors = shared * meaning + own * unit(noise)
        vectors[:, cone] = axis
        return unit(vectors @ self._rotation)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1."""
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
