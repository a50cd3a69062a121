"""Exact nearest neighbours within one shard's vectors.

Owns the use of FAISS: it proposes candidates quickly; the metric's own score, of the vectors as they are stored,
decides. Nothing else in the service imports faiss.
"""

from dataclasses import dataclass

import faiss
import numpy as np

from index_service.memtable import BlockView, View, addresses_in
from index_service.ranking import best_first
from index_service.vector_space import Metric, VectorSpace

_MARGIN_ROWS = 16
_RESCORE_BYTES = 8 * 1024 * 1024
_BLAS_FROM_NUMBERS = 16_384
"""Numbers in all queries of a scan from which FAISS takes a matrix product: 32 queries of 768 dimensions need a fifth
of the time that they need under FAISS's own threshold, 128,000.
"""
_FAISS_METRICS = {
    Metric.COSINE: faiss.METRIC_INNER_PRODUCT,
    Metric.INNER_PRODUCT: faiss.METRIC_INNER_PRODUCT,
    Metric.L2: faiss.METRIC_L2,
}


@dataclass(frozen=True, slots=True)
class Hits:
    """The hits of one query, best first; entry i of each column belongs to hit i."""

    scores: np.ndarray
    """(n,) float32."""
    ids: np.ndarray
    """(n,) str objects."""
    addresses: np.ndarray
    """(n,) int64: where the vectors lie in the view that was searched."""


@dataclass(frozen=True, slots=True)
class _Candidates:
    """What one block offers for all queries."""

    scores: np.ndarray
    """(queries, n) float32, off by at most the score error unless ``complete``; -inf where the row is dead."""
    rows: np.ndarray
    """(queries, n) int64."""
    complete: bool
    """Whether every row is among them, with its final score."""
    beyond: np.ndarray
    """(queries,) No row that is missing scores above this; -inf when none is missing."""


def prepare_worker() -> None:
    """Call first in each thread that searches: one OpenMP thread, and no callback that takes the GIL in the middle."""
    faiss.omp_set_num_threads(1)
    faiss.InterruptCallback.clear_instance()  # type: ignore[attr-defined]
    faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM_NUMBERS


def search(view: View, space: VectorSpace, queries: np.ndarray, limit: int, min_score: float | None) -> list[Hits]:
    """For each of ``queries`` (n, dimension) float32, the ``limit`` best live rows of the view that reach min_score.

    Exact, whatever lies in the view: while a row that was not offered could be among the best, more are asked for.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", queries, queries, dtype=np.float64))
    errors = [space.score_error(lengths, block.longest) for block in view.blocks]
    error = np.max(errors, axis=0, initial=0.0) if errors else np.zeros(len(queries))
    wanted = [_first_ask(block, limit) for block in view.blocks]
    found = [_scan(block, space, queries, ask) for block, ask in zip(view.blocks, wanted, strict=True)]
    while True:
        cut = _cut(found, limit, error)
        short = [n for n, part in enumerate(found) if not part.complete and (part.beyond >= cut).any()]
        if not short:
            return _final_hits(view, space, queries, found, cut, limit, min_score)
        for number in short:
            wanted[number] *= 4
            found[number] = _scan(view.blocks[number], space, queries, wanted[number])


def _first_ask(block: BlockView, limit: int) -> int:
    """How many rows to ask of a block: the best ``limit``, some more for rounding, and as many as are likely dead."""
    share_alive = max(block.live_count / block.rows, 0.05)
    return int((limit + limit // 64 + _MARGIN_ROWS) / share_alive)


def _scan(block: BlockView, space: VectorSpace, queries: np.ndarray, ask: int) -> _Candidates:
    if ask * 2 >= block.rows:
        scores = np.stack([space.scores(query[None, :], block.vectors) for query in queries])
        rows = np.broadcast_to(np.arange(block.rows, dtype=np.int64), scores.shape)
        beyond = np.full(len(queries), -np.inf, dtype=np.float32)
    else:
        scores, rows = faiss.knn(queries, block.vectors, ask, metric=_FAISS_METRICS[space.metric])
        scores = -scores if space.metric is Metric.L2 else space.bounded(scores)
        beyond = scores[:, -1].copy()
    if block.dead is not None:
        scores[block.dead[rows]] = -np.inf
    return _Candidates(scores, rows, ask * 2 >= block.rows, beyond)


def _cut(found: list[_Candidates], limit: int, error: np.ndarray) -> np.ndarray:
    """For each query (n,), the score below which no candidate can be among the ``limit`` best.

    The best ``limit`` rows score at least the limit-th offered score less the error; a row that reaches that was
    offered at no less than that less the error again.
    """
    scores = np.concatenate([part.scores for part in found], axis=1) if found else np.empty((len(error), 0))
    if scores.shape[1] <= limit:
        return np.full(len(error), -np.inf)
    place = scores.shape[1] - limit
    return np.asarray(np.partition(scores, place, axis=1)[:, place] - 2.0 * error)


def _final_hits(
    view: View,
    space: VectorSpace,
    queries: np.ndarray,
    found: list[_Candidates],
    cut: np.ndarray,
    limit: int,
    min_score: float | None,
) -> list[Hits]:
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for number, (block, part) in enumerate(zip(view.blocks, found, strict=True)):
        query_of, place = np.nonzero((part.scores >= cut[:, None]) & (part.scores > -np.inf))
        rows = part.rows[query_of, place]
        scores = part.scores[query_of, place]
        if not part.complete:
            scores = _rescore(block, space, queries, query_of, rows)
        if min_score is not None:
            kept = scores >= np.float32(min_score)
            query_of, rows, scores = query_of[kept], rows[kept], scores[kept]
        columns.append((query_of, scores, block.ids[rows], addresses_in(number, rows)))
    if not columns:
        empty = Hits(np.empty(0, np.float32), np.empty(0, object), np.empty(0, np.int64))
        return [empty] * len(queries)
    query_of, scores, ids, addresses = (np.concatenate(column) for column in zip(*columns, strict=True))
    by_query = np.argsort(query_of, kind="stable")
    borders = np.searchsorted(query_of[by_query], np.arange(1, len(queries)))
    return [
        Hits(scores[part], ids[part], addresses[part])
        for part in (own[best_first(scores[own], ids[own], limit)] for own in np.split(by_query, borders))
    ]


def _rescore(
    block: BlockView, space: VectorSpace, queries: np.ndarray, query_of: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """The final scores of pairs (n,), a piece at a time so that the gathered vectors stay in the cache's reach."""
    scores = np.empty(len(rows), dtype=np.float32)
    step = max(1, _RESCORE_BYTES // (4 * space.dimension))
    for begin in range(0, len(rows), step):
        piece = slice(begin, begin + step)
        scores[piece] = space.scores(queries[query_of[piece]], block.vectors[rows[piece]])
    return scores
