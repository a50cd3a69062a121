"""The nearest neighbours within one shard: its memtable and its segments together.

Owns what makes an answer exact: scores that a scan offers may be off by rounding, so rows are asked for until none that
is missing could be better; the metric's own score, of the vectors as they are stored, decides. Knows no file.
"""

from dataclasses import dataclass

import numpy as np

from index_service.memtable import BlockView, View
from index_service.ranking import best_first
from index_service.recipes import Recipe
from index_service.segment import SegmentView, nearest
from index_service.vector_space import Metric, VectorSpace

_MARGIN_ROWS = 16
_RESCORE_BYTES = 8 * 1024 * 1024
_PART_BITS = 32
_LARGEST_PROPOSED_SHARE = 0.05
"""Share of a segment's rows from which a scan of all vectors costs no more than proposing and comparing them."""

Part = BlockView | SegmentView


@dataclass(frozen=True, slots=True)
class ShardView:
    """All that a search needs of one shard; immutable."""

    memtable: View
    segments: tuple[SegmentView, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Blocks and segments."""
        return (*self.memtable.blocks, *self.segments)

    @property
    def rows(self) -> int:
        """Vectors in all parts, dead ones included."""
        return sum(part.rows for part in self.parts)

    @property
    def live_count(self) -> int:
        """Vectors that can be found."""
        return sum(part.live_count for part in self.parts)

    def vectors_at(self, addresses: np.ndarray) -> np.ndarray:
        """The vectors (n, dimension) float32 at addresses (n,), as hits carry them; n is at least 1."""
        parts = self.parts
        pairs = ((address >> _PART_BITS, address & ((1 << _PART_BITS) - 1)) for address in addresses.tolist())
        return np.concatenate([parts[part].vectors_of(np.array([row])) for part, row in pairs])


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of each query."""

    limit: int
    min_score: float | None = None
    candidates_per_row: float | None = None
    """Share of a segment's rows that its codes propose, at the least what the limit needs; None for an exact answer."""


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
class Found:
    """What one shard found."""

    hits: list[Hits]
    """One for each query."""
    recipe: Recipe
    """EXACT when every live row was compared as a vector, so that no better hit can exist."""


@dataclass(frozen=True, slots=True)
class _Candidates:
    """What one part offers for all queries."""

    scores: np.ndarray
    """(queries, n) float32, off by at most the score error unless ``final``; -inf where the row is dead."""
    rows: np.ndarray
    """(queries, n) int64."""
    final: bool
    """Whether the scores are the metric's own."""
    beyond: np.ndarray
    """(queries,) No row that is missing, and is to be found, scores above this; -inf when none is missing."""
    recipe: Recipe = Recipe.EXACT


def search(view: ShardView, space: VectorSpace, queries: np.ndarray, wanted: Wanted) -> Found:
    """For each of ``queries`` (n, dimension) float32, the best live rows of the view that reach min_score.

    Exact over all parts that are searched exactly: while a row that was not offered could be among the best, more are
    asked for.
    """
    parts = view.parts
    lengths = np.sqrt(np.einsum("nd,nd->n", queries, queries, dtype=np.float64))
    errors = [space.score_error(lengths, part.longest) for part in parts]
    error = np.max(errors, axis=0, initial=0.0) if errors else np.zeros(len(queries))
    asks = [_first_ask(part, wanted.limit) for part in parts]
    found = [_offer(part, space, queries, ask, wanted) for part, ask in zip(parts, asks, strict=True)]
    while True:
        cut = _cut(found, wanted.limit, error)
        short = [n for n, part in enumerate(found) if ((part.beyond >= cut) & (part.beyond > -np.inf)).any()]
        if not short:
            recipes = {part.recipe for part in found} - {Recipe.EXACT}
            hits = _final_hits(parts, space, queries, found, cut, wanted)
            return Found(hits, recipes.pop() if recipes else Recipe.EXACT)
        for number in short:
            asks[number] *= 4
            found[number] = _offer(parts[number], space, queries, asks[number], wanted)


def _first_ask(part: Part, limit: int) -> int:
    """How many rows to ask of a part: the best ``limit``, some more for rounding, and as many as are likely dead."""
    ask = limit + limit // 64 + _MARGIN_ROWS
    if isinstance(part, SegmentView):
        return ask  # its scans pass over the dead
    return int(ask / max(part.live_count / part.rows, 0.05))


def _offer(part: Part, space: VectorSpace, queries: np.ndarray, ask: int, wanted: Wanted) -> _Candidates:
    if isinstance(part, BlockView):
        return _offer_block(part, space, queries, ask)
    ask = min(ask, part.live_count)
    if not ask:
        empty = np.empty((len(queries), 0))
        return _Candidates(empty.astype(np.float32), empty.astype(np.int64), False, np.full(len(queries), -np.inf))
    if wanted.candidates_per_row is not None and part.segment.recipe is not Recipe.EXACT:
        candidates = max(ask, int(part.rows * wanted.candidates_per_row))
        if candidates <= part.rows * _LARGEST_PROPOSED_SHARE:
            scores, rows = part.segment.propose(queries, ask, candidates, part.live)
            if scores.min() > -np.inf:
                return _Candidates(scores, rows, False, np.full(len(queries), -np.inf), part.segment.recipe)
    scores, rows = part.segment.scan(queries, ask, part.live)
    beyond = scores[:, -1].copy() if ask < part.live_count else np.full(len(queries), -np.inf)
    return _Candidates(scores, rows, False, beyond)


def _offer_block(block: BlockView, space: VectorSpace, queries: np.ndarray, ask: int) -> _Candidates:
    every = ask * 2 >= block.rows
    if every:
        scores = np.stack([space.scores(query[None, :], block.vectors) for query in queries])
        rows = np.broadcast_to(np.arange(block.rows, dtype=np.int64), scores.shape)
        beyond = np.full(len(queries), -np.inf, dtype=np.float32)
    else:
        scores, rows = nearest(block.vectors, space.metric, queries, ask)
        scores = scores if space.metric is Metric.L2 else space.bounded(scores)
        beyond = scores[:, -1].copy()
    if block.dead is not None:
        scores[block.dead[rows]] = -np.inf
    return _Candidates(scores, rows, every, beyond)


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
    parts: tuple[Part, ...],
    space: VectorSpace,
    queries: np.ndarray,
    found: list[_Candidates],
    cut: np.ndarray,
    wanted: Wanted,
) -> list[Hits]:
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for number, (part, offered) in enumerate(zip(parts, found, strict=True)):
        query_of, place = np.nonzero((offered.scores >= cut[:, None]) & (offered.scores > -np.inf))
        rows = offered.rows[query_of, place]
        scores = offered.scores[query_of, place]
        if not offered.final:
            scores = _rescore(part, space, queries, query_of, rows)
        if wanted.min_score is not None:
            kept = scores >= np.float32(wanted.min_score)
            query_of, rows, scores = query_of[kept], rows[kept], scores[kept]
        columns.append((query_of, scores, part.ids_of(rows), rows.astype(np.int64) + (number << _PART_BITS)))
    if not columns:
        empty = Hits(np.empty(0, np.float32), np.empty(0, object), np.empty(0, np.int64))
        return [empty] * len(queries)
    query_of, scores, ids, addresses = (np.concatenate(column) for column in zip(*columns, strict=True))
    by_query = np.argsort(query_of, kind="stable")
    borders = np.searchsorted(query_of[by_query], np.arange(1, len(queries)))
    return [
        Hits(scores[part], ids[part], addresses[part])
        for part in (own[best_first(scores[own], ids[own], wanted.limit)] for own in np.split(by_query, borders))
    ]


def _rescore(part: Part, space: VectorSpace, queries: np.ndarray, query_of: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The final scores of pairs (n,), a piece at a time so that the gathered vectors stay in the cache's reach."""
    scores = np.empty(len(rows), dtype=np.float32)
    step = max(1, _RESCORE_BYTES // (4 * space.dimension))
    for begin in range(0, len(rows), step):
        piece = slice(begin, begin + step)
        scores[piece] = space.scores(queries[query_of[piece]], part.vectors_of(rows[piece]))
    return scores
