"""Snapshots over gRPC: what they hold while writes go on, where they can be restored, and what is refused."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from eyebright.index.v1 import collection_pb2, record_pb2, snapshot_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import encode_vectors

from index_service.collection import shard_number
from tests.integration.index_service.calls import (
    EVERYTHING,
    FINGERPRINT,
    connected,
    create,
    random_vectors,
    search,
    upsert,
    upsert_request,
)
from tests.processes import RunningService, running_service

SHARDS = 3
PER_BATCH = 40
TICKS = {
    shard: next(f"tick{number}" for number in range(1_000) if shard_number(f"tick{number}", SHARDS) == shard)
    for shard in range(SHARDS)
}
"""For each shard a record that every batch replaces."""


@pytest.fixture
def place(index: RunningService) -> Path:
    """Where the session's service may keep snapshots."""
    return index.log.parent / "snapshots"


def create_snapshot(stub: IndexServiceStub, name: str, url: str | Path) -> list[snapshot_pb2.CreateSnapshotResponse]:
    return list(stub.CreateSnapshot(snapshot_pb2.CreateSnapshotRequest(collection=name, url=str(url))))


def restore_snapshot(
    stub: IndexServiceStub, url: str | Path, name: str = "", fingerprint: str = ""
) -> list[snapshot_pb2.RestoreSnapshotResponse]:
    request = snapshot_pb2.RestoreSnapshotRequest(url=str(url), collection=name, expected_fingerprint=fingerprint)
    return list(stub.RestoreSnapshot(request))


def everything(stub: IndexServiceStub, name: str) -> dict[str, record_pb2.Record]:
    found: dict[str, record_pb2.Record] = {}
    token = ""
    while True:
        request = record_pb2.ListRecordsRequest(
            collection=name, page_size=1_000, page_token=token, include=record_pb2.Include(caption=True)
        )
        page = stub.ListRecords(request)
        found |= {record.id: record for record in page.records}
        token = page.next_page_token
        if not token:
            return found


class Writer:
    """Streams batches to a collection until told to stop; each has new ids, and replaces the ticks of all shards."""

    def __init__(self, stub: IndexServiceStub, name: str) -> None:
        self._stub = stub
        self._name = name
        self._changed = threading.Condition()
        self._stopping = False
        self.acknowledged = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait_for(self, acknowledged: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.acknowledged >= acknowledged, timeout=60)

    def wait_for_segments(self) -> None:
        """Go on writing until every shard has sealed."""
        request = collection_pb2.GetStatsRequest(collection=self._name)
        while not all(shard.segment_count for shard in self._stub.GetStats(request).shards):
            self.wait_for(self.acknowledged + 1)

    def stop(self) -> None:
        self._stopping = True
        self._thread.join(60)

    def _requests(self) -> Iterator[record_pb2.UpsertStreamRequest]:
        batch = 0
        while not self._stopping:
            self.wait_for(batch - 8)
            ids = [*(f"{batch:05d}-{row:02d}" for row in range(PER_BATCH)), *TICKS.values()]
            request = upsert_request(self._name, ids, random_vectors(len(ids), seed=batch), caption=str(batch))
            yield record_pb2.UpsertStreamRequest(batch_id=batch, upsert=request)
            batch += 1

    def _run(self) -> None:
        for response in self._stub.UpsertStream(self._requests()):
            assert not any(status.code for status in response.statuses)
            with self._changed:
                self.acknowledged = response.batch_id + 1
                self._changed.notify_all()


def test_a_snapshot_among_writes_holds_a_prefix_of_each_shards_writes(tmp_path: Path) -> None:
    arguments = ("--data-folder", str(tmp_path / "data"), "--snapshot-urls", str(tmp_path), "--seal-rows", "256")
    with running_service("index_service", tmp_path, *arguments) as service, connected(service.address) as stub:
        create(stub, "busy", shard_count=SHARDS)
        writer = Writer(stub, "busy")
        try:
            writer.wait_for_segments()
            for round_number in range(2):
                writer.wait_for(writer.acknowledged + 30)
                before = writer.acknowledged
                *_, last = create_snapshot(stub, "busy", tmp_path / f"s{round_number}")
                after = writer.acknowledged
                writer.wait_for(after + 10)
                restore_snapshot(stub, tmp_path / f"s{round_number}", f"r{round_number}")
                check_prefixes(stub, f"r{round_number}", before, last.snapshot)
        finally:
            writer.stop()
        assert list(tmp_path.glob("s*/files-*/shard-*/segments/*")), "nothing was sealed"


