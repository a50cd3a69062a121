"""Recipes: the ways a segment proposes candidates.

Owns their names, and the FAISS index behind each.
"""

from enum import Enum
from typing import Any

import faiss
import numpy as np

_TRAINING_ROWS = 16_384
_NUMBERS_PER_CODE = 4


class Recipe(Enum):
    """How a segment is searched."""

    EXACT = "exact"
    """Every vector is compared with the query."""
    FASTSCAN = "fastscan"
    """4-bit codes of every vector are scanned in registers; the best are compared as vectors. It has no cells, so that
    no caption falls between them."""


def train_codes(vectors: np.ndarray, metric: int) -> Any:  # noqa: ANN401 - FAISS has no types
    """An empty index of 4-bit codes, trained on a sample of ``vectors`` (n, dimension) float16.

    One inverted list holds everything: flat fast-scan indexes take no selector, their inverted form does.
    """
    dimension = vectors.shape[1]
    chosen = np.random.default_rng(0).choice(len(vectors), min(len(vectors), _TRAINING_ROWS), replace=False)
    sample = vectors[np.sort(chosen)].astype(np.float32)
    codes = faiss.index_factory(dimension, f"IVF1,PQ{code_count(dimension)}x4fs", metric)
    codes.train(sample)
    return codes


def code_count(dimension: int) -> int:
    """Codes a vector is cut into: the most that divide the dimension and stand for four numbers or more each."""
    return next(count for count in range(max(1, dimension // _NUMBERS_PER_CODE), 0, -1) if dimension % count == 0)
