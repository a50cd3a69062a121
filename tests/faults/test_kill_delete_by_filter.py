"""kill -9 in the middle of a delete by filter: each record is wholly there or wholly gone, the others are all there."""

import os
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from eyebright.index.v1 import collection_pb2, filter_pb2, record_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import decode_vectors, encode_vectors
from google.protobuf import text_format

from tests.integration.index_service.calls import EVERYTHING, FINGERPRINT, connected, create, random_vectors, search
from tests.processes import start_service

NAME = "halved"
DIMENSION = 16
ROWS = 12_000
FEWEST_KILLS = 5
MOST_KILLS = 20
"""Beside other work a kill may come when all is deleted already; then there is another."""

VECTORS = random_vectors(ROWS, DIMENSION)
ODD = text_format.Parse(
    'comparison { field { metadata { keys: "odd" } } operator: COMPARISON_OPERATOR_EQUAL value { bool_value: true } }',
    filter_pb2.Filter(),
)


def record_for(row: int) -> record_pb2.Record:
    odd = b"true" if row % 2 else b"false"
    return record_pb2.Record(id=f"{row:05d}", caption=f"picture {row}", metadata_json=b'{"odd": %s}' % odd)


def write(stub: IndexServiceStub, rows: list[int]) -> None:
    for begin in range(0, len(rows), 3_000):
        piece = rows[begin : begin + 3_000]
        request = record_pb2.UpsertRequest(
            collection=NAME,
            records=[record_for(row) for row in piece],
            vectors=encode_vectors(VECTORS[piece], FINGERPRINT),
        )
        assert not any(status.code for status in stub.Upsert(request).statuses)


def count(stub: IndexServiceStub) -> int:
    stats: collection_pb2.GetStatsResponse = stub.GetStats(collection_pb2.GetStatsRequest(collection=NAME))
    return stats.record_count


def kill_during_delete(address: str, share: float, kill: Callable[[], None]) -> None:
    """Begin to delete, and kill the server once this share of the odd records is seen to be gone."""
    with connected(address) as stub, ThreadPoolExecutor(1) as caller:
        enough = ROWS - max(1, int(share * ROWS / 2))
        deleting = caller.submit(stub.Delete, record_pb2.DeleteRequest(collection=NAME, filter=ODD))
        while count(stub) > enough and not deleting.done():
            pass
        kill()
        error = deleting.exception()
        assert error is None or (isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE)


def check(stub: IndexServiceStub) -> list[int]:
    """Every record is whole, in GetRecords and Search alike, or gone. Returns the odd ones that are left."""
    [everything] = search(stub, NAME, np.ones((1, DIMENSION), np.float32), k=ROWS).results
    present = sorted(everything.ids)
    assert len(set(present)) == len(present) == count(stub)
    assert [own for own in present if int(own) % 2 == 0] == [f"{row:05d}" for row in range(0, ROWS, 2)]
    for begin in range(0, ROWS, 1_000):
        ids = [f"{row:05d}" for row in range(begin, begin + 1_000)]
        response = stub.GetRecords(record_pb2.GetRecordsRequest(collection=NAME, ids=ids, include=EVERYTHING))
        found = [status.code == 0 for status in response.statuses]
        assert [own for own, there in zip(ids, found, strict=True) if there] == [
            own for own in present if begin <= int(own) < begin + 1_000
        ]
        unit = VECTORS[begin : begin + 1_000] / np.linalg.norm(VECTORS[begin : begin + 1_000], axis=1, keepdims=True)
        assert np.allclose(decode_vectors(response.vectors)[found], unit[found], atol=1e-3)
        for row, record, there in zip(range(begin, begin + 1_000), response.records, found, strict=True):
            assert not there or record == record_for(row)
    [odd] = search(stub, NAME, np.ones((1, DIMENSION), np.float32), k=ROWS, filter=ODD).results
    assert sorted(odd.ids) == [own for own in present if int(own) % 2]
    return [int(own) for own in odd.ids]


@pytest.mark.timeout(240)
def test_a_delete_by_filter_survives_kills(tmp_path: Path) -> None:
    seed = int(os.environ.get("EYEBRIGHT_DELETE_SEED") or random.randrange(2**32))
    sys.stdout.write(f"EYEBRIGHT_DELETE_SEED={seed}\n")
    arguments = ("--data-folder", str(tmp_path / "data"), "--log-level", "error", "--seal-rows", "1024")
    left = list(range(1, ROWS, 2))
    half_done = 0
    shares = random.Random(seed)
    for number in range(MOST_KILLS):
        if number >= FEWEST_KILLS and half_done:
            break
        service = start_service("index_service", tmp_path, *arguments)
        try:
            with connected(service.address) as stub:
                if number == 0:
                    create(stub, NAME, DIMENSION, shard_count=2)
                    write(stub, list(range(ROWS)))
                else:
                    left = check(stub)
                    half_done += 0 < len(left) < ROWS // 2
                    write(stub, sorted(set(range(1, ROWS, 2)) - set(left)))
            kill_during_delete(service.address, shares.uniform(0, 0.7), service.kill)
        finally:
            service.kill()
    assert half_done, "no kill came in the middle"
    service = start_service("index_service", tmp_path, *arguments)
    try:
        with connected(service.address) as stub:
            left = check(stub)
            assert stub.Delete(record_pb2.DeleteRequest(collection=NAME, filter=ODD)).deleted_count == len(left)
            assert check(stub) == []
    finally:
        service.kill()