def check_prefixes(
    stub: IndexServiceStub, name: str, acknowledged_before: int, snapshot: snapshot_pb2.Snapshot
) -> None:
    held = everything(stub, name)
    assert len(held) == snapshot.record_count
    for shard in range(SHARDS):
        own = {record_id for record_id in held if shard_number(record_id, SHARDS) == shard}
        batches = int(held[TICKS[shard]].caption) + 1
        assert batches >= acknowledged_before
        prefix = {
            record_id
            for batch in range(batches)
            for record_id in (f"{batch:05d}-{row:02d}" for row in range(PER_BATCH))
            if shard_number(record_id, SHARDS) == shard
        }
        assert own == prefix | {TICKS[shard]}
        assert (snapshot.shards[shard].applied_sequence, snapshot.shards[shard].record_count) == (batches, len(own))
    [result] = search(stub, name, random_vectors(1), k=100_000).results
    assert set(result.ids) == set(held), "what is read can be found"


@pytest.mark.parametrize(
    ("name", "metric"),
    [("moved-cosine", collection_pb2.METRIC_COSINE), ("moved-l2", collection_pb2.METRIC_L2)],
    ids=["cosine", "l2"],
)
def test_a_second_server_answers_the_same_to_the_last_digit(
    stub: IndexServiceStub, place: Path, tmp_path: Path, name: str, metric: collection_pb2.Metric
) -> None:
    create(stub, name, metric=metric)
    ids = [f"{number:04d}" for number in range(3_000)]
    vectors = random_vectors(3_000)
    records = [
        record_pb2.Record(
            id=own, caption=f"caption {own}", source_uri=f"/{own}.png", metadata_json=b'{"id":"%s"}' % own.encode()
        )
        for own in ids
    ]
    stub.Upsert(
        record_pb2.UpsertRequest(collection=name, records=records, vectors=encode_vectors(vectors, FINGERPRINT))
    )
    upsert(stub, name, ids[:100], vectors[100:200])
    stub.Delete(record_pb2.DeleteRequest(collection=name, ids=ids[500:600]))
    first, *_, last = create_snapshot(stub, name, place / name)
    assert first.progress.phase in (snapshot_pb2.SNAPSHOT_PHASE_WAITING, snapshot_pb2.SNAPSHOT_PHASE_COPYING)
    assert last.progress.phase == snapshot_pb2.SNAPSHOT_PHASE_DONE
    assert last.progress.bytes_done == last.progress.bytes_total == last.snapshot.bytes
    assert (last.snapshot.collection, last.snapshot.record_count, last.snapshot.shard_count) == (name, 2_900, 3)
    assert abs(last.snapshot.create_time.seconds - time.time()) < 60
    queries = random_vectors(50, seed=9)
    with (
        running_service(
            "index_service", tmp_path, "--data-folder", str(tmp_path / "data"), "--snapshot-urls", f"file://{place}"
        ) as second,
        connected(second.address) as other,
    ):
        *_, done = restore_snapshot(other, f"file://{place}/{name}", fingerprint=FINGERPRINT)
        assert done.snapshot.shards == last.snapshot.shards
        original = stub.GetCollection(collection_pb2.GetCollectionRequest(name=name)).collection
        made = done.collection
        assert (made.name, made.dimension, made.fingerprint, made.metric, made.shard_count) == (
            original.name,
            original.dimension,
            original.fingerprint,
            original.metric,
            original.shard_count,
        )
        request = search(stub, name, queries, k=20, include=EVERYTHING)
        again = search(other, name, queries, k=20, include=EVERYTHING)
        assert list(again.results) == list(request.results)
        assert sum(len(result.ids) for result in again.results) == 50 * 20
        page = record_pb2.ListRecordsRequest(collection=name, page_size=1_000, include=EVERYTHING)
        assert stub.ListRecords(page).records == other.ListRecords(page).records
        assert stub.ListRecords(page).vectors == other.ListRecords(page).vectors


