"""One search over all shards: fan out, merge, read what the answer includes, state the evidence.

Owns the shapes of a query and its answer. Knows no protobuf, and nothing of how a shard finds its hits.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from index_service.metrics import IndexMetrics
from index_service.ranking import best_first
from index_service.recipes import Recipe
from index_service.records import Include, Record, StoredRecord
from index_service.shard import Shard
from index_service.shard_search import Hits, ShardView, Wanted
from index_service.shard_search import search as search_view
from index_service.vector_space import STORED_DTYPE, VectorSpace
from index_service.workers import Workers
from service_runtime.errors import ResourceExhausted, ServiceError

K_FACTOR = 200
"""Candidates that codes propose for each hit asked for, over the whole collection. With 4-bit codes of four numbers,
recall@10 of captions is 0.998 at a million vectors of 768 dimensions, and grows as the collection shrinks.
"""

_PIECE_QUERIES = 64
_PIECE_HITS = 100_000
"""Most queries, and most hits of a shard, that are worked on at a time: they bound the memory of a search, and how long
another one waits for a thread.
"""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What is asked of every query of a search. ``k`` from 1, ``offset`` from 0."""

    k: int
    offset: int = 0
    min_score: float | None = None
    exact: bool = False
    """Whether every vector is to be compared, whatever the segments' recipes."""
    include: Include = field(default_factory=Include)
    most_bytes: int = sys.maxsize
    """Most bytes of the whole answer on the wire."""


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries that can be answered, and the faults of those that can't, by their place in the request."""

    vectors: np.ndarray
    """(n, dimension) float32, prepared for the space; n counts the answerable ones alone."""
    record_ids: Sequence[str | None]
    """(n,) the record that each one is, left out of its own hits; None for a vector."""
    faults: dict[int, ServiceError]


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """The hits of one query, best first, in columns."""

    ids: list[str]
    scores: np.ndarray
    records: list[Record] | None
    """What the answer includes of each record as it stood just after the search; None when nothing is asked for."""
    vectors: np.ndarray | None
    """(hits, dimension) float32, the vectors that were scored; None when not asked for."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """How an answer was found."""

    recipe: Recipe
    """EXACT when every live record was compared with every query."""
    shards_asked: int
    shards_answered: int
    rows_scanned: int
    shard_search_seconds: float
    merge_seconds: float


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The answers in the order of the queries, a ServiceError where one can't be answered."""

    results: list[QueryAnswer | ServiceError]
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class _ShardAnswer:
    hits: list[Hits]
    recipe: Recipe
    seconds: float


ReadRecords = Callable[[Sequence[str]], list[StoredRecord | None]]


