"""Every bad input: request faults fail the call, item faults fail alone, each with its field and both values."""

from collections.abc import Callable

import grpc
import numpy as np
import pytest
from eyebright.index.v1 import collection_pb2, record_pb2, search_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import encode_vectors
from eyebright.vectors.v1.vectors_pb2 import VectorBatch
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tests.integration.index_service.calls import (
    DIMENSION,
    EVERYTHING,
    FINGERPRINT,
    MIB,
    connected,
    get,
    random_vectors,
    search,
    search_request,
    upsert,
    upsert_request,
)
from tests.processes import RunningService

OTHER = "cd" * 32
INVALID = grpc.StatusCode.INVALID_ARGUMENT
EXISTS = grpc.StatusCode.ALREADY_EXISTS
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


def queries(count: int = 1) -> np.ndarray:
    return random_vectors(count)


def batch(**changes: object) -> VectorBatch:
    made = encode_vectors(queries(), FINGERPRINT)
    for field, value in changes.items():
        setattr(made, field, value)
    return made


def new(**changes: object) -> collection_pb2.CreateCollectionRequest:
    fields: dict[str, object] = {"name": "never-made", "dimension": 8, "fingerprint": FINGERPRINT} | changes
    return collection_pb2.CreateCollectionRequest(**fields)  # type: ignore[arg-type]


def upsert_with(name: str, vectors: VectorBatch, records: int = 1) -> record_pb2.UpsertRequest:
    ids = [record_pb2.Record(id=str(number)) for number in range(records)]
    return record_pb2.UpsertRequest(collection=name, records=ids, vectors=vectors)


Make = Callable[[str], Message]

