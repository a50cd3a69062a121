"""The nearest neighbours within blocks and segments together: those of one shard, or of all.

Owns what makes an answer exact: scores that a scan offers may be off by rounding, so rows are asked for until none that
is missing could be better; the metric's own score, of the vectors as they are stored, decides. Knows no file.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from index_service.memtable import BlockView
from index_service.parts import Part, Parts, address
from index_service.ranking import best_first
from index_service.recipes import CELL_RECIPES, Effort, Recipe
from index_service.segment import SegmentView, nearest
from index_service.vector_space import Metric, VectorSpace
from service_runtime.errors import DeadlineExceeded

MANY_HITS = 4_096
"""Hits from which a segment is scanned for all above a border instead of through a heap. Their scores are those of the
scan: the last bits of a float32 may differ from the score that a search for fewer hits states.
"""

_LOWEST_SCORE = float(np.finfo(np.float32).min)
_MARGIN_ROWS = 16
_RESCORE_BYTES = 8 * 1024 * 1024
LARGEST_PROPOSED_SHARE = 0.05
"""Share of a segment's rows from which a scan of all vectors costs no more than proposing and comparing them."""

_GATHERED_ROWS = 1_024
"""Rows let through by a filter up to which they are gathered and compared."""

_SCANNED_SHARE = 0.02
"""Share of a segment's rows let through by a filter up to which a scan of their vectors costs no more than one of all
codes. Graphs lose their way in what is let through long before codes do, hence the second figure.
"""
_SCANNED_SHARE_OF_GRAPH = 0.2


@dataclass(frozen=True, slots=True)
class Proposals:
    """How far segments with an index may be trusted to it."""

    candidates_per_row: float
    """Share of a segment's rows that its index proposes, at the least what the limit needs."""
    effort: Effort

    @classmethod
    def of(cls, effort: Effort, limit: int, rows: int) -> "Proposals":
        """Those of an effort for ``limit`` hits out of so many rows of all parts."""
        return cls(limit * effort.k_factor / max(rows, 1), effort)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of each query."""

    limit: int
    min_score: float | None = None
    proposals: Proposals | None = None
    """None for an exact answer."""
    deadline: float | None = None
    """When to give up, in seconds of ``time.monotonic``."""


@dataclass(frozen=True, slots=True)
class Hits:
    """The hits of one query, best first; entry i of each column belongs to hit i."""

    scores: np.ndarray
    """(n,) float32."""
    addresses: np.ndarray
    """(n,) int64: where ids and vectors lie in the view that was searched."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one shard found."""

    hits: list[Hits]
    """One for each query."""
    recipe: Recipe
    """EXACT when every live row was compared as a vector, so that no better hit can exist; else that of the largest
    part that proposed.
    """
    rows_scanned: int
    """Rows compared as vectors or codes, over all queries; estimated where an index chooses them."""


