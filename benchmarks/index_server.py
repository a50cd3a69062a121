"""A real index service for benchmarks: started, restarted, written to and searched over gRPC, looked at from outside.

Owns the calls. Knows nothing of what is measured.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from eyebright.index.v1 import collection_pb2, filter_pb2, optimize_pb2, record_pb2, search_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import encode_vectors

from service_runtime.memory import resident_bytes

COLLECTION = "benchmark"
FINGERPRINT = "be" * 32
_MESSAGE_BYTES = 64 * 1024 * 1024
_START_SECONDS = 600.0
_CALM_SECONDS = 6.0
_CALM_SHARE = 0.1
"""Share of a core that the process takes at most while it has nothing to do."""


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
                name=COLLECTION, dimension=dimension, fingerprint=FINGERPRINT, shard_count=shards
            )
        )

    def index_automatically(self) -> None:
        """Leave the recipe to the service."""
        self._index(collection_pb2.RECIPE_AUTO)

    def rebuild(self, *, centred: bool) -> None:
        """Have every segment built anew, unless it is built like this."""
        self._index(collection_pb2.RECIPE_IVF_FASTSCAN, centred=centred)

    def optimize(self, captions: np.ndarray, target_recall: float, k: int) -> "Chosen":
        """Tune on these captions (n, dimension); returns what was taken once segments are rebuilt."""
        queries = optimize_pb2.QuerySet(
            vectors=encode_vectors(captions, FINGERPRINT), modality=search_pb2.MODALITY_TEXT
        )
        request = optimize_pb2.OptimizeRequest(
            collection=COLLECTION, target_recall=target_recall, k=k, queries=[queries]
        )
        for progress in self.stub.Optimize(request):
            last = progress
        chosen = last.result.chosen
        name = collection_pb2.Recipe.Name(chosen.recipe).removeprefix("RECIPE_").lower()
        return Chosen(name, chosen.centred, chosen.effort.k_factor, chosen.effort.probed_share)

    def upsert(self, ids: Sequence[str], vectors: np.ndarray, metadata: Callable[[str], bytes] | None = None) -> None:
        """One durable write; ``metadata`` makes that of an id."""
        response = self.stub.Upsert(_upsert_request(ids, vectors, metadata))
        assert not any(status.code for status in response.statuses)

    def stream(
        self, batches: Iterable[tuple[Sequence[str], np.ndarray]], metadata: Callable[[str], bytes] | None = None
    ) -> Iterator[int]:
        """Write batches over one stream; yields how many records each acknowledgement was for.

        ``metadata`` makes that of an id.
        """
        requests = (
            record_pb2.UpsertStreamRequest(upsert=_upsert_request(ids, vectors, metadata)) for ids, vectors in batches
        )
        for response in self.stub.UpsertStream(requests):
            assert not any(status.code for status in response.statuses)
            yield len(response.statuses)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete up to 10,000 records."""
        self.stub.Delete(record_pb2.DeleteRequest(collection=COLLECTION, ids=ids))

    def search(self, captions: np.ndarray, k: int, **options: Any) -> search_pb2.SearchResponse:
        """Search by caption vectors (n, dimension); ``options`` are fields of the request."""
        response: search_pb2.SearchResponse = self.stub.Search(_search_request(captions, k, **options))
        return response

    def stats(self) -> collection_pb2.GetStatsResponse:
        """The state of the collection."""
        response: collection_pb2.GetStatsResponse = self.stub.GetStats(
            collection_pb2.GetStatsRequest(collection=COLLECTION)
        )
        return response

    def queries_per_second(self, queries: Sequence[np.ndarray], k: int, callers: int, seconds: float = 10.0) -> float:
        """What so many callers get answered, each one query (1, dimension) after another."""
        requests = [_search_request(query, k) for query in queries]
        end = time.perf_counter() + seconds

        def call(first: int) -> int:
            answered = 0
            while time.perf_counter() < end:
                self.stub.Search(requests[(first + answered) % len(requests)])
                answered += 1
            return answered

        began = time.perf_counter()
        with ThreadPoolExecutor(callers) as threads:
            answered = sum(threads.map(call, range(0, len(requests), -(-len(requests) // callers))))
        return answered / (time.perf_counter() - began)

    def wait_until_compacted(self) -> float:
        """Wait until the process has had nothing to do for a while; returns the seconds until then."""
        began = calm_since = time.perf_counter()
        spent = self._cpu_seconds()
        while time.perf_counter() - calm_since < _CALM_SECONDS:
            time.sleep(0.5)
            now = self._cpu_seconds()
            if now - spent > _CALM_SHARE * 0.5:
                calm_since = time.perf_counter()
            spent = now
        return calm_since - began

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @contextmanager
    def peak_memory(self) -> Iterator[list[int]]:
        """Look at ``anonymous_bytes`` every tenth of a second; the one number given is the largest so far."""
        peak = [self.anonymous_bytes()]
        stopping = threading.Event()

        def look() -> None:
            while not stopping.wait(0.1):
                peak[0] = max(peak[0], self.anonymous_bytes())

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield peak
        finally:
            stopping.set()
            watcher.join()

    def _index(self, recipe: collection_pb2.Recipe, *, centred: bool = False) -> None:
        self.stub.UpdateCollection(
            collection_pb2.UpdateCollectionRequest(
                name=COLLECTION, index=collection_pb2.IndexConfig(recipe=recipe, centred=centred)
            )
        )

    def anonymous_bytes(self) -> int:
        """Resident memory that is not a file's (RssAnon)."""
        return resident_bytes(process=self._process.pid)["anonymous"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the tuner took."""

    recipe: str
    centred: bool
    k_factor: float
    probed_share: float

    def __str__(self) -> str:
        """In words."""
        cells = f", probed share {self.probed_share:g}" if self.recipe.startswith("ivf") else ""
        return f"{self.recipe}{', centred' * self.centred}{cells}, k_factor {self.k_factor:g}"


def where(field: str, value: int) -> filter_pb2.Filter:
    """The filter that lets a value of a metadata field through."""
    return filter_pb2.Filter(
        comparison=filter_pb2.Comparison(
            field=filter_pb2.FilterField(metadata=filter_pb2.MetadataPlace(keys=[field])),
            operator=filter_pb2.COMPARISON_OPERATOR_EQUAL,
            value=filter_pb2.FilterValue(integer_value=value),
        )
    )


def _search_request(captions: np.ndarray, k: int, **options: Any) -> search_pb2.SearchRequest:
    vectors = encode_vectors(captions, FINGERPRINT)
    modality = search_pb2.MODALITY_TEXT
    return search_pb2.SearchRequest(collection=COLLECTION, vectors=vectors, modality=modality, k=k, **options)


def _upsert_request(
    ids: Sequence[str], vectors: np.ndarray, metadata: Callable[[str], bytes] | None = None
) -> record_pb2.UpsertRequest:
    records = [record_pb2.Record(id=own, metadata_json=None if metadata is None else metadata(own)) for own in ids]
    return record_pb2.UpsertRequest(
        collection=COLLECTION, records=records, vectors=encode_vectors(vectors, FINGERPRINT)
    )