REQUEST_FAULTS: list[tuple[str, str, Make, grpc.StatusCode, str]] = [
    ("name", "CreateCollection", lambda _: new(name="No Name"), INVALID, "name: expected 1 to 64 .*'No Name'"),
    ("long name", "CreateCollection", lambda _: new(name="x" * 65), INVALID, "name: expected 1 to 64"),
    ("taken", "CreateCollection", lambda name: new(name=name, dimension=0), EXISTS, "'{name}'"),
    ("no size", "CreateCollection", lambda _: new(dimension=0), INVALID, "dimension: expected 1 to 4,096, not 0"),
    ("large", "CreateCollection", lambda _: new(dimension=4097), INVALID, "dimension: .*4,096, not 4,097"),
    ("shards", "CreateCollection", lambda _: new(shard_count=257), INVALID, "shard_count: .*256, not 257"),
    ("metric", "CreateCollection", lambda _: new(metric=9), INVALID, "metric: .*not 9"),
    ("no print", "CreateCollection", lambda _: new(fingerprint=""), INVALID, "fingerprint: expected 64 .*not ''"),
    ("upper", "CreateCollection", lambda _: new(fingerprint="AB" * 32), INVALID, "fingerprint: expected 64"),
    ("unknown", "GetCollection", lambda _: collection_pb2.GetCollectionRequest(name="x"), NOT_FOUND, "'x'"),
    ("unknown", "DeleteCollection", lambda _: collection_pb2.DeleteCollectionRequest(name="x"), NOT_FOUND, "'x'"),
    ("unknown", "GetStats", lambda _: collection_pb2.GetStatsRequest(collection="x"), NOT_FOUND, "'x'"),
    ("unknown", "Upsert", lambda _: upsert_with("x", batch()), NOT_FOUND, "'x'"),
    ("unknown", "Search", lambda _: search_request("x", queries()), NOT_FOUND, "'x'"),
    ("unknown", "Delete", lambda _: record_pb2.DeleteRequest(collection="x", ids=["a"]), NOT_FOUND, "'x'"),
    ("unknown", "GetRecords", lambda _: record_pb2.GetRecordsRequest(collection="x", ids=["a"]), NOT_FOUND, "'x'"),
    ("unknown", "ListRecords", lambda _: record_pb2.ListRecordsRequest(collection="../x"), NOT_FOUND, "'../x'"),
    ("unknown", "UpdateRecords", lambda _: record_pb2.UpdateRecordsRequest(collection="x"), NOT_FOUND, "'x'"),
    ("none", "Upsert", lambda name: upsert_with(name, batch(), 0), INVALID, "records: expected 1 to 10,000, not 0"),
    ("many", "Upsert", lambda name: upsert_with(name, batch(), 10_001), INVALID, "records: .*10,000, not 10,001"),
    ("count", "Upsert", lambda name: upsert_with(name, batch(), 2), INVALID, "vectors.count: expected 2 .*not 1"),
    (
        "dimension", "Upsert", lambda name: upsert_with(name, encode_vectors(np.ones((1, 9)), FINGERPRINT)),
        INVALID, "vectors.dimension: expected 8 dimensions, not 9",
    ),
    (
        "print", "Upsert", lambda name: upsert_with(name, batch(fingerprint=OTHER)),
        PRECONDITION, f"vectors.fingerprint: .*{FINGERPRINT}, not {OTHER}",
    ),
    ("no print", "Upsert", lambda name: upsert_with(name, batch(fingerprint="")), INVALID, f"{FINGERPRINT}.*not none"),
    ("bytes", "Upsert", lambda name: upsert_with(name, batch(data=b"xyz")), INVALID, "vectors.data: .*32 bytes.*not 3"),
    ("type", "Upsert", lambda name: upsert_with(name, batch(element_type=0)), INVALID, "vectors.element_type: .*not 0"),
    ("no vectors", "Upsert", lambda name: upsert_with(name, VectorBatch()), INVALID, "vectors.fingerprint: .*not none"),
    ("none", "Delete", lambda name: record_pb2.DeleteRequest(collection=name), INVALID, "ids: .*10,000, not 0"),
    (
        "many", "Delete", lambda name: record_pb2.DeleteRequest(collection=name, ids=["a"] * 10_001),
        INVALID, "ids: .*10,000, not 10,001",
    ),
    ("none", "GetRecords", lambda name: record_pb2.GetRecordsRequest(collection=name), INVALID, "ids: .*1,000, not 0"),
    (
        "many", "GetRecords", lambda name: record_pb2.GetRecordsRequest(collection=name, ids=["a"] * 1_001),
        INVALID, "ids: .*1,000, not 1,001",
    ),
    ("none", "UpdateRecords", lambda name: record_pb2.UpdateRecordsRequest(collection=name), INVALID, "updates: .* 0"),
    (
        "size", "ListRecords", lambda name: record_pb2.ListRecordsRequest(collection=name, page_size=1_001),
        INVALID, "page_size: .*1,000, not 1,001",
    ),
    (
        "token", "ListRecords", lambda name: record_pb2.ListRecordsRequest(collection=name, page_token="x"),
        INVALID, "page_token: .*not 'x'",
    ),
    ("k", "Search", lambda name: search_request(name, queries(), k=0), INVALID, "k: expected 1 to 100,000, not 0"),
    ("k", "Search", lambda name: search_request(name, queries(), k=100_001), INVALID, "k: .*100,000, not 100,001"),
    (
        "offset", "Search", lambda name: search_request(name, queries(), k=1_000, offset=99_001),
        INVALID, r"offset: .*100,000, not 99,001 \+ 1,000",
    ),
    (
        "product", "Search", lambda name: search_request(name, queries(11), k=100_000),
        INVALID, r"k: .*1,000,000, not 11 \* 100,000",
    ),
    (
        "product", "Search", lambda name: search_request(name, ["a"] * 11, k=100_000),
        INVALID, r"k: .*1,000,000, not 11 \* 100,000",
    ),
    ("queries", "Search", lambda name: search_request(name, queries(1_001)), INVALID, "vectors.count: .*not 1,001"),
    ("queries", "Search", lambda name: search_request(name, ["a"] * 1_001), INVALID, "records.ids: .*not 1,001"),
    ("no query", "Search", lambda name: search_request(name, []), INVALID, "records.ids: .*not 0"),
    ("no query", "Search", lambda name: search_request(name, random_vectors(0)), INVALID, "vectors.count: .*not 0"),
    ("nothing", "Search", lambda name: search_pb2.SearchRequest(collection=name, k=1), INVALID, "queries: .*neither"),
    (
        "include", "Search", lambda name: search_request(name, queries(), k=1_001, include=EVERYTHING),
        INVALID, "include: .*1,000; k is 1,001",
    ),
    ("nan", "Search", lambda name: search_request(name, queries(), min_score=np.nan), INVALID, "min_score: .*NaN"),
    (
        "modality", "Search", lambda name: search_request(name, queries(), modality=0),
        INVALID, "modality: expected MODALITY_TEXT or MODALITY_IMAGE.*not MODALITY_UNSPECIFIED",
    ),
    (
        "modality", "Search", lambda name: search_request(name, queries(), modality=3),
        INVALID, "modality: .*where the queries are vectors, not MODALITY_RECORD",
    ),
    (
        "modality", "Search", lambda name: search_request(name, ["a"], modality=1),
        INVALID, "modality: expected MODALITY_RECORD.*not MODALITY_TEXT",
    ),
    ("modality", "Search", lambda name: search_request(name, queries(), modality=77), INVALID, "modality: .*not 77"),
    (
        "dimension", "Search", lambda name: search_request(name, np.ones((1, 7), np.float32)),
        INVALID, "vectors.dimension: expected 8 dimensions, not 7",
    ),
    (
        "print", "Search", lambda name: search_request(name, queries(), vectors=batch(fingerprint=OTHER)),
        PRECONDITION, f"{FINGERPRINT}, not {OTHER}",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "make", "code", "message"),
    [pytest.param(*rest, id=f"{rest[0]}: {case}") for case, *rest in REQUEST_FAULTS],
)
def test_a_request_fault_fails_the_call(
    stub: IndexServiceStub, name: str, method: str, make: Make, code: grpc.StatusCode, message: str
) -> None:
    with pytest.raises(grpc.RpcError, match=message.replace("{name}", name)) as raised:
        getattr(stub, method)(make(name))
    assert raised.value.code() is code
    assert "\n" not in str(raised.value.details())
    assert upsert(stub, name, ["still healthy"], queries()) == [0]


