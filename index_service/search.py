"""One search over all shards: fan out, merge, read what the answer includes, state the evidence.

Owns the shapes of a query and its answer. Knows no protobuf, and nothing of how a shard finds its hits.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from index_service.filtered_view import FilteredView
from index_service.filters import Filter
from index_service.index_config import IndexConfig, Modality
from index_service.metrics import IndexMetrics
from index_service.parts import Parts, ShardView
from index_service.recipes import Recipe
from index_service.records import Include, Record, StoredRecord
from index_service.shard import Shard
from index_service.shard_search import Hits, Proposals, Wanted
from index_service.shard_search import search as search_parts
from index_service.vector_space import STORED_DTYPE, VectorSpace
from index_service.workers import Workers
from service_runtime.errors import ResourceExhausted, ServiceError

_PIECE_QUERIES = 64
_PIECE_HITS = 100_000
"""Most queries, and most hits, that are worked on at a time: they bound the memory of a search, and how long
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
    modality: Modality = Modality.TEXT
    target_recall: float | None = None
    """The recall to aim at instead of the collection's own, above 0, at most 1."""
    where: Filter | None = None
    """What records must be like; None lets all through."""
    deadline: float | None = None
    """When the caller stops waiting, in seconds of ``time.monotonic``."""
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
    estimated_recall: float | None
    """1 when exact; None when it is not known."""
    shard_search_seconds: float
    merge_seconds: float


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The answers in the order of the queries, a ServiceError where one can't be answered."""

    results: list[QueryAnswer | ServiceError]
    evidence: Evidence
    views: Sequence[ShardView]
    """What was searched, as it stood."""
    masks: Sequence[Sequence[np.ndarray | None] | None]
    """For each view, what a filter let through, as ``shard_search.search`` takes it; None for all."""


ReadRecords = Callable[[Sequence[str]], list[StoredRecord | None]]


def search_shards(
    shards: Sequence[Shard],
    space: VectorSpace,
    config: IndexConfig,
    queries: Queries,
    options: SearchOptions,
    read_records: ReadRecords,
    workers: Workers,
    metrics: IndexMetrics,
) -> SearchAnswer:
    """Search all shards side by side and merge, some queries at a time. The evidence says whether the hits are exact.

    Raises ResourceExhausted as soon as the answer is sure to pass ``options.most_bytes``, and DeadlineExceeded.
    """
    filtered = _filtered(shards, options, metrics)
    views = [own.view for own in filtered] if filtered else [shard.view for shard in shards]
    masks: list[list[np.ndarray] | None] = [own.masks() for own in filtered] or [None] * len(views)
    parts = Parts([part for view in views for part in view.parts])
    flat = [mask for own in masks for mask in own or ()]
    search = _Search(parts, flat, space, config, queries, options, workers, metrics)
    size = _AnswerSize(options)
    merge_seconds = 0.0
    found: list[QueryAnswer] = []
    for merged in search.pieces():
        answers = [size.with_hits(answer) for answer in merged]
        if options.include.text:
            with metrics.stage("read_records") as reading:
                answers = [size.with_records(_with_records(answer, read_records)) for answer in answers]
            merge_seconds += reading.seconds
        found += answers
    metrics.rows_scanned.inc(search.rows_scanned)
    return SearchAnswer(
        _in_request_order(found, queries.faults),
        Evidence(
            recipe=search.recipe,
            shards_asked=len(shards),
            shards_answered=len(shards),
            rows_scanned=search.rows_scanned // max(len(found), 1),
            estimated_recall=1.0 if search.recipe is Recipe.EXACT else search.estimated_recall,
            shard_search_seconds=search.shard_seconds,
            merge_seconds=merge_seconds + search.merge_seconds,
        ),
        views,
        masks,
    )


def _filtered(shards: Sequence[Shard], options: SearchOptions, metrics: IndexMetrics) -> list[FilteredView]:
    """The views of all shards, prepared for the filter; none without one."""
    if options.where is None:
        return []
    with metrics.stage("filter"):
        return [shard.filtered(options.where, options.deadline) for shard in shards]


class _Search:
    """A search under way: what every piece of its queries has in common, and what they have cost together."""

    def __init__(
        self,
        parts: Parts,
        masks: Sequence[np.ndarray],
        space: VectorSpace,
        config: IndexConfig,
        queries: Queries,
        options: SearchOptions,
        workers: Workers,
        metrics: IndexMetrics,
    ) -> None:
        self._parts = parts
        self._masks = masks
        self._space = space
        self._queries = queries
        self._options = options
        self._workers = workers
        self._metrics = metrics
        # One more than asked for where a query would find itself.
        self._limit = options.k + options.offset + any(own is not None for own in queries.record_ids)
        effort = None
        if not options.exact:
            target = options.target_recall
            effort = config.effort_in_force if target is None else config.effort_for(target, options.modality)
        proposals = None if effort is None else Proposals.of(effort, self._limit, parts.rows)
        self._wanted = Wanted(self._limit, options.min_score, proposals, options.deadline)
        self.estimated_recall = None if effort is None else config.recall_of(effort, options.modality)
        self.recipe = Recipe.EXACT
        self.rows_scanned = 0
        self.shard_seconds = 0.0
        self.merge_seconds = 0.0

    def pieces(self) -> Iterator[list[QueryAnswer]]:
        """The answers, some queries at a time."""
        step = max(1, min(_PIECE_QUERIES, _PIECE_HITS // self._limit))
        for begin in range(0, len(self._queries.vectors), step):
            piece = slice(begin, begin + step)
            with self._metrics.stage("shard_search") as searching:
                found = search_parts(
                    self._parts,
                    self._space,
                    self._queries.vectors[piece],
                    self._wanted,
                    self._masks or None,
                    run=self._workers.search,
                )
            self.shard_seconds += searching.seconds
            self.rows_scanned += found.rows_scanned
            self.recipe = self.recipe if found.recipe is Recipe.EXACT else found.recipe
            with self._metrics.stage("merge") as merging:
                answers = [
                    _answer(self._parts, hits, own, self._options)
                    for hits, own in zip(found.hits, self._queries.record_ids[piece], strict=True)
                ]
            self.merge_seconds += merging.seconds
            yield answers


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


def _answer(parts: Parts, hits: Hits, own: str | None, options: SearchOptions) -> QueryAnswer:
    """The hits of one query, without the query itself, from ``offset`` on."""
    scores, addresses = hits.scores, hits.addresses
    if own is None:
        page = slice(options.offset, options.offset + options.k)
        scores, addresses = scores[page], addresses[page]
        ids = parts.ids_at(addresses).tolist()
    else:
        ids = parts.ids_at(addresses).tolist()
        others = [place for place, other in enumerate(ids) if other != own][options.offset :][: options.k]
        scores, addresses, ids = scores[others], addresses[others], [ids[place] for place in others]
    vectors = parts.vectors_at(addresses) if options.include.vector and addresses.size else None
    return QueryAnswer(ids, scores, None, vectors)


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
