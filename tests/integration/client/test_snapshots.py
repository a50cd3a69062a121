"""Snapshots through both clients."""

import time
from pathlib import Path

import numpy as np
import pytest
from eyebright_client import (
    AlreadyExists,
    Client,
    FailedPrecondition,
    FingerprintMismatch,
    InvalidArgument,
    NotFound,
    Record,
    SnapshotProgress,
)

from tests.integration.client.conftest import MakeClient
from tests.processes import RunningService

FINGERPRINT = "ab" * 32


@pytest.fixture
def place(index: RunningService, collection: str) -> Path:
    """Where the service may keep a snapshot of this test."""
    return index.log.parent / "snapshots" / collection


@pytest.fixture
def filled(make_client: MakeClient, index: RunningService, collection: str) -> Client:
    """A client without embedder whose default collection holds 500 records."""
    client = make_client(None, index.address, collection=collection)
    client.create_collection(dimension=8, fingerprint=FINGERPRINT, metric="l2", shard_count=2)
    vectors = np.random.default_rng(41).standard_normal((500, 8)).astype(np.float32)
    ids = [f"{number:03d}" for number in range(500)]
    report = client.upsert(ids, vectors, captions=[f"c{own}" for own in ids], metadata=[{"n": own} for own in ids])
    assert report.written == 500
    return client


def vectors_of(records: list[Record]) -> list[list[float]]:
    found = [record.vector.tolist() for record in records if record.vector is not None]
    assert len(found) == 500
    return found


def test_a_collection_comes_back_under_its_own_and_another_name(filled: Client, collection: str, place: Path) -> None:
    told: list[SnapshotProgress] = []
    made = filled.create_snapshot(str(place), progress=told.append)
    assert (made.url, made.collection, made.fingerprint, made.dimension) == (str(place), collection, FINGERPRINT, 8)
    assert (made.metric, made.shard_count, made.record_count) == ("l2", 2, 500)
    assert sum(shard.record_count for shard in made.shards) == 500
    assert [shard.applied_sequence for shard in made.shards] == [1, 1]
    assert abs(made.create_time.timestamp() - time.time()) < 60
    assert told[-1] == SnapshotProgress("done", made.bytes, made.bytes)
    assert told[0].bytes_done <= told[-1].bytes_done
    before = list(filled.list(include=("caption", "metadata", "vector")))
    found = filled.search(vector=np.ones(8), modality="image", k=20)

    other = filled.restore_snapshot(str(place), collection=f"{collection}-2", expected_fingerprint=FINGERPRINT)
    assert (other.name, other.metric, other.shard_count) == (f"{collection}-2", "l2", 2)
    filled.delete_collection()
    told.clear()
    again = filled.restore_snapshot(str(place), progress=told.append)
    assert again.name == collection
    assert told[-1].phase == "done"
    for name in (collection, f"{collection}-2"):
        after = list(filled.list(collection=name, include=("caption", "metadata", "vector")))
        assert [(one.id, one.caption, one.metadata) for one in after] == [
            (one.id, one.caption, one.metadata) for one in before
        ]
        assert vectors_of(after) == vectors_of(before)
        hits = filled.search(vector=np.ones(8), modality="image", k=20, collection=name)
        assert (hits.ids, hits.scores.tolist()) == (found.ids, found.scores.tolist())


def test_what_is_refused_is_raised(filled: Client, collection: str, place: Path) -> None:
    filled.create_snapshot(str(place))
    with pytest.raises(AlreadyExists, match="there is a snapshot at"):
        filled.create_snapshot(str(place))
    with pytest.raises(AlreadyExists, match="there is a collection"):
        filled.restore_snapshot(str(place))
    with pytest.raises(NotFound, match="there is no snapshot at"):
        filled.restore_snapshot(f"{place}-2")
    with pytest.raises(NotFound, match="no collection"):
        filled.create_snapshot(f"{place}-2", collection="nobody")
    with pytest.raises(FailedPrecondition, match="snapshot_urls"):
        filled.create_snapshot("/elsewhere")
    with pytest.raises(InvalidArgument, match="absolute path"):
        filled.create_snapshot("relative")
    with pytest.raises(FingerprintMismatch, match=f"expected fingerprint {'cd' * 32}, the snapshot has {FINGERPRINT}"):
        filled.restore_snapshot(str(place), collection=f"{collection}-2", expected_fingerprint="cd" * 32)
    damaged = next(place.glob("files-*/shard-001/records.sqlite"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(FailedPrecondition, match=r"the snapshot is damaged: .*shard-001/records\.sqlite") as raised:
        filled.restore_snapshot(str(place), collection=f"{collection}-2")
    assert not isinstance(raised.value, FingerprintMismatch)


def test_an_exception_in_progress_ends_the_call_and_the_server_cleans_up(
    filled: Client, index: RunningService, place: Path
) -> None:
    for begin in range(0, 4_000, 1_000):
        ids = [f"more/{number}" for number in range(begin, begin + 1_000)]
        assert filled.upsert(ids, np.ones((1_000, 8)), captions=["c" * 8_000] * 1_000).written == 1_000

    def give_up(_: SnapshotProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled.create_snapshot(str(place), progress=give_up)
    working = index.log.parent / "data" / "snapshotting"
    deadline = time.monotonic() + 30
    while any(working.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not place.exists()
    assert filled.create_snapshot(str(place)).record_count == 4_500