def test_what_is_refused_says_why(stub: IndexServiceStub, name: str, place: Path, tmp_path: Path) -> None:
    create_snapshot(stub, name, place / name)
    url = str(place / name)
    cases: list[tuple[grpc.StatusCode, str, snapshot_pb2.CreateSnapshotRequest | snapshot_pb2.RestoreSnapshotRequest]]
    made, restored = snapshot_pb2.CreateSnapshotRequest, snapshot_pb2.RestoreSnapshotRequest
    code = grpc.StatusCode
    cases = [
        (code.NOT_FOUND, "'nobody'", made(collection="nobody", url=f"{url}-2")),
        (code.ALREADY_EXISTS, f"url: there is a snapshot at {url} already", made(collection=name, url=url)),
        (
            code.FAILED_PRECONDITION,
            f"snapshot_urls ({place}), not {tmp_path}",
            made(collection=name, url=str(tmp_path)),
        ),
        (code.FAILED_PRECONDITION, f"snapshot_urls ({place}), not", made(collection=name, url=f"{place}/../x")),
        (code.INVALID_ARGUMENT, "url: expected an absolute path", made(collection=name)),
        (code.NOT_FOUND, f"url: there is no snapshot at {url}-2", restored(url=f"{url}-2")),
        (code.ALREADY_EXISTS, f"collection: there is a collection '{name}' already", restored(url=url)),
        (code.INVALID_ARGUMENT, "collection: expected 1 to 64 characters", restored(url=url, collection="../x")),
        (
            code.INVALID_ARGUMENT,
            "expected_fingerprint: expected 64 lower-case",
            restored(url=url, collection="x", expected_fingerprint="AB"),
        ),
        (
            code.FAILED_PRECONDITION,
            f"expected_fingerprint: expected fingerprint {'cd' * 32}, the snapshot has {FINGERPRINT}",
            restored(url=url, collection="x", expected_fingerprint="cd" * 32),
        ),
    ]
    for expected, message, request in cases:
        call = stub.CreateSnapshot if isinstance(request, made) else stub.RestoreSnapshot
        with pytest.raises(grpc.RpcError) as raised:
            list(call(request))
        assert raised.value.code() is expected, raised.value
        assert message in str(raised.value.details()), raised.value
    assert not any(path.name in ("x", f"{name}-2") for path in place.iterdir())


def test_a_server_without_the_setting_names_it(tmp_path: Path) -> None:
    with (
        running_service("index_service", tmp_path, "--data-folder", str(tmp_path / "data")) as service,
        connected(service.address) as stub,
    ):
        create(stub, "pets")
        for call in (lambda: create_snapshot(stub, "pets", tmp_path / "s"), lambda: restore_snapshot(stub, tmp_path)):
            with pytest.raises(grpc.RpcError, match="its setting snapshot_urls names no place") as raised:
                call()
            assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_cancelled_call_leaves_nothing_and_the_next_one_works(
    stub: IndexServiceStub, name: str, index: RunningService, place: Path
) -> None:
    ids = [f"{number:05d}" for number in range(5_000)]
    for begin in range(0, 5_000, 1_000):
        request = upsert_request(
            name, ids[begin : begin + 1_000], random_vectors(1_000, seed=begin), caption="c" * 8_000
        )
        assert not any(status.code for status in stub.Upsert(request).statuses)
    data = index.log.parent / "data"
    making = stub.CreateSnapshot(snapshot_pb2.CreateSnapshotRequest(collection=name, url=str(place / name)))
    next(making)
    making.cancel()
    wait_until_empty(data / "snapshotting")
    assert not (place / name).exists()
    create_snapshot(stub, name, place / name)
    restoring = stub.RestoreSnapshot(snapshot_pb2.RestoreSnapshotRequest(url=str(place / name), collection=f"{name}-2"))
    next(restoring)
    restoring.cancel()
    # One thing at a time: the answer to this one comes after the cancelled one has ended.
    *_, done = restore_snapshot(stub, place / name, f"{name}-3")
    assert done.snapshot.record_count == 5_000
    assert not list((data / "collections").glob(".creating-*"))
    known = {one.name for one in stub.ListCollections(collection_pb2.ListCollectionsRequest()).collections}
    assert f"{name}-2" not in known
    assert f"{name}-3" in known


def wait_until_empty(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while any(folder.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_calls_that_come_together_are_done_one_after_another(stub: IndexServiceStub, name: str, place: Path) -> None:
    upsert(stub, name, [f"{number}" for number in range(2_000)], random_vectors(2_000))
    calls = [
        stub.CreateSnapshot(snapshot_pb2.CreateSnapshotRequest(collection=name, url=str(place / f"{name}-{number}")))
        for number in range(5)
    ]
    for call in calls:
        *_, last = call
        assert last.snapshot.record_count == 2_000
    same = [
        stub.CreateSnapshot(snapshot_pb2.CreateSnapshotRequest(collection=name, url=str(place / f"{name}-same")))
        for _ in range(2)
    ]
    outcomes = []
    for call in same:
        try:
            outcomes.append(list(call)[-1].snapshot.record_count)
        except grpc.RpcError as error:
            outcomes.append(error.code())
    assert sorted(outcomes, key=str) == [2_000, grpc.StatusCode.ALREADY_EXISTS]
    restore_snapshot(stub, place / f"{name}-same", f"{name}-same")
