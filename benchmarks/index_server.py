"""A real index service for benchmarks: started, restarted, written to and searched over gRPC, looked at from outside.

Owns the calls. Knows nothing of what is measured.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import grpc
import numpy as np
from eyebright.index.v1 import collection_pb2, record_pb2, search_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import encode_vectors

COLLECTION = "benchmark"
_FINGERPRINT = "be" * 32
_MESSAGE_BYTES = 64 * 1024 * 1024
_START_SECONDS = 600.0
_CALM_SECONDS = 25.0


class IndexServer:
    """The service over one data folder; a context manager, which stops it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.data_folder = folder / "data"
        self.start()

    def start(self) -> float:
        """Start the process; returns the seconds until it was ready."""
        ready = self._folder / "ready.json"
        ready.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "index_service",
            "--port",
            "0",
            "--metrics-port",
            "0",
            "--log-level",
            "warning",
        ]
        command += ["--data-folder", str(self.data_folder), "--ready-file", str(ready)]
        began = time.perf_counter()
        self._process = subprocess.Popen(command)  # noqa: S603 - our own module
        while not ready.exists():
            if self._process.poll() is not None or time.perf_counter() - began > _START_SECONDS:
                raise RuntimeError("the index service did not become ready")
            time.sleep(0.005)
        self.address = f"127.0.0.1:{json.loads(ready.read_text())['grpc_port']}"
        options = [
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
        ]
        self._channel = grpc.insecure_channel(self.address, options)
        self.stub = IndexServiceStub(self._channel)  # type: ignore[no-untyped-call]
        return time.perf_counter() - began

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._channel.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(120)

    def __enter__(self) -> "IndexServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def create(self, dimension: int, shards: int) -> None:
        """Make the collection."""
        self.stub.CreateCollection(
            collection_pb2.CreateCollectionRequest(
                name=COLLECTION, dimension=dimension, fingerprint=_FINGERPRINT, shard_count=shards
            )
        )

    def upsert(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """One durable write."""
        response = self.stub.Upsert(_upsert_request(ids, vectors))
        assert not any(status.code for status in response.statuses)

    def stream(self, batches: Iterable[tuple[Sequence[str], np.ndarray]]) -> Iterator[int]:
        """Write batches over one stream; yields how many records each acknowledgement was for."""
        requests = (record_pb2.UpsertStreamRequest(upsert=_upsert_request(ids, vectors)) for ids, vectors in batches)
        for response in self.stub.UpsertStream(requests):
            assert not any(status.code for status in response.statuses)
            yield len(response.statuses)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete up to 10,000 records."""
        self.stub.Delete(record_pb2.DeleteRequest(collection=COLLECTION, ids=ids))

    def search(self, captions: np.ndarray, k: int, *, exact: bool = False) -> search_pb2.SearchResponse:
        """Search by caption vectors (n, dimension)."""
        response: search_pb2.SearchResponse = self.stub.Search(
            search_pb2.SearchRequest(
                collection=COLLECTION,
                vectors=encode_vectors(captions, _FINGERPRINT),
                modality=search_pb2.MODALITY_TEXT,
                k=k,
                exact=exact,
            )
        )
        return response

    def stats(self) -> collection_pb2.GetStatsResponse:
        """The state of the collection."""
        response: collection_pb2.GetStatsResponse = self.stub.GetStats(
            collection_pb2.GetStatsRequest(collection=COLLECTION)
        )
        return response

    def wait_until_compacted(self) -> float:
        """Seconds until the last change that compaction made; returns once there was none for a while."""
        began, calm_since = time.perf_counter(), time.perf_counter()
        before: object = None
        while time.perf_counter() - calm_since < _CALM_SECONDS:
            now = [(shard.segment_count, shard.memtable_rows, shard.tombstone_count) for shard in self.stats().shards]
            if now != before:
                before, calm_since = now, time.perf_counter()
            time.sleep(0.2)
        return calm_since - began

    def anonymous_bytes(self) -> int:
        """Resident memory that is not a file's (RssAnon)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024


def _upsert_request(ids: Sequence[str], vectors: np.ndarray) -> record_pb2.UpsertRequest:
    records = [record_pb2.Record(id=own) for own in ids]
    return record_pb2.UpsertRequest(
        collection=COLLECTION, records=records, vectors=encode_vectors(vectors, _FINGERPRINT)
    )
