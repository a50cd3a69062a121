"""Searching: the operations behind ``search`` and ``search_many``.

Owns which queries go into which request, and when a hit has a probability. Performs no I/O.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from eyebright_client import _messages
from eyebright_client._calls import Operation
from eyebright_client._embedding import alone, embed
from eyebright_client._exceptions import (
    CallError,
    FingerprintMismatch,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from eyebright_client._filters import Filter, check_filter
from eyebright_client._limits import (
    HITS_PER_SEARCH,
    HITS_WITH_RECORDS_PER_SEARCH,
    MAX_K_WITH_INCLUDE,
    QUERIES_PER_SEARCH,
    REQUEST_BYTES,
)
from eyebright_client._results import (
    Embedding,
    Embeddings,
    EmbedTimings,
    IncludeField,
    Modality,
    Model,
    SearchResult,
    Stages,
)
from eyebright_client._session import Session
from eyebright_client._timeouts import Deadline, check_timeout
from eyebright_client._vectors import matrix_of

DEFAULT_INCLUDE: tuple[IncludeField, ...] = ("caption", "source_uri", "metadata")

Queries: TypeAlias = Sequence[Any] | np.ndarray


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of every query of a call."""

    collection: str
    k: int
    filter: Filter | None
    offset: int
    min_score: float | None
    exact: bool
    target_recall: float | None
    include: Collection[str]
    """What the caller asked for; when nothing was said, the default, or nothing where k does not allow it."""

    @classmethod
    def of(
        cls,
        session: Session,
        collection: str | None,
        k: int,
        filter: Filter | None,  # noqa: A002
        offset: int,
        min_score: float | None,
        exact: bool,
        target_recall: float | None,
        include: Collection[str] | None,
    ) -> "Wanted":
        """From the arguments of ``search``."""
        if include is None:
            include = DEFAULT_INCLUDE if isinstance(k, int) and k <= MAX_K_WITH_INCLUDE else ()
        where = None if filter is None else check_filter(filter)
        return cls(session.collection_name(collection), k, where, offset, min_score, exact, target_recall, include)


@dataclass(slots=True)
class _Queries:
    """Queries as the index takes them, vectors or ids, one per position; some may have failed before."""

    modality: Modality
    rows: np.ndarray | Sequence[str]
    fingerprint: str = ""
    errors: dict[int, CallError] = dataclasses.field(default_factory=dict)
    truncated: frozenset[int] = frozenset()
    timings: EmbedTimings = dataclasses.field(default_factory=EmbedTimings)

    def only(self, positions: list[int]) -> np.ndarray | list[str]:
        """The queries at some positions."""
        return self.rows[positions] if isinstance(self.rows, np.ndarray) else [self.rows[i] for i in positions]


def search(
    session: Session,
    text: str | None,
    *,
    image: object,
    vector: object,
    like: str | None,
    k: int,
    collection: str | None,
    filter: Filter | None,  # noqa: A002
    offset: int,
    min_score: float | None,
    exact: bool,
    target_recall: float | None,
    include: Collection[str] | None,
    modality: Modality | None,
    timeout: float | None,
) -> Operation[SearchResult]:
    """Behind ``search``."""
    kind, query = _exactly_one(text=text, image=image, vector=vector, like=like)
    _check_modality(kind, modality)
    deadline = Deadline(session.timeouts.search if timeout is None else timeout)
    wanted = Wanted.of(session, collection, k, filter, offset, min_score, exact, target_recall, include)
    queries = [query] if kind != "vector" else _one_row(query)
    results = yield from _search(session, kind, queries, modality, wanted, deadline.remaining)
    if results[0].error is not None:
        raise alone(results[0].error)
    return results[0]


def search_many(
    session: Session,
    *,
    texts: Sequence[str] | None,
    images: Sequence[object] | None,
    vectors: object,
    likes: Sequence[str] | None,
    k: int,
    collection: str | None,
    filter: Filter | None,  # noqa: A002
    offset: int,
    min_score: float | None,
    exact: bool,
    target_recall: float | None,
    include: Collection[str] | None,
    modality: Modality | None,
    timeout: float | None,
) -> Operation[tuple[SearchResult, ...]]:
    """Behind ``search_many``."""
    kind, queries = _exactly_one(texts=texts, images=images, vectors=vectors, likes=likes)
    if isinstance(queries, str):
        raise InvalidArgument(f"{kind}: expected a sequence of strings, not one string", field=kind)
    kind = kind.removesuffix("s")
    _check_modality(kind, modality)
    seconds = session.timeouts.search if timeout is None else timeout
    check_timeout("timeout", seconds)
    wanted = Wanted.of(session, collection, k, filter, offset, min_score, exact, target_recall, include)
    return (yield from _search(session, kind, queries, modality, wanted, lambda: seconds))


def _exactly_one(**given: object) -> tuple[str, Any]:
    present = [(name, value) for name, value in given.items() if value is not None]
    if len(present) != 1:
        names = ", ".join(name for name, _ in present) or "none"
        raise InvalidArgument(f"expected exactly one of {', '.join(given)}, not {names}")
    return present[0]


def _check_modality(kind: str, modality: Modality | None) -> None:
    if modality is None:
        return
    if kind != "vector":
        raise InvalidArgument(f"modality: goes with vectors only, not with {kind}", field="modality")
    if modality not in ("text", "image"):
        raise InvalidArgument(f"modality: expected 'text' or 'image', not {modality!r}", field="modality")