@dataclass(frozen=True, slots=True)
class _Selection:
    """The rows of one part that may be hits."""

    mask: np.ndarray | None
    """(rows,) bool; None for all live ones of a segment or all of a block."""
    bitmap: np.ndarray | None
    """The same as a segment's scans take it."""
    count: int


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
    rows_scanned: int
    """By each query."""
    recipe: Recipe = Recipe.EXACT

    def of(self, query: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """Scores (n,) and rows (n,) offered for one query, and whether the scores are final."""
        return self.scores[query], self.rows[query], self.final


Run = Callable[[Callable[["_Offers"], _Candidates], Sequence["_Offers"]], list[_Candidates]]
"""Calls a function of each item, perhaps side by side, and returns what came of it in order."""


def _in_turn(function: Callable[["_Offers"], _Candidates], items: Sequence["_Offers"]) -> list[_Candidates]:
    return [function(item) for item in items]


def search(
    searched: Parts,
    space: VectorSpace,
    queries: np.ndarray,
    wanted: Wanted,
    masks: Sequence[np.ndarray | None] | None = None,
    run: Run = _in_turn,
) -> Found:
    """For each of ``queries`` (n, dimension) float32, the best live rows of the parts that reach min_score.

    ``masks`` hold for each part the rows (rows,) bool that a filter lets through, None for all. ``run`` asks the parts.
    Exact over all parts that are searched exactly: while a row that was not offered could be among the best, more are
    asked for. Raises DeadlineExceeded.
    """
    parts = searched.parts
    lengths = np.sqrt(np.einsum("nd,nd->n", queries, queries, dtype=np.float64))
    error = space.score_error(lengths, max((part.longest for part in parts), default=0.0))
    selections = [_select(part, mask) for part, mask in zip(parts, masks or [None] * len(parts), strict=True)]
    selected = max(sum(selection.count for selection in selections), 1)
    offers = [
        _Offers(part, own, space, queries, error, wanted, _share(wanted.limit, own.count / selected))
        for part, own in zip(parts, selections, strict=True)
    ]
    found = run(_Offers.first, offers)
    while True:
        cut = _cut(found, wanted.limit, error)
        short = [n for n, part in enumerate(found) if ((part.beyond >= cut) & (part.beyond > -np.inf)).any()]
        if not short:
            hits = [
                _final_hits(searched, space, query, [part.of(number) for part in found], border, wanted)
                for number, (query, border) in enumerate(zip(queries, cut.tolist(), strict=True))
            ]
            rows_scanned = len(queries) * sum(part.rows_scanned for part in found)
            return Found(hits, _leading_recipe(parts, found), rows_scanned)
        for number, more in zip(short, run(_Offers.more, [offers[number] for number in short]), strict=True):
            found[number] = more


def _leading_recipe(parts: Sequence[Part], found: Sequence[_Candidates]) -> Recipe:
    """EXACT when all was compared, else the recipe of the largest part that proposed."""
    proposed = [(part.rows, own) for part, own in zip(parts, found, strict=True) if own.recipe is not Recipe.EXACT]
    return max(proposed, key=lambda one: one[0])[1].recipe if proposed else Recipe.EXACT


def _with_margin(limit: int) -> int:
    """The limit and some more: rounding may bring a worse row before a better one."""
    return limit + limit // 64 + _MARGIN_ROWS


def _share(limit: int, part: float) -> int:
    """How many of the ``limit`` best to ask first of what holds this part of all rows."""
    if limit < MANY_HITS:
        return limit
    return min(limit, int(limit * part + 6.0 * (limit * part) ** 0.5) + 64)


def _select(part: Part, mask: np.ndarray | None) -> _Selection:
    if mask is None:
        return _Selection(None, part.live if isinstance(part, SegmentView) else None, part.live_count)
    if part.dead is not None:
        mask = mask & ~part.dead
    bitmap = np.packbits(mask, bitorder="little") if isinstance(part, SegmentView) else None
    return _Selection(mask, bitmap, int(np.count_nonzero(mask)))


class _Offers:
    """What one part offers for all queries, and then more of it."""

    def __init__(
        self,
        part: Part,
        selection: _Selection,
        space: VectorSpace,
        queries: np.ndarray,
        error: np.ndarray,
        wanted: Wanted,
        share: int,
    ) -> None:
        self._part = part
        self._selection = selection
        self._space = space
        self._queries = queries
        self._error = error
        self._wanted = wanted
        self._ask = _with_margin(share)

    def first(self) -> _Candidates:
        """The best, as many as the limit asks for and some more for rounding."""
        deadline = self._wanted.deadline
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlineExceeded("the deadline passed while segments were being searched")
        if not self._selection.count:
            return self._none()
        if isinstance(self._part, BlockView):
            return self._of_block(self._part)
        return self._of_segment(self._part)

    def more(self) -> _Candidates:
        """Four times as many."""
        self._ask *= 4
        return self.first()

    def _none(self) -> _Candidates:
        count = len(self._queries)
        return _Candidates(
            np.empty((count, 0), np.float32), np.empty((count, 0), np.int64), False, np.full(count, -np.inf), 0
        )

    def _of_rows(self, rows: np.ndarray) -> _Candidates:
        """These rows (n,), compared."""
        part = self._part
        vectors = part.vectors_of(rows)
        scores = np.stack([self._space.scores(query[None, :], vectors) for query in self._queries])
        everywhere = np.broadcast_to(rows, scores.shape)
        return _Candidates(scores, everywhere, True, np.full(len(scores), -np.inf), len(rows))

    def _of_block(self, block: BlockView) -> _Candidates:
        selection = self._selection
        ask = int(self._ask / max(selection.count / block.rows, 0.05))  # the scan does not pass over the dead
        if ask * 2 >= block.rows:
            mask = ~block.dead if selection.mask is None and block.dead is not None else selection.mask
            return self._of_rows(np.arange(block.rows) if mask is None else np.flatnonzero(mask))
        if selection.mask is not None and selection.count <= _GATHERED_ROWS:
            return self._of_rows(np.flatnonzero(selection.mask))
        scores, rows = nearest(block.vectors, self._space, self._queries, ask)
        scores = scores if self._space.metric is Metric.L2 else self._space.bounded(scores)
        beyond = scores[:, -1].copy()
        if selection.mask is not None:
            scores[~selection.mask[rows]] = -np.inf
        elif block.dead is not None:
            scores[block.dead[rows]] = -np.inf
        return _Candidates(scores, rows, False, beyond, block.rows)

    def _of_segment(self, segment: SegmentView) -> _Candidates:
        selection = self._selection
        if selection.mask is not None and selection.count <= _GATHERED_ROWS:
            return self._of_rows(np.flatnonzero(selection.mask))
        proposed = self._proposed(segment)
        if proposed is not None:
            return proposed
        ask = min(self._ask, selection.count)
        if ask >= MANY_HITS:
            return self._many(segment, ask)
        scores, rows = segment.segment.scan(self._queries, ask, selection.bitmap)
        beyond = scores[:, -1].copy() if ask < selection.count else np.full(len(scores), -np.inf)
        return _Candidates(scores, rows, False, beyond, selection.count)

    def _proposed(self, segment: SegmentView) -> _Candidates | None:
        """What the segment's index proposes; None where a scan is better or the index returns short."""
        proposals, selection, recipe = self._wanted.proposals, self._selection, segment.segment.build.recipe
        if proposals is None or recipe is Recipe.EXACT:
            return None
        let_through = selection.count / segment.rows
        if let_through < (_SCANNED_SHARE_OF_GRAPH if recipe is Recipe.HNSW else _SCANNED_SHARE):
            return None
        ask = min(_with_margin(self._wanted.limit), selection.count)
        candidates = max(ask, int(segment.rows * proposals.candidates_per_row))
        if candidates > segment.rows * LARGEST_PROPOSED_SHARE:
            return None
        effort = proposals.effort
        if selection.mask is not None and recipe in CELL_RECIPES:
            effort = effort.wider(let_through)
        scores, rows = segment.segment.propose(self._queries, ask, candidates, effort, selection.bitmap)
        if scores.min() == -np.inf:
            return None
        scanned = segment.segment.rows_scanned(candidates, effort)
        return _Candidates(scores, rows, False, np.full(len(scores), -np.inf), scanned, recipe)

    def _many(self, segment: SegmentView, ask: int) -> _Candidates:
        min_score, selection = self._wanted.min_score, self._selection
        leasts = np.full(len(self._queries), -np.inf) if min_score is None else min_score - 2.0 * self._error
        found = [
            segment.segment.scan_many(query, ask, least, selection.bitmap, selection.count)
            for query, least in zip(self._queries, leasts.tolist(), strict=True)
        ]
        width = max(len(many.rows) for many in found)
        scores = np.full((len(found), width), -np.inf, dtype=np.float32)
        rows = np.zeros((len(found), width), dtype=np.int64)
        for number, many in enumerate(found):
            scores[number, : len(many.rows)] = self._bounded(many.scores)
            rows[number, : len(many.rows)] = many.rows
        beyond = np.array([many.border if len(many.rows) < self._selection.count else -np.inf for many in found])
        if min_score is not None:
            beyond[beyond < min_score - self._error] = -np.inf
        return _Candidates(scores, rows, True, beyond, self._selection.count)

    def _bounded(self, scores: np.ndarray) -> np.ndarray:
        return scores if self._space.metric is Metric.L2 else self._space.bounded(scores)


def _cut(found: list[_Candidates], limit: int, error: np.ndarray) -> np.ndarray:
    """For each query (n,), the score below which no candidate can be among the ``limit`` best.

    The best ``limit`` rows score at least the limit-th offered score less the error; a row that reaches that was
    offered at no less than that less the error again.
    """
    if sum(part.scores.shape[1] for part in found) <= limit:
        return np.full(len(error), -np.inf)
    scores = found[0].scores if len(found) == 1 else np.concatenate([part.scores for part in found], axis=1)
    place = scores.shape[1] - limit
    return np.asarray(np.partition(scores, place, axis=1)[:, place] - 2.0 * error)


def _final_hits(
    searched: Parts,
    space: VectorSpace,
    query: np.ndarray,
    offered: list[tuple[np.ndarray, np.ndarray, bool]],
    border: float,
    wanted: Wanted,
) -> Hits:
    """The best of what all parts offer for a query (dimension,) above the border, by the metric's own score.

    ``offered`` holds for each part the scores (n,), the rows (n,), and whether the scores are final.
    """
    all_scores: list[np.ndarray] = []
    all_addresses: list[np.ndarray] = []
    for number, (part, (scores, rows, final)) in enumerate(zip(searched.parts, offered, strict=True)):
        kept = scores >= max(border, _LOWEST_SCORE)
        rows = rows[kept]
        if rows.size:
            all_scores.append(scores[kept] if final else _rescored(part, space, query, rows))
            all_addresses.append(address(number, rows))
    if not all_scores:
        return Hits(np.empty(0, np.float32), np.empty(0, np.int64))
    scores, addresses = np.concatenate(all_scores), np.concatenate(all_addresses)
    if wanted.min_score is not None:
        reached = scores >= np.float32(wanted.min_score)
        scores, addresses = scores[reached], addresses[reached]
    order = best_first(scores, lambda places: searched.ids_at(addresses[places]), wanted.limit)
    return Hits(scores[order], addresses[order])


def _rescored(part: Part, space: VectorSpace, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The final scores of rows (n,), a piece at a time so that the gathered vectors stay in the cache's reach."""
    step = max(1, _RESCORE_BYTES // (4 * space.dimension))
    pieces = (rows[begin : begin + step] for begin in range(0, len(rows), step))
    return np.concatenate([space.scores(query[None, :], part.vectors_of(piece)) for piece in pieces])
