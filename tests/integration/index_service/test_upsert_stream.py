"""The stream of writes: acknowledged in order, durable, and ended by a request fault."""

from collections.abc import Iterator
from queue import SimpleQueue

import grpc
import pytest
from eyebright.index.v1 import record_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub

from tests.integration.index_service.calls import get, random_vectors, search, upsert_request


def batches(name: str, count: int, size: int = 50) -> Iterator[record_pb2.UpsertStreamRequest]:
    for number in range(count):
        ids = [f"{number * size + row:05d}" for row in range(size)]
        upsert = upsert_request(name, ids, random_vectors(size, seed=number))
        yield record_pb2.UpsertStreamRequest(batch_id=1_000 + number, upsert=upsert)


def test_batches_are_acknowledged_in_order_and_written(stub: IndexServiceStub, name: str) -> None:
    answers = list(stub.UpsertStream(batches(name, 30)))
    assert [answer.batch_id for answer in answers] == list(range(1_000, 1_030))
    assert all(len(answer.statuses) == 50 and not any(s.code for s in answer.statuses) for answer in answers)
    [result] = search(stub, name, random_vectors(1), k=2_000).results
    assert len(result.ids) == 1_500


def test_each_batch_is_acknowledged_without_waiting_for_the_next(stub: IndexServiceStub, name: str) -> None:
    outgoing: SimpleQueue[record_pb2.UpsertStreamRequest | None] = SimpleQueue()
    answers = stub.UpsertStream(iter(outgoing.get, None))
    for number, batch in enumerate(batches(name, 3)):
        outgoing.put(batch)
        assert next(answers).batch_id == 1_000 + number
        assert not any(status.code for status in get(stub, name, [batch.upsert.records[0].id]).statuses)
    outgoing.put(None)
    assert list(answers) == []


def test_of_two_batches_with_one_id_the_later_wins(stub: IndexServiceStub, name: str) -> None:
    requests = [
        record_pb2.UpsertStreamRequest(upsert=upsert_request(name, ["a"], random_vectors(1), caption=f"{number}"))
        for number in range(40)
    ]
    assert len(list(stub.UpsertStream(iter(requests)))) == 40
    assert get(stub, name, ["a"]).records[0].caption == "39"


def test_a_request_fault_ends_the_stream_after_what_came_before(stub: IndexServiceStub, name: str) -> None:
    requests = list(batches(name, 4))
    requests[2].upsert.collection = "nowhere"
    received: list[int] = []
    with pytest.raises(grpc.RpcError) as raised:
        received.extend(answer.batch_id for answer in stub.UpsertStream(iter(requests)))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    ids = [batch.upsert.records[0].id for batch in requests]
    assert [status.code for status in get(stub, name, ids).statuses] == [0, 0, 5, 5]


def test_item_faults_do_not_end_the_stream(stub: IndexServiceStub, name: str) -> None:
    requests = list(batches(name, 2))
    requests[0].upsert.records[3].id = ""
    first, second = stub.UpsertStream(iter(requests))
    assert [row for row, status in enumerate(first.statuses) if status.code] == [3]
    assert first.statuses[3].message.startswith("records[3].id: expected 1 to 512 bytes, not 0")
    assert not any(status.code for status in second.statuses)


def test_an_empty_stream_is_no_fault(stub: IndexServiceStub) -> None:
    assert list(stub.UpsertStream(iter([]))) == []


def test_a_caller_that_goes_away_harms_nobody(stub: IndexServiceStub, name: str) -> None:
    answers = stub.UpsertStream(batches(name, 1_000))
    assert next(answers).batch_id == 1_000
    answers.cancel()
    assert len(list(stub.UpsertStream(batches(name, 2)))) == 2