def nested(levels: int) -> bytes:
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


ITEM_FAULTS = {
    "no id": (record_pb2.Record(), "records[1].id", "expected 1 to 512 bytes, not 0"),
    "id of 10 KB": (record_pb2.Record(id="x" * 10_240), "records[1].id", "expected 1 to 512 bytes, not 10240"),
    "id in bytes": (record_pb2.Record(id="é" * 257), "records[1].id", "expected 1 to 512 bytes, not 514"),
    "twice": (record_pb2.Record(id="first"), "records[1].id", "'first' is the id of records[0] too"),
    "caption": (
        record_pb2.Record(id="x", caption="c" * 1_048_576), "records[1].caption", "at most 32768 bytes, not 1048576",
    ),
    "source": (
        record_pb2.Record(id="x", source_uri="u" * 4_097), "records[1].source_uri", "at most 4096 bytes, not 4097",
    ),
    "large metadata": (
        record_pb2.Record(id="x", metadata_json=b'{"a":"' + b"x" * 70_000 + b'"}'),
        "records[1].metadata_json", "at most 65536 bytes, not 70008",
    ),
    "deep metadata": (
        record_pb2.Record(id="x", metadata_json=nested(1_000)),
        "records[1].metadata_json", "at most 32 levels, not 1000",
    ),
    "very deep metadata": (
        record_pb2.Record(id="x", metadata_json=nested(100_000)), "records[1].metadata_json", "at most 65536 bytes",
    ),
    "NaN in metadata": (record_pb2.Record(id="x", metadata_json=b'{"a":NaN}'), "records[1].metadata_json", "not NaN"),
    "long integer": (
        record_pb2.Record(id="x", metadata_json=b'{"a":' + b"9" * 4_301 + b"}"),
        "records[1].metadata_json", "integers of at most 4300 digits, not 4301",
    ),
    "a list": (record_pb2.Record(id="x", metadata_json=b"[1]"), "records[1].metadata_json", "not a list"),
    "no JSON": (record_pb2.Record(id="x", metadata_json=b"{"), "records[1].metadata_json", "expected a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize(("record", "field", "message"), ITEM_FAULTS.values(), ids=ITEM_FAULTS)
def test_an_item_fault_fails_alone(
    stub: IndexServiceStub, name: str, record: record_pb2.Record, field: str, message: str
) -> None:
    rows = [record_pb2.Record(id="first"), record, record_pb2.Record(id="last")]
    vectors = encode_vectors(queries(3), FINGERPRINT)
    response = stub.Upsert(record_pb2.UpsertRequest(collection=name, records=rows, vectors=vectors))
    assert [status.code for status in response.statuses] == [0, 3, 0]
    assert_fault(response.statuses[1], field, message)
    assert {own.id for own in stub.ListRecords(record_pb2.ListRecordsRequest(collection=name)).records} == {
        "first",
        "last",
    }


def assert_fault(status: status_pb2.Status, field: str, message: str) -> None:
    assert status.message.startswith(f"{field}: ")
    assert message in status.message
    assert len(status.message) < 300
    details = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(details)
    assert [violation.field for violation in details.field_violations] == [field]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0], ids=str)
