"""The order of hits: best score first, equal scores by the bytes of their ids.

Owns that rule, for a shard's hits and for the merge of all shards.
"""

from collections.abc import Callable

import numpy as np


def best_first(scores: np.ndarray, ids_at: Callable[[np.ndarray], np.ndarray], limit: int) -> np.ndarray:
    """Places (min(n, limit),) of the best of ``scores`` (n,) float32.

    ``ids_at`` gives the ids (m,) str objects at places (m,); only those of equal scores are asked for.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    tied = np.flatnonzero(ordered[1:] == ordered[:-1])
    tied = tied[tied < limit]
    if tied.size:
        # Each run of equal scores, from the first of them to the last; one that crosses the limit is taken whole.
        firsts = tied[np.concatenate(([0], np.flatnonzero(np.diff(tied) > 1) + 1))]
        ends = np.searchsorted(-ordered, -ordered[firsts], side="right")
        runs = [order[first:end] for first, end in zip(firsts.tolist(), ends.tolist(), strict=True)]
        ids = ids_at(np.concatenate(runs)).tolist()
        begin = 0
        for run in runs:
            own = ids[begin : begin + run.size]
            begin += run.size
            # Python compares str by code point, which is the order of their UTF-8 bytes.
            run[:] = run[sorted(range(run.size), key=own.__getitem__)]
    return order[:limit]