def search_shards(
    shards: Sequence[Shard],
    space: VectorSpace,
    queries: Queries,
    options: SearchOptions,
    read_records: ReadRecords,
    workers: Workers,
    metrics: IndexMetrics,
) -> SearchAnswer:
    """Search all shards side by side and merge, some queries at a time. The evidence says whether the hits are exact.

    Raises ResourceExhausted as soon as the answer is sure to pass ``options.most_bytes``.
    """
    views = [shard.view for shard in shards]
    # One more than asked for where a query would find itself.
    limit = options.k + options.offset + any(own is not None for own in queries.record_ids)
    rows = sum(view.rows for view in views)
    wanted = Wanted(limit, options.min_score, None if options.exact or not rows else limit * K_FACTOR / rows)
    recipes: set[Recipe] = set()
    step = max(1, min(_PIECE_QUERIES, _PIECE_HITS // limit))
    shard_seconds = [0.0] * len(views)
    merge_seconds = 0.0
    found: list[QueryAnswer] = []
    size = _AnswerSize(options)
    for begin in range(0, len(queries.vectors), step):
        piece = slice(begin, begin + step)

        def search_one(view: ShardView, vectors: np.ndarray = queries.vectors[piece]) -> _ShardAnswer:
            with metrics.stage("shard_search") as stopwatch:
                found = search_view(view, space, vectors, wanted)
            return _ShardAnswer(found.hits, found.recipe, stopwatch.seconds)

        answers = workers.search(search_one, views)
        recipes |= {answer.recipe for answer in answers}
        shard_seconds = [sum(pair) for pair in zip(shard_seconds, (answer.seconds for answer in answers), strict=True)]
        with metrics.stage("merge") as merging:
            merged = [
                size.with_hits(_merge(views, [answer.hits[number] for answer in answers], own, options))
                for number, own in enumerate(queries.record_ids[piece])
            ]
        merge_seconds += merging.seconds
        if options.include.text:
            with metrics.stage("read_records") as reading:
                merged = [size.with_records(_with_records(answer, read_records)) for answer in merged]
            merge_seconds += reading.seconds
        found += merged
    rows = rows if found else 0
    metrics.rows_scanned.inc(rows * len(found))
    return SearchAnswer(
        _in_request_order(found, queries.faults),
        Evidence(
            recipe=next(iter(recipes - {Recipe.EXACT}), Recipe.EXACT),
            shards_asked=len(shards),
            shards_answered=len(shards),
            rows_scanned=rows,
            shard_search_seconds=max(shard_seconds, default=0.0),
            merge_seconds=merge_seconds,
        ),
    )


class _AnswerSize:
    """The least that an answer takes on the wire, counted while it grows, so that none grows far past what is sent."""

    def __init__(self, options: SearchOptions) -> None:
        self._include = options.include
        self._most_bytes = options.most_bytes
        self._bytes = 0

    def with_hits(self, answer: QueryAnswer) -> QueryAnswer:
        """Count ids, scores and vectors, which travel as float16."""
        vectors = 0 if answer.vectors is None else answer.vectors.size * STORED_DTYPE.itemsize
        self._add(sum(map(len, answer.ids)) + answer.scores.nbytes + vectors)
        return answer

    def with_records(self, answer: QueryAnswer) -> QueryAnswer:
        """Count what is included of the records."""
        include = self._include
        for record in answer.records or ():
            self._add(
                include.caption * len(record.caption or "")
                + include.source_uri * len(record.source_uri or "")
                + include.metadata * len(record.metadata_json or b"")
            )
        return answer

    def _add(self, count: int) -> None:
        self._bytes += count
        if self._bytes > self._most_bytes:
            raise ResourceExhausted(
                f"the answer has over {self._bytes:,} bytes, but at most {self._most_bytes:,} are sent; "
                "ask for less at a time"
            )


def _merge(views: Sequence[ShardView], hits: Sequence[Hits], own: str | None, options: SearchOptions) -> QueryAnswer:
    """The best of all shards' hits of one query, without the query itself, from ``offset`` on."""
    scores = np.concatenate([part.scores for part in hits])
    ids = np.concatenate([part.ids for part in hits])
    order = best_first(scores, ids, options.k + options.offset + (own is not None))
    if own is not None:
        # Not by numpy's own comparison, which takes "a" and "a\0" for the same.
        order = order[[other != own for other in ids[order].tolist()]]
    chosen = order[options.offset : options.offset + options.k]
    vectors = _vectors_of(views, hits, chosen) if options.include.vector and chosen.size else None
    return QueryAnswer(ids[chosen].tolist(), scores[chosen], None, vectors)


def _vectors_of(views: Sequence[ShardView], hits: Sequence[Hits], chosen: np.ndarray) -> np.ndarray:
    """The vectors of chosen places in the shards' hits laid end to end."""
    ends = np.cumsum([len(part.ids) for part in hits])
    shard_of = np.searchsorted(ends, chosen, side="right")
    addresses = np.concatenate([part.addresses for part in hits])[chosen]
    vectors: np.ndarray | None = None
    for number in np.unique(shard_of).tolist():
        own = shard_of == number
        found = views[number].vectors_at(addresses[own])
        if vectors is None:
            vectors = np.empty((len(chosen), found.shape[1]), dtype=np.float32)
        vectors[own] = found
    assert vectors is not None
    return vectors


def _with_records(answer: QueryAnswer, read_records: ReadRecords) -> QueryAnswer:
    """The answer with its records. One that was deleted since it was found keeps its id alone."""
    stored = read_records(answer.ids)
    records = [Record(own) if found is None else found.record for own, found in zip(answer.ids, stored, strict=True)]
    return QueryAnswer(answer.ids, answer.scores, records, answer.vectors)


def _in_request_order(
    answers: Sequence[QueryAnswer], faults: dict[int, ServiceError]
) -> list[QueryAnswer | ServiceError]:
    waiting = iter(answers)
    count = len(answers) + len(faults)
    return [faults[number] if number in faults else next(waiting) for number in range(count)]