def test_a_bad_vector_fails_alone(stub: IndexServiceStub, name: str, bad: float) -> None:
    vectors = queries(3)
    vectors[1] = bad
    response = stub.Upsert(upsert_request(name, ["a", "b", "c"], vectors))
    assert [status.code for status in response.statuses] == [0, 3, 0]
    assert_fault(response.statuses[1], "vectors[1]", "expected")
    first, second, third = search(stub, name, vectors, k=5).results
    assert_fault(second.status, "vectors[1]", "expected")
    assert set(first.ids) == set(third.ids) == {"a", "c"}


def test_a_bad_update_fails_alone(stub: IndexServiceStub, name: str) -> None:
    upsert(stub, name, ["a"], queries())
    updates = [
        record_pb2.RecordUpdate(id="a", caption="fine"),
        record_pb2.RecordUpdate(id="b" * 513),
        record_pb2.RecordUpdate(id="c", metadata_json=b"1"),
        record_pb2.RecordUpdate(id="nobody"),
    ]
    response = stub.UpdateRecords(record_pb2.UpdateRecordsRequest(collection=name, updates=updates))
    assert [status.code for status in response.statuses] == [0, 3, 3, 5]
    assert_fault(response.statuses[1], "updates[1].id", "not 513")
    assert_fault(response.statuses[2], "updates[2].metadata_json", "not a number")
    assert_fault(response.statuses[3], "updates[3].id", "holds no record 'nobody'")


def test_unknown_and_malformed_ids_fail_alone(stub: IndexServiceStub, name: str) -> None:
    upsert(stub, name, ["a", "b"], queries(2))
    read = get(stub, name, ["a", "", "nobody"])
    assert [status.code for status in read.statuses] == [0, 3, 5]
    assert read.vectors.count == 3
    found = search(stub, name, ["a", "nobody", "x" * 513], k=5).results
    assert [result.status.code for result in found] == [0, 5, 3]
    assert list(found[0].ids) == ["b"]
    assert_fault(found[1].status, "records.ids[1]", "holds no record 'nobody'")


def test_a_message_that_is_too_large_is_refused_and_the_service_lives(
    index: RunningService, stub: IndexServiceStub, name: str
) -> None:
    huge = upsert_with(name, VectorBatch(count=1, dimension=DIMENSION, data=bytes(64 * MIB)))
    with connected(index.address, most_sent_bytes=100 * MIB) as unbounded:
        with pytest.raises(grpc.RpcError, match="larger than max") as raised:
            unbounded.Upsert(huge)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError, match="larger than max") as raised:
            list(unbounded.UpsertStream(iter([record_pb2.UpsertStreamRequest(upsert=huge)])))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert upsert(stub, name, ["still healthy"], queries()) == [0]


def test_an_answer_that_would_be_too_large_is_refused_before_it_is_made(stub: IndexServiceStub, name: str) -> None:
    """Were it made, it would have 6 GB."""
    request = upsert_request(name, [f"{number}" for number in range(100)], queries(100))
    for record in request.records:
        record.metadata_json = b'{"x":"' + b"y" * 60_000 + b'"}'
    assert not any(status.code for status in stub.Upsert(request).statuses)
    with pytest.raises(grpc.RpcError, match="at most 67,108,864 are sent") as raised:
        search(stub, name, queries(1_000), k=1_000, include=EVERYTHING)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(search(stub, name, queries(5), k=1_000, include=EVERYTHING).results) == 5
