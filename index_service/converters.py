"""Protobuf <-> domain for records: what a request says, checked, and what an answer looks like.

Owns the limits that record.proto states of a request's form, and the path of the field at fault.
Knows no collection but the space and name it is told.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from eyebright.index.v1 import record_pb2
from eyebright.vectors.numpy_codec import FLOAT16, VectorBatchError, decode_vectors, encode_vectors
from eyebright.vectors.v1.vectors_pb2 import VectorBatch
from google.rpc import status_pb2

from index_service.collection import CollectionSpec, Page, UpsertBatch
from index_service.metadata import MetadataError, check_metadata
from index_service.page_token import write_page_token
from index_service.records import Fault, Include, Record, RecordUpdate, StoredRecord
from index_service.vector_space import VectorSpace
from service_runtime.errors import OK_STATUS, InvalidArgument, NotFound, ServiceError

MAX_WRITE_ITEMS = 10_000
MAX_READ_ITEMS = 1_000
MAX_ID_BYTES = 512
MAX_CAPTION_BYTES = 32 * 1024
MAX_SOURCE_URI_BYTES = 4 * 1024
DEFAULT_PAGE_SIZE = 100

Source = TypeVar("Source")
Parsed = TypeVar("Parsed")


def check_range(field: str, value: int, least: int, most: int) -> None:
    """Raise InvalidArgument unless ``least <= value <= most``."""
    if not least <= value <= most:
        raise InvalidArgument(f"expected {least:,} to {most:,}, not {value:,}", field=field)


def parse_vectors(batch: VectorBatch, space: VectorSpace, least: int, most: int, field: str = "vectors") -> np.ndarray:
    """Vectors (n, dimension) float32 or float16 of a space, ``least <= n <= most``; ``field`` is their path."""
    check_range(f"{field}.count", batch.count, least, most)
    space.check(batch.dimension, batch.fingerprint, field)
    try:
        return decode_vectors(batch)
    except VectorBatchError as error:
        raise InvalidArgument(str(error).removeprefix(f"{error.field}: "), field=f"{field}.{error.field}") from error


def parse_upsert(request: record_pb2.UpsertRequest, space: VectorSpace) -> UpsertBatch:
    """The records to write, a fault in place of each that breaks a rule, and their vectors."""
    check_range("records", len(request.records), 1, MAX_WRITE_ITEMS)
    vectors = parse_vectors(request.vectors, space, 0, MAX_WRITE_ITEMS)
    if len(vectors) != len(request.records):
        raise InvalidArgument(
            f"expected {len(request.records)} vectors, one per record, not {len(vectors)}", field="vectors.count"
        )
    return UpsertBatch(_distinct("records", request.records, _record), vectors)


def parse_updates(request: record_pb2.UpdateRecordsRequest) -> list[RecordUpdate | ServiceError]:
    """The updates, a fault in place of each that breaks a rule."""
    check_range("updates", len(request.updates), 1, MAX_WRITE_ITEMS)
    return _distinct("updates", request.updates, _update)


def parse_ids(field: str, ids: Sequence[str], most: int) -> list[str | ServiceError]:
    """Ids, a fault in place of each that is malformed."""
    check_range(field, len(ids), 1, most)
    return [_caught(_checked_id, f"{field}[{row}]", own) for row, own in enumerate(ids)]


def parse_include(include: record_pb2.Include) -> Include:
    """What the answer carries besides ids."""
    return Include(include.caption, include.source_uri, include.metadata, include.vector)


def parse_page_size(page_size: int) -> int:
    """Most records in a page."""
    check_range("page_size", page_size, 0, MAX_READ_ITEMS)
    return page_size or DEFAULT_PAGE_SIZE


def status_messages(faults: Iterable[Fault]) -> list[status_pb2.Status]:
    """One status per item."""
    return [OK_STATUS if fault is None else fault.to_status() for fault in faults]


def record_message(record: Record, include: Include) -> record_pb2.Record:
    """A record with the parts that are asked for and there."""
    return record_pb2.Record(
        id=record.id,
        caption=record.caption if include.caption else None,
        source_uri=record.source_uri if include.source_uri else None,
        metadata_json=record.metadata_json if include.metadata else None,
    )


def vectors_message(vectors: np.ndarray, space: VectorSpace) -> VectorBatch:
    """Vectors (n, dimension), whose numbers are float16's, as answers carry them."""
    return encode_vectors(vectors, space.fingerprint, FLOAT16)


