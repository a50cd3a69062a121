"""The space that the vectors of a collection lie in: dimension, fingerprint and metric.

Owns what happens to a vector before it is stored or looked for, and the score of two vectors. Knows nothing of where
vectors are kept or how the nearest are found.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from service_runtime.errors import FailedPrecondition, InvalidArgument

STORED_DTYPE = np.dtype("<f2")
"""Vectors are kept as IEEE 754 binary16, little-endian."""

LARGEST_NUMBER = float(np.finfo(np.float16).max)
"""65,504: the largest number that float16 holds. It bounds queries too, so that no score overflows float32."""


class Metric(Enum):
    """How two vectors are compared; larger scores are better."""

    COSINE = "COSINE"
    INNER_PRODUCT = "INNER_PRODUCT"
    L2 = "L2"


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """Where vectors can be compared with each other."""

    dimension: int
    fingerprint: str
    metric: Metric

    def check(self, dimension: int, fingerprint: str, field: str = "vectors") -> None:
        """Raise InvalidArgument or FailedPrecondition unless a batch, ``field`` its path, lies in this space."""
        if not fingerprint:
            raise InvalidArgument(
                f"expected {self.fingerprint}, the fingerprint of the collection, not none",
                field=f"{field}.fingerprint",
            )
        if fingerprint != self.fingerprint:
            raise FailedPrecondition(
                f"the collection holds vectors of fingerprint {self.fingerprint}, not {fingerprint}",
                field=f"{field}.fingerprint",
            )
        if dimension != self.dimension:
            raise InvalidArgument(f"expected {self.dimension} dimensions, not {dimension}", field=f"{field}.dimension")

    def prepare(self, vectors: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """The vectors (n, dimension) as they are compared, float32, and what is wrong with which row.

        For COSINE each row is scaled to length 1 in float32. Rows at fault come back as zeros.
        """
        prepared = np.array(vectors, dtype=np.float32)
        largest = np.abs(prepared).max(axis=1, initial=0.0)
        faults: dict[int, str] = {}
        finite = np.isfinite(largest)  # NaN and infinity are larger than any number
        if not finite.all():
            faults = {int(row): "expected finite numbers, not NaN or infinity" for row in np.flatnonzero(~finite)}
            prepared[~finite], largest[~finite] = 0.0, 0.0
        if self.metric is Metric.COSINE:
            zero = finite & (largest == 0.0)
            faults |= {int(row): "expected a length above 0 for COSINE, not 0" for row in np.flatnonzero(zero)}
            # The largest number is divided out first: squares of very large or small numbers leave float32.
            prepared /= np.where(largest == 0.0, 1.0, largest)[:, None]
            lengths = np.sqrt(np.einsum("nd,nd->n", prepared, prepared))
            prepared /= np.where(lengths == 0.0, 1.0, lengths)[:, None]
            return prepared, faults
        for row in np.flatnonzero(largest > LARGEST_NUMBER):
            faults[int(row)] = (
                f"expected numbers of at most {LARGEST_NUMBER:g}, float16's largest, not {largest[row]:g}"
            )
            prepared[row] = 0.0
        return prepared, faults

    def scores(self, queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """The score of each pair (n,), float32, of ``queries`` and ``vectors``, both (n, dimension) float32.

        The score of a pair does not depend on the other pairs: einsum adds the products of every row in the same order,
        which a matrix product does not promise. So equal vectors score equally wherever they are kept.
        """
        if self.metric is Metric.L2:
            differences = vectors - queries
            squares: np.ndarray = np.einsum("nd,nd->n", differences, differences)
            return 0.0 - squares
        products: np.ndarray = np.einsum("nd,nd->n", vectors, queries)
        return self.bounded(products)

    def bounded(self, scores: np.ndarray) -> np.ndarray:
        """Inner products as scores of the metric: a unit vector rounded to float16 may be a little longer than 1."""
        return np.minimum(np.maximum(scores, -1.0), 1.0) if self.metric is Metric.COSINE else scores

    def score_error(self, query_lengths: np.ndarray, longest: float) -> np.ndarray:
        """How far two ways of adding up one score in float32 may lie apart, for queries (n,) of the given lengths.

        Twice the bound of an inner product, gamma_d |q| |x| (Higham, Accuracy and Stability of Numerical Algorithms,
        section 3.1); for L2 expanded as |q|^2 - 2 q.x + |x|^2, the three terms together stay under (|q| + |x|)^2.
        """
        gamma = (self.dimension + 8) * 2.0**-23
        if self.metric is Metric.L2:
            return gamma * (query_lengths + longest) ** 2
        return gamma * query_lengths * longest
