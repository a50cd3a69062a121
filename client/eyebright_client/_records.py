"""Records: the operations that write, read, change and delete them.

Owns cutting long inputs into requests. Performs no I/O.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eyebright_client import _messages
from eyebright_client._calls import Message, Operation
from eyebright_client._embedding import alone
from eyebright_client._exceptions import CallError, FingerprintMismatch, InvalidArgument, NotFound
from eyebright_client._filters import Filter, check_filter
from eyebright_client._limits import IDS_PER_READ, ITEMS_PER_WRITE, RECORDS_PER_READ, REQUEST_BYTES, batched
from eyebright_client._results import Embedding, Failure, Record, RecordPage, WriteReport
from eyebright_client._session import Session
from eyebright_client._statuses import read_item_errors
from eyebright_client._vectors import matrix_of


@dataclass(frozen=True, slots=True)
class _Row:
    """A record to write, beside the position of its vector."""

    position: int
    id: str
    message: Message


def upsert(
    session: Session,
    ids: str | Sequence[str],
    vectors: object,
    *,
    captions: object,
    metadata: object,
    source_uris: object,
    collection: str | None,
    fingerprint: str | None,
) -> Operation[WriteReport]:
    """Behind ``upsert``."""
    if not isinstance(ids, str):
        columns = (_column("captions", captions, ids), _column("source_uris", source_uris, ids))
        rows = list(zip(ids, *columns, _column("metadata", metadata, ids), strict=True))
        return (yield from _upsert(session, rows, vectors, collection, fingerprint))
    if isinstance(vectors, Embedding):
        fingerprint, vectors = fingerprint or vectors.fingerprint, vectors.vector
    vectors = np.asarray(vectors)
    if vectors.ndim != 1:
        raise InvalidArgument(
            f"vectors: expected the shape (dimension,) for one id, not {vectors.shape}", field="vectors"
        )
    records = [(ids, captions, source_uris, metadata)]
    report = yield from _upsert(session, records, vectors[np.newaxis], collection, fingerprint)
    if report.failed:
        raise alone(report.failed[0].error)
    return report


def upsert_records(
    session: Session, records: Iterable[Record], *, collection: str | None, fingerprint: str | None
) -> Operation[WriteReport]:
    """Behind ``upsert_records``."""
    given = list(records)
    if not given:
        return WriteReport(0)
    vectors: list[np.ndarray] = []
    for position, record in enumerate(given):
        if record.vector is None:
            raise InvalidArgument(f"record {record.id!r} has no vector", field="vector", position=position)
        vectors.append(np.asarray(record.vector))
        if vectors[-1].shape != vectors[0].shape:
            raise InvalidArgument(
                f"expected vectors of one shape, {vectors[0].shape}, not {vectors[-1].shape}",
                field="vector",
                position=position,
            )
    rows = [(record.id, record.caption, record.source_uri, record.metadata) for record in given]
    return (yield from _upsert(session, rows, np.stack(vectors), collection, fingerprint))


def _column(name: str, values: object, ids: Sequence[str]) -> Sequence[Any]:
    if values is None:
        return [None] * len(ids)
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != len(ids):
        shape = len(values) if isinstance(values, list | tuple) else type(values).__name__
        raise InvalidArgument(f"{name}: expected a sequence of {len(ids)}, one per id, not {shape}", field=name)
    return values


def _upsert(
    session: Session, records: list[tuple[Any, ...]], vectors: object, collection: str | None, fingerprint: str | None
) -> Operation[WriteReport]:
    name = session.collection_name(collection)
    matrix, own_fingerprint, _, errors = matrix_of(vectors)
    if len(matrix) != len(records):
        raise InvalidArgument(f"vectors: expected {len(records)} rows, one per id, not {len(matrix)}", field="vectors")
    fingerprint = fingerprint or own_fingerprint or (yield from session.collection(name)).fingerprint
    rows: list[_Row] = []
    for position, (id_, caption, source_uri, metadata) in enumerate(records):
        if position in errors:
            continue
        try:
            message = _messages.record_message(position, id_, caption, source_uri, metadata)
            rows.append(_Row(position, id_, message))
        except CallError as error:
            errors[position] = error
    vector_bytes = matrix.shape[1] * matrix.itemsize
    try:
        for batch in batched(
            rows,
            lambda row: vector_bytes + _messages.record_bytes(row.message),
            max_items=ITEMS_PER_WRITE,
            max_bytes=REQUEST_BYTES,
        ):
            positions = [row.position for row in batch]
            request = _messages.upsert_request(name, [row.message for row in batch], matrix[positions], fingerprint)
            response = yield from session.index("Upsert", request, session.timeouts.write)
            errors |= read_item_errors(response.statuses, positions, session.request_id)
    except (FingerprintMismatch, NotFound):
        session.forget(name)
        raise
    failed = tuple(Failure(position, records[position][0], errors[position]) for position in sorted(errors))
    return WriteReport(len(records) - len(failed), failed)


def delete(
    session: Session,
    ids: str | Iterable[str] | None,
    *,
    filter: Filter | None,  # noqa: A002
    collection: str | None,
) -> Operation[int]:
    """Behind ``delete``."""
    if (ids is None) == (filter is None):
        given = "neither" if ids is None else "both"
        raise InvalidArgument(f"expected either ids or a filter, not {given}", field="filter")
    if ids is None:
        request = _messages.delete_matching_request(session.collection_name(collection), check_filter(filter))
        return int((yield from session.index("Delete", request, session.timeouts.write)).deleted_count)
    return (yield from _delete_ids(session, ids, collection=collection))


def _delete_ids(session: Session, ids: str | Iterable[str], *, collection: str | None) -> Operation[int]:
    wanted = [ids] if isinstance(ids, str) else list(ids)
    name = session.collection_name(collection)
    deleted = 0
    errors: dict[int, CallError] = {}
    for start in range(0, len(wanted), ITEMS_PER_WRITE):
        part = wanted[start : start + ITEMS_PER_WRITE]
        request = _messages.delete_request(name, part)
        response = yield from session.index("Delete", request, session.timeouts.write)
        deleted += response.deleted_count
        positions = range(start, start + len(part))
        errors |= read_item_errors(response.statuses, positions, session.request_id)
    if errors:
        first = errors[min(errors)]
        raise alone(first) if isinstance(ids, str) else first
    return deleted


def get(session: Session, id_: str, *, collection: str | None, include: Collection[str]) -> Operation[Record]:
    """Behind ``get``."""
    name = session.collection_name(collection)
    request = _messages.get_records_request(name, [id_], include)
    response = yield from session.index("GetRecords", request, session.timeouts.read)
    for error in read_item_errors(response.statuses, [0], session.request_id).values():
        raise alone(error)
    return _messages.read_records(response)[0]


def get_many(
    session: Session, ids: Iterable[str], *, collection: str | None, include: Collection[str]
) -> Operation[tuple[Record | None, ...]]:
    """Behind ``get_many``."""
    if isinstance(ids, str):
        raise InvalidArgument("ids: expected a sequence of strings, not one string", field="ids")
    wanted = list(ids)
    size = RECORDS_PER_READ if include else IDS_PER_READ
    name = session.collection_name(collection)
    found: list[Record | None] = []
    for start in range(0, len(wanted), size):
        part = wanted[start : start + size]
        request = _messages.get_records_request(name, part, include)
        response = yield from session.index("GetRecords", request, session.timeouts.read)
        found += _messages.read_found(response, range(start, start + len(part)), session.request_id)
    return tuple(found)


def list_page(
    session: Session,
    page_token: str,
    *,
    page_size: int,
    collection: str | None,
    filter: Filter | None,  # noqa: A002
    include: Collection[str],
) -> Operation[RecordPage]:
    """One page of ``list``."""
    where = None if filter is None else check_filter(filter)
    request = _messages.list_records_request(session.collection_name(collection), page_size, page_token, where, include)
    return _messages.read_page((yield from session.index("ListRecords", request, session.timeouts.read)))


def update(
    session: Session,
    id_: str,
    *,
    caption: str | None,
    metadata: Mapping[str, Any] | None,
    source_uri: str | None,
    collection: str | None,
) -> Operation[None]:
    """Behind ``update``."""
    if caption is None and metadata is None and source_uri is None:
        raise InvalidArgument("expected at least one of caption, metadata, source_uri, not none")
    request = _messages.update_request(session.collection_name(collection), id_, caption, source_uri, metadata)
    response = yield from session.index("UpdateRecords", request, session.timeouts.write)
    errors = read_item_errors(response.statuses, [0], session.request_id)
    if errors:
        raise alone(errors[0])
