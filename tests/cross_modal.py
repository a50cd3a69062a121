"""Vectors of pictures and captions that lie in two cones apart, as those of a trained model do; the same for a seed."""

import numpy as np

_CLUSTERS = 300


def pictures_and_captions(count: int, dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Row i of each, (count, dimension) float32 of length 1, is of the same thing."""
    random = np.random.default_rng([seed, dimension])
    spread = np.arange(1, dimension + 1) ** -0.4
    centres = _unit(random.standard_normal((_CLUSTERS, dimension)) * spread)
    meaning = _unit(centres[random.integers(_CLUSTERS, size=count)] + _unit(_noise(random, count, dimension) * spread))
    pictures = 0.63 * meaning + 0.45 * _unit(_noise(random, count, dimension))
    captions = 0.50 * meaning + 0.60 * _unit(_noise(random, count, dimension))
    pictures[:, 0] += 0.63
    captions[:, 1] += 0.63
    return _unit(pictures).astype(np.float32), _unit(captions).astype(np.float32)


def _noise(random: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    return random.standard_normal((count, dimension))


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
