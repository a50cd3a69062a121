"""How good answers are: task recall, reciprocal rank, median rank, ANN recall, and how sure each is.

Owns the arithmetic, on ids and ranks alone. Two recalls, never mixed: *task recall@k* is the share of queries that find
what they mean (a caption its own picture) in the top k, and judges model and index together; *ANN recall@k* is the
share of the exact top k that an index returned, and judges the index alone. The benchmarks count by it too.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

NOT_FOUND = np.inf
"""Rank of what was not among the hits."""

_DRAWS = 2_000
_CONFIDENCE = 0.95
_SEED = 1


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over the queries that were asked; 95 % of bootstrap samples of them lie from ``lower`` to ``upper``."""

    value: float
    lower: float
    upper: float


def first_ranks(found: Sequence[Sequence[Hashable]], relevant: Sequence[Collection[Hashable]]) -> np.ndarray:
    """Where the first right hit of each query stands, from 1; NOT_FOUND where there is none. (n,) float64.

    With several right answers (five captions of a picture) the first one counts, as in the protocol of Karpathy and
    Fei-Fei, "Deep visual-semantic alignments" (arXiv 1412.2306).
    """
    if len(found) != len(relevant):
        raise ValueError(f"expected as many answers as there are queries, {len(relevant)}, not {len(found)}")
    ranks = np.full(len(found), NOT_FOUND)
    for query, (hits, right) in enumerate(zip(found, relevant, strict=True)):
        ranks[query] = next((rank for rank, hit in enumerate(hits, 1) if hit in right), NOT_FOUND)
    return ranks


def ranks_by_score(scores: np.ndarray, right: np.ndarray, tie: float = 0.0) -> np.ndarray:
    """The same of an exact search: ``scores`` (n, candidates), ``right`` (n, candidates) bool, the higher the better.

    A wrong candidate with the score of the best right one, or no more than ``tie`` less, stands before it: equal
    vectors are no success.
    """
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    before = ((scores >= best - tie) & ~right).sum(axis=1)
    return np.where(right.any(axis=1), before + 1.0, NOT_FOUND)


def found_within(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 for each query whose first right hit is in the top k, else 0; the mean is the task recall@k."""
    return (ranks <= k).astype(np.float64)


def reciprocal(ranks: np.ndarray) -> np.ndarray:
    """1 / rank, 0 where nothing was found; the mean is the MRR."""
    return 1.0 / ranks


def ann_recalls(found: Sequence[Sequence[Hashable]], exact: Sequence[Sequence[Hashable]], k: int) -> np.ndarray:
    """The share of the exact top k in the top k that was found, for each query; the mean is the ANN recall@k.

    Where there are fewer than k answers at all, all of them are the top k.
    """
    if len(found) != len(exact):
        raise ValueError(f"expected as many answers as there are queries, {len(exact)}, not {len(found)}")
    shares = np.ones(len(found))
    for query, (hits, nearest) in enumerate(zip(found, exact, strict=True)):
        wanted = set(nearest[:k])
        if wanted:
            shares[query] = len(wanted.intersection(hits[:k])) / len(wanted)
    return shares


def mean(values: np.ndarray) -> Estimate:
    """The mean of one value a query, with its interval."""
    return bootstrap(values, lambda samples: samples.mean(axis=1))


def median(values: np.ndarray) -> Estimate:
    """The median of one value a query, with its interval; the lower of the two in the middle of an even number."""

    def lower_median(samples: np.ndarray) -> np.ndarray:
        middle = (samples.shape[1] - 1) // 2
        # Partition, not np.median: the mean of a rank and NOT_FOUND would be a rank that nobody has.
        return np.partition(samples, middle, axis=1)[:, middle]

    return bootstrap(values, lower_median)


def bootstrap(values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """A statistic of one value a query, and its percentile bootstrap interval (Efron 1979), the same every time.

    ``statistic`` maps (samples, n) to (samples,). Raises ValueError when there is no value.
    """
    if len(values) == 0:
        raise ValueError("expected at least one query, not 0")
    draw = np.random.default_rng(_SEED)
    drawn = np.concatenate(
        [statistic(values[draw.integers(len(values), size=(100, len(values)))]) for _ in range(_DRAWS // 100)]
    )
    tail = (1.0 - _CONFIDENCE) / 2
    # "nearest", not between: ranks may be NOT_FOUND, and half-way to that is no rank.
    lower, upper = np.quantile(drawn, (tail, 1.0 - tail), method="nearest")
    return Estimate(float(statistic(values[None, :])[0]), float(lower), float(upper))