def records_message(
    ids: Sequence[str | ServiceError],
    asked: Sequence[str],
    found: Sequence[StoredRecord | None],
    space: VectorSpace,
    include: Include,
) -> record_pb2.GetRecordsResponse:
    """The answer to GetRecords: ``ids`` as parsed, ``asked`` as they came, ``found`` one per sound id."""
    waiting = iter(found)
    response = record_pb2.GetRecordsResponse()
    vectors = np.zeros((len(ids), space.dimension), dtype=np.float16) if include.vector else None
    for row, (own, raw) in enumerate(zip(ids, asked, strict=True)):
        stored = None if isinstance(own, ServiceError) else next(waiting)
        if stored is None:
            fault = (
                own if isinstance(own, ServiceError) else NotFound(f"there is no record {raw!r}", field=f"ids[{row}]")
            )
            response.records.add(id=raw)
            response.statuses.append(fault.to_status())
            continue
        response.records.append(record_message(stored.record, include))
        response.statuses.append(OK_STATUS)
        if vectors is not None and stored.vector is not None:
            vectors[row] = stored.vector
    if vectors is not None:
        response.vectors.CopyFrom(vectors_message(vectors, space))
    return response


def page_message(page: Page, spec: CollectionSpec, include: Include) -> record_pb2.ListRecordsResponse:
    """The answer to ListRecords."""
    response = record_pb2.ListRecordsResponse(
        records=[record_message(stored.record, include) for stored in page.records],
        next_page_token=write_page_token(spec.name, spec.create_time_ns, page.last_id),
    )
    vectors = [stored.vector for stored in page.records if stored.vector is not None]
    if include.vector:
        stacked = np.stack(vectors) if vectors else np.empty((0, spec.space.dimension), np.float16)
        response.vectors.CopyFrom(vectors_message(stacked, spec.space))
    return response


def _distinct(
    field: str, messages: Sequence[Source], parse: Callable[[str, Source], Parsed]
) -> list[Parsed | ServiceError]:
    """Each message parsed, a fault in place of each that breaks a rule or repeats an id before it."""
    first_row: dict[str, int] = {}
    items: list[Parsed | ServiceError] = []
    for row, message in enumerate(messages):
        own: str = message.id  # type: ignore[attr-defined]
        first = first_row.setdefault(own, row)
        if first == row:
            items.append(_caught(parse, f"{field}[{row}]", message))
        else:
            items.append(InvalidArgument(f"{own[:80]!r} is the id of {field}[{first}] too", field=f"{field}[{row}].id"))
    return items


def _caught(parse: Callable[[str, Source], Parsed], path: str, message: Source) -> Parsed | ServiceError:
    try:
        return parse(path, message)
    except ServiceError as error:
        return error


def _record(path: str, message: record_pb2.Record) -> Record:
    return Record(
        _checked_id(f"{path}.id", message.id),
        _checked_text(f"{path}.caption", message.caption, MAX_CAPTION_BYTES) or None,
        _checked_text(f"{path}.source_uri", message.source_uri, MAX_SOURCE_URI_BYTES) or None,
        _checked_metadata(path, message.metadata_json) or None,
    )


def _update(path: str, message: record_pb2.RecordUpdate) -> RecordUpdate:
    caption = _checked_text(f"{path}.caption", message.caption, MAX_CAPTION_BYTES)
    source_uri = _checked_text(f"{path}.source_uri", message.source_uri, MAX_SOURCE_URI_BYTES)
    metadata = _checked_metadata(path, message.metadata_json)
    return RecordUpdate(
        _checked_id(f"{path}.id", message.id),
        caption if message.HasField("caption") else None,
        source_uri if message.HasField("source_uri") else None,
        metadata if message.HasField("metadata_json") else None,
    )


def _checked_id(field: str, record_id: str) -> str:
    size = len(record_id.encode())
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidArgument(f"expected 1 to {MAX_ID_BYTES} bytes, not {size}", field=field)
    return record_id


def _checked_text(field: str, text: str, most_bytes: int) -> str:
    size = len(text.encode())
    if size > most_bytes:
        raise InvalidArgument(f"expected at most {most_bytes} bytes, not {size}", field=field)
    return text


def _checked_metadata(path: str, data: bytes) -> bytes:
    if data:
        try:
            check_metadata(data)
        except MetadataError as error:
            raise InvalidArgument(str(error), field=f"{path}.metadata_json") from error
    return data
