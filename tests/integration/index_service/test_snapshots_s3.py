"""Snapshots in an object store: a real S3 server, and a real index service with credentials for it."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from eyebright.index.v1 import snapshot_pb2

from tests.integration.index_service.calls import connected, create, random_vectors, search, upsert_request
from tests.object_store import Store, running_store
from tests.processes import running_service


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running_store(tmp_path_factory.mktemp("seaweed")) as started:
        yield started


@pytest.mark.long
def test_a_collection_goes_through_s3_and_only_where_it_may(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    arguments = ("--data-folder", str(tmp_path / "data"), "--snapshot-urls", "s3://bucket/ours", "--seal-rows", "256")
    made, restored = snapshot_pb2.CreateSnapshotRequest, snapshot_pb2.RestoreSnapshotRequest
    with running_service("index_service", tmp_path, *arguments) as service, connected(service.address) as stub:
        create(stub, "pets", shard_count=2)
        for begin in range(0, 5_000, 1_000):
            ids = [f"{number}" for number in range(begin, begin + 1_000)]
            stub.Upsert(upsert_request("pets", ids, random_vectors(1_000, seed=begin), caption="c" * 8_000))
        *_, last = stub.CreateSnapshot(made(collection="pets", url="s3://bucket/ours/a"))
        assert last.snapshot.record_count == 5_000
        names = store.names("bucket")
        assert len([name for name in names if name.endswith("/records.sqlite")]) == 2
        assert all(name.startswith("bucket/ours/a/") for name in names)

        for url, code in (
            ("s3://bucket/ours/a", grpc.StatusCode.ALREADY_EXISTS),
            ("s3://bucket/theirs", grpc.StatusCode.FAILED_PRECONDITION),
            ("s3://bucket/ours/../theirs", grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                list(stub.CreateSnapshot(made(collection="pets", url=url)))
            assert raised.value.code() is code, raised.value
        with pytest.raises(grpc.RpcError, match="there is no snapshot at") as raised:
            list(stub.RestoreSnapshot(restored(url="s3://bucket/ours/b")))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND

        cancelled = stub.CreateSnapshot(made(collection="pets", url="s3://bucket/ours/cancelled"))
        next(cancelled)
        cancelled.cancel()
        *_, done = stub.RestoreSnapshot(restored(url="s3://bucket/ours/a", collection="again"))
        assert done.snapshot == last.snapshot
        assert store.names("bucket") == names, "the cancelled one has left nothing"
        assert not store.files.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads")
        queries = random_vectors(20, seed=7)
        assert list(search(stub, "again", queries).results) == list(search(stub, "pets", queries).results)

        [store_file] = [name for name in names if name.endswith("shard-001/records.sqlite")]
        whole = store.files.cat_file(store_file)
        store.files.pipe_file(store_file, whole[:-1])
        with pytest.raises(grpc.RpcError, match=r"shard-001/records\.sqlite: expected") as raised:
            list(stub.RestoreSnapshot(restored(url="s3://bucket/ours/a", collection="damaged")))
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    with_wrong_secret = store.environment | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    for name, value in with_wrong_secret.items():
        monkeypatch.setenv(name, value)
    with running_service("index_service", tmp_path, *arguments) as service, connected(service.address) as stub:
        with pytest.raises(grpc.RpcError, match="the server may not use s3://bucket/ours/new") as raised:
            list(stub.CreateSnapshot(made(collection="pets", url="s3://bucket/ours/new")))
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
