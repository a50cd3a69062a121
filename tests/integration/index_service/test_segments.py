"""A real service moves vectors into segments by itself, says how it answers, and maps them again after a restart."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from eyebright.index.v1 import collection_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub

from tests.integration.index_service.calls import connected, create, search, upsert
from tests.processes import running_service

NAME = "sealed"
DIMENSION = 16
ROWS = 60_000


def wait_for(
    stub: IndexServiceStub, name: str, state: Callable[[collection_pb2.ShardStats], bool]
) -> collection_pb2.GetStatsResponse:
    """Wait until every shard is in some state."""
    deadline = time.monotonic() + 60
    while True:
        stats: collection_pb2.GetStatsResponse = stub.GetStats(collection_pb2.GetStatsRequest(collection=name))
        if all(state(shard) for shard in stats.shards):
            return stats
        assert time.monotonic() < deadline, stats
        time.sleep(0.05)


def test_large_collections_are_searched_by_codes_and_exactly_on_request(tmp_path: Path) -> None:
    vectors = np.random.default_rng(21).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    queries = np.random.default_rng(22).standard_normal((20, DIMENSION)).astype(np.float32)
    arguments = ("--data-folder", str(tmp_path / "data"), "--seal-rows", "4096")
    with running_service("index_service", tmp_path, *arguments) as service, connected(service.address) as stub:
        create(stub, NAME, DIMENSION, shard_count=1)
        for begin in range(0, ROWS, 10_000):
            ids = [f"{row:05d}" for row in range(begin, begin + 10_000)]
            assert set(upsert(stub, NAME, ids, vectors[begin : begin + 10_000])) == {0}
        stats = wait_for(stub, NAME, lambda shard: shard.segment_count == 1 and shard.memtable_rows < ROWS / 10)
        assert stats.record_count == ROWS
        exact = search(stub, NAME, queries, k=10, exact=True)
        assert (exact.evidence.exact, exact.evidence.recipe, exact.evidence.estimated_recall) == (True, "exact", 1.0)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        right = np.argsort(-(queries @ unit.T), axis=1)[:, :10]
        shared = [
            len({f"{row:05d}" for row in own} & set(result.ids))
            for own, result in zip(right, exact.results, strict=True)
        ]
        assert sum(shared) >= 198, "all but what float16 reorders"
        quick = search(stub, NAME, queries, k=10)
        assert (quick.evidence.exact, quick.evidence.recipe) == (False, "fastscan")
        assert not quick.evidence.HasField("estimated_recall")
        both = zip(exact.results, quick.results, strict=True)
        assert sum(len(set(one.ids) & set(other.ids)) for one, other in both) >= 0.95 * 200
    with running_service("index_service", tmp_path, *arguments) as service, connected(service.address) as stub:
        assert stub.GetStats(collection_pb2.GetStatsRequest(collection=NAME)).shards[0].segment_count >= 1
        again = search(stub, NAME, queries, k=10, exact=True)
        assert [list(result.ids) for result in again.results] == [list(result.ids) for result in exact.results]
        assert [list(result.scores) for result in again.results] == [list(result.scores) for result in exact.results]
