"""A disk that fills up: writes are refused clearly, what was acknowledged stays readable, and room heals it."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from eyebright.index.v1 import collection_pb2, record_pb2, snapshot_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub

from tests.integration.index_service.calls import (
    FINGERPRINT,
    connected,
    create,
    random_vectors,
    search,
    upsert,
    upsert_request,
)
from tests.processes import start_service

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system can't be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(stub: IndexServiceStub) -> tuple[set[str], list[str]]:
    """Write until every record of a batch is refused; the ids acknowledged, and the messages of the refusals."""
    acknowledged: set[str] = set()
    messages: list[str] = []
    for batch in range(1_000):
        ids = [f"{batch:03d}-{row}" for row in range(20)]
        request = upsert_request("pets", ids, random_vectors(20, seed=batch), caption="c" * 2_000)
        statuses = stub.Upsert(request).statuses
        acknowledged |= {own for own, status in zip(ids, statuses, strict=True) if status.code == 0}
        refused = [status for status in statuses if status.code]
        assert all(status.code == FULL for status in refused), refused
        messages += [status.message for status in refused]
        if len(refused) == len(ids):
            return acknowledged, messages
    raise AssertionError("the disk did not fill up")


def found(stub: IndexServiceStub) -> set[str]:
    """The ids that a search finds, which GetRecords must find too."""
    [result] = search(stub, "pets", np.ones((1, 8), np.float32), k=100_000).results
    for begin in range(0, len(result.ids), 1_000):
        ids = result.ids[begin : begin + 1_000]
        include = record_pb2.Include(caption=True)
        read = stub.GetRecords(record_pb2.GetRecordsRequest(collection="pets", ids=ids, include=include))
        assert all(record.caption == "c" * 2_000 for record in read.records)
    return set(result.ids)


def test_a_full_disk_refuses_writes_keeps_reading_and_heals(small_disk: Path, tmp_path: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 * 1024 * 1024))
    data = ("--data-folder", str(small_disk / "data"))
    service = start_service("index_service", tmp_path, *data)
    try:
        with connected(service.address) as stub:
            create(stub, "pets", shard_count=2)
            acknowledged, messages = fill(stub)
            assert acknowledged
            names = tuple(f"shard {number} of collection 'pets'" for number in range(2))
            assert all(message.startswith(names) for message in messages)
            assert all("its disk is full" in message for message in messages)
            assert found(stub) == acknowledged
            deleted = stub.Delete(record_pb2.DeleteRequest(collection="pets", ids=sorted(acknowledged)))
            assert all(status.code in (0, FULL) for status in deleted.statuses)
            survivors = {
                own for own, status in zip(sorted(acknowledged), deleted.statuses, strict=True) if status.code == FULL
            }
            assert found(stub) == survivors
            with pytest.raises(grpc.RpcError) as raised:
                stub.CreateCollection(
                    collection_pb2.CreateCollectionRequest(
                        name="more", dimension=8, fingerprint=FINGERPRINT, shard_count=250
                    )
                )
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            ballast.unlink()
            ids = [f"after-{number}" for number in range(20)]
            request = upsert_request("pets", ids, random_vectors(20), caption="c" * 2_000)
            assert not any(status.code for status in stub.Upsert(request).statuses)
            assert found(stub) == survivors | set(ids)
            create(stub, "more", shard_count=1)
            assert upsert(stub, "more", ["a"], random_vectors(1)) == [0]
        service.kill()
        service = start_service("index_service", tmp_path, *data)
        with connected(service.address) as stub:
            assert found(stub) == survivors | set(ids)
            assert [one.name for one in stub.ListCollections(collection_pb2.ListCollectionsRequest()).collections] == [
                "more",
                "pets",
            ]
    finally:
        service.kill()


def compaction_failures(log: Path) -> list[float]:
    """How long compaction waited after each failure, in seconds."""
    lines = (json.loads(line) for line in log.read_text("utf-8").splitlines() if line.startswith("{"))
    return [line["next_try_seconds"] for line in lines if line["message"] == "compaction failed"]


def test_compaction_and_copies_without_room_harm_nothing_and_go_on_later(small_disk: Path, tmp_path: Path) -> None:
    """What is left is enough for the last 56 records, not for a segment of all 256 or a copy of them."""
    data = ("--data-folder", str(small_disk / "data"), "--snapshot-urls", str(small_disk / "snapshots"))
    service = start_service("index_service", tmp_path, *data, "--seal-rows", "256")
    vectors, ids = random_vectors(256, 512), [f"{row}" for row in range(256)]
    try:
        with connected(service.address) as stub:
            create(stub, "pets", 512, shard_count=1)
            assert not any(upsert(stub, "pets", ids[:200], vectors[:200]))
            ballast = small_disk / "ballast"
            ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 200_000))
            assert not any(upsert(stub, "pets", ids[200:], vectors[200:]))
            wait_for(lambda: len(compaction_failures(service.log)) >= 2)
            assert compaction_failures(service.log)[:2] == [1.0, 2.0]
            with pytest.raises(grpc.RpcError) as raised:
                list(stub.CreateSnapshot(snapshot_request(small_disk)))
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            for _ in range(2):
                results = search(stub, "pets", vectors, k=1).results
                assert [list(result.ids) for result in results] == [[own] for own in ids]
                ballast.unlink(missing_ok=True)
                wait_for(lambda: stats(stub).segment_count == 1)
            list(stub.CreateSnapshot(snapshot_request(small_disk)))
    finally:
        service.kill()


def snapshot_request(disk: Path) -> snapshot_pb2.CreateSnapshotRequest:
    return snapshot_pb2.CreateSnapshotRequest(collection="pets", url=str(disk / "snapshots" / "one"))


def stats(stub: IndexServiceStub) -> collection_pb2.ShardStats:
    answer: collection_pb2.GetStatsResponse = stub.GetStats(collection_pb2.GetStatsRequest(collection="pets"))
    return answer.shards[0]


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