def _one_row(vector: object) -> np.ndarray | Embeddings:
    if isinstance(vector, Embedding):
        return Embeddings(vector.vector[np.newaxis], vector.fingerprint, vector.modality)
    if isinstance(vector, Embeddings):
        raise InvalidArgument(
            "vector: expected one vector, not Embeddings; use search_many(vectors=...)", field="vector"
        )
    row = np.asarray(vector)
    if row.ndim != 1:
        raise InvalidArgument(f"vector: expected the shape (dimension,), not {row.shape}", field="vector")
    return row[np.newaxis]


def _search(
    session: Session,
    kind: str,
    given: Queries,
    modality: Modality | None,
    wanted: Wanted,
    wait: Callable[[], float],
) -> Operation[tuple[SearchResult, ...]]:
    began = time.perf_counter()
    try:
        queries = yield from _queries(session, kind, given, modality, wanted, wait)
        model = yield from _matching_model(session, queries, wanted, wait)
        results: dict[int, SearchResult] = {i: SearchResult(error=error) for i, error in queries.errors.items()}
        for positions in _chunks(queries, wanted):
            for position, result in (yield from _answers(session, queries, positions, wanted, wait)):
                results[position] = dataclasses.replace(
                    result,
                    probabilities=None if model is None or result.error else model.probability(result.scores),
                    truncated=position in queries.truncated,
                )
    except (FingerprintMismatch, NotFound):
        session.forget(wanted.collection)
        raise
    total = time.perf_counter() - began
    return tuple(_timed(results[position], queries.timings, total) for position in range(len(queries.rows)))


def _answers(
    session: Session, queries: _Queries, positions: list[int], wanted: Wanted, wait: Callable[[], float]
) -> Operation[list[tuple[int, SearchResult]]]:
    """The answers to the queries at some positions, in one request, or in halves where one answer can't hold them."""
    request = _messages.search_request(
        wanted.collection,
        queries.only(positions),
        queries.fingerprint,
        queries.modality,
        k=wanted.k,
        filter=wanted.filter,
        offset=wanted.offset,
        min_score=wanted.min_score,
        exact=wanted.exact,
        target_recall=wanted.target_recall,
        include=wanted.include,
    )
    try:
        response = yield from session.index("Search", request, wait())
    except ResourceExhausted as error:
        if len(positions) == 1 or error.retry_after_seconds is not None:
            raise
        half = len(positions) // 2
        first = yield from _answers(session, queries, positions[:half], wanted, wait)
        return first + (yield from _answers(session, queries, positions[half:], wanted, wait))
    shard_seconds, merge_seconds = _messages.read_search_seconds(response)
    stages = Stages(shard_search_seconds=shard_seconds, merge_seconds=merge_seconds)
    found = _messages.read_search(response, positions, session.request_id)
    return [
        (position, dataclasses.replace(result, stages=stages))
        for position, result in zip(positions, found, strict=True)
    ]


def _timed(result: SearchResult, embedding: EmbedTimings, total_seconds: float) -> SearchResult:
    stages = dataclasses.replace(
        result.stages,
        decode_seconds=embedding.decode_seconds,
        queue_seconds=embedding.queue_seconds,
        forward_seconds=embedding.forward_seconds,
        total_seconds=total_seconds,
    )
    return dataclasses.replace(result, stages=stages)


def _queries(
    session: Session,
    kind: str,
    given: Queries,
    modality: Modality | None,
    wanted: Wanted,
    wait: Callable[[], float],
) -> Operation[_Queries]:
    if kind == "like":
        return _Queries("record", list(given))
    if kind == "vector":
        matrix, fingerprint, made_of, errors = matrix_of(given)
        if fingerprint is None:
            fingerprint = (yield from session.collection(wanted.collection, wait)).fingerprint
        return _Queries(modality or made_of or "image", matrix, fingerprint, errors)
    session.require_embedder("searching a caption" if kind == "text" else "searching an image")
    embedded = yield from embed(session, "text" if kind == "text" else "image", list(given), wait)
    return _Queries(
        embedded.modality,
        embedded.vectors,
        embedded.fingerprint,
        dict(embedded.errors),
        embedded.truncated,
        embedded.timings,
    )


def _matching_model(
    session: Session, queries: _Queries, wanted: Wanted, wait: Callable[[], float]
) -> Operation[Model | None]:
    """The model whose scale and bias turn these scores into probabilities; None where there is none."""
    if queries.modality != "text" or not session.state.has_embedder:
        return None
    collection = yield from session.collection(wanted.collection, wait)
    if collection.metric != "cosine":
        return None
    try:
        model = yield from session.model(wait)
    except Unavailable:  # the vectors were the caller's own; the answer is worth more than its probabilities
        return None
    return model if model.fingerprint == queries.fingerprint else None


def _chunks(queries: _Queries, wanted: Wanted) -> Iterator[list[int]]:
    """Positions of the queries that go into one request each."""
    hits = HITS_WITH_RECORDS_PER_SEARCH if wanted.include else HITS_PER_SEARCH
    size = max(1, min(QUERIES_PER_SEARCH, hits // max(1, wanted.k if isinstance(wanted.k, int) else 1)))
    if isinstance(queries.rows, np.ndarray):
        size = max(1, min(size, REQUEST_BYTES // max(1, 4 * queries.rows.shape[1])))
    good = [position for position in range(len(queries.rows)) if position not in queries.errors]
    for start in range(0, len(good), size):
        yield good[start : start + size]
