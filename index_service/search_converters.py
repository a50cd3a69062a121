"""Protobuf <-> domain for searches.

Owns every limit that search.proto states of a request's form, and the shape of the answer.
"""

import math
from dataclasses import replace

from eyebright.index.v1 import search_pb2

from index_service.collection import Collection
from index_service.converters import (
    check_range,
    parse_ids,
    parse_include,
    parse_vectors,
    record_message,
    status_messages,
    vectors_message,
)
from index_service.filter_converters import parse_filter
from index_service.index_config import Modality
from index_service.recipes import Recipe
from index_service.records import Include
from index_service.search import Evidence, QueryAnswer, SearchAnswer, SearchOptions
from index_service.vector_space import VectorSpace
from service_runtime.errors import OK_STATUS, InvalidArgument, ServiceError

_MOST_HITS_OF_SMALL = 1_000
MAX_QUERIES = 1_000
MAX_K = 100_000
MAX_HITS = 1_000_000
MAX_K_WITH_INCLUDE = 1_000

_MODALITIES = {
    search_pb2.MODALITY_TEXT: Modality.TEXT,
    search_pb2.MODALITY_IMAGE: Modality.IMAGE,
    search_pb2.MODALITY_RECORD: Modality.RECORD,
}


def is_small(request: search_pb2.SearchRequest) -> bool:
    """Whether a search is over in milliseconds: one that waits for nothing, and has few hits."""
    queries = max(request.vectors.count, len(request.records.ids))
    waits = request.exact or request.HasField("filter")  # the first filter by a field makes its columns
    return not waits and queries * (request.offset + request.k) <= _MOST_HITS_OF_SMALL


def search_collection(
    request: search_pb2.SearchRequest, collection: Collection, most_bytes: int, deadline: float | None
) -> search_pb2.SearchResponse:
    """Answer a search. Raises InvalidArgument or FailedPrecondition before any work, ResourceExhausted as soon as the
    answer is sure to pass ``most_bytes``, and DeadlineExceeded once ``deadline`` passes, in seconds of time.monotonic.
    """
    kind = request.WhichOneof("queries")
    modality = _parse_modality(request.modality, kind)
    options = replace(parse_options(request, most_bytes), modality=modality, deadline=deadline)
    if kind == "records":
        check_range("records.ids", len(request.records.ids), 1, MAX_QUERIES)
        _check_hits(len(request.records.ids), options.k)
        answer = collection.search_records(parse_ids("records.ids", request.records.ids, MAX_QUERIES), options)
    else:
        vectors = parse_vectors(request.vectors, collection.spec.space, 1, MAX_QUERIES)
        _check_hits(len(vectors), options.k)
        answer = collection.search_vectors(vectors, options)
    return _response(answer, options.include, collection.spec.space)


def parse_options(request: search_pb2.SearchRequest, most_bytes: int) -> SearchOptions:
    """What is asked of every query."""
    check_range("k", request.k, 1, MAX_K)
    if request.offset + request.k > MAX_K:
        raise InvalidArgument(
            f"expected offset + k of at most {MAX_K:,}, not {request.offset:,} + {request.k:,}", field="offset"
        )
    if math.isnan(request.min_score):
        raise InvalidArgument("expected a number, not NaN", field="min_score")
    include = parse_include(request.include)
    if include.anything and request.k > MAX_K_WITH_INCLUDE:
        raise InvalidArgument(
            f"expected nothing to include where k passes {MAX_K_WITH_INCLUDE:,}; k is {request.k:,}", field="include"
        )
    min_score = request.min_score if request.HasField("min_score") else None
    target_recall = request.target_recall if request.HasField("target_recall") else None
    if target_recall is not None and not 0.0 < target_recall <= 1.0:
        raise InvalidArgument(f"expected above 0 and at most 1, not {target_recall:g}", field="target_recall")
    return SearchOptions(
        request.k,
        offset=request.offset,
        min_score=min_score,
        exact=request.exact,
        target_recall=target_recall,
        where=parse_filter("filter", request.filter) if request.HasField("filter") else None,
        include=include,
        most_bytes=most_bytes,
    )


def _parse_modality(modality: search_pb2.Modality, kind: str | None) -> Modality:
    if kind is None:
        raise InvalidArgument("expected vectors or records to look for, not neither", field="queries")
    names = search_pb2.Modality.Name
    allowed = (
        (search_pb2.MODALITY_RECORD,) if kind == "records" else (search_pb2.MODALITY_TEXT, search_pb2.MODALITY_IMAGE)
    )
    if modality not in allowed:
        expected = " or ".join(names(number) for number in allowed)
        given = names(modality) if modality in search_pb2.Modality.values() else str(modality)
        raise InvalidArgument(f"expected {expected} where the queries are {kind}, not {given}", field="modality")
    return _MODALITIES[modality]


def _check_hits(queries: int, k: int) -> None:
    if queries * k > MAX_HITS:
        raise InvalidArgument(f"expected queries times k of at most {MAX_HITS:,}, not {queries:,} * {k:,}", field="k")


def _response(answer: SearchAnswer, include: Include, space: VectorSpace) -> search_pb2.SearchResponse:
    response = search_pb2.SearchResponse(evidence=_evidence(answer.evidence))
    for result in answer.results:
        # Made in its place: copying finished results of a million hits would hold the GIL for a second.
        _add_result(response, result, include, space)
    return response


def _add_result(
    response: search_pb2.SearchResponse, result: QueryAnswer | ServiceError, include: Include, space: VectorSpace
) -> None:
    if isinstance(result, ServiceError):
        response.results.add(status=status_messages([result])[0])
        return
    response.results.add(
        status=OK_STATUS,
        ids=result.ids,
        scores=result.scores.tolist(),
        records=[record_message(record, include) for record in result.records or ()],
        vectors=None if result.vectors is None else vectors_message(result.vectors, space),
    )


def _evidence(evidence: Evidence) -> search_pb2.Evidence:
    return search_pb2.Evidence(
        exact=evidence.recipe is Recipe.EXACT,
        recipe=evidence.recipe.value,
        shards_asked=evidence.shards_asked,
        shards_answered=evidence.shards_answered,
        rows_scanned=evidence.rows_scanned,
        estimated_recall=evidence.estimated_recall,
        shard_search_seconds=evidence.shard_search_seconds,
        merge_seconds=evidence.merge_seconds,
    )
