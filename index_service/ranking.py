"""The order of hits: best score first, equal scores by the bytes of their ids.

Owns that rule, for a shard's hits and for the merge of all shards.
"""

import numpy as np


def best_first(scores: np.ndarray, ids: np.ndarray, limit: int) -> np.ndarray:
    """Indices (min(n, limit),) of the best of ``scores`` (n,) float32, whose ids (n,) are str objects."""
    order = np.argsort(-scores, kind="stable")
    ordered = -scores[order]
    tied = np.flatnonzero(ordered[1:] == ordered[:-1])
    tied = tied[tied < limit]
    if tied.size:
        # Each run of equal scores, from the first of them to the last; one that crosses the limit is taken whole.
        breaks = np.flatnonzero(np.diff(tied) > 1)
        firsts = tied[np.concatenate(([0], breaks + 1))]
        for first in firsts.tolist():
            run = order[first : int(np.searchsorted(ordered, ordered[first], side="right"))]
            # Python compares str by code point, which is the order of their UTF-8 bytes.
            run[:] = run[sorted(range(run.size), key=ids[run].tolist().__getitem__)]
    return order[:limit]
