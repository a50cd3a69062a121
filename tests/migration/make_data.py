"""Makes a data folder with the release whose source tree this runs in, for later releases to open.

    python protos/generate.py
    PYTHONPATH=.:protos python /path/to/make_data.py OUTPUT

starts the real service, writes two collections through gRPC, and ends the service. Beside the service's ``data`` lies
``expected.json``: every record as it was read back, and the hits of some searches. Uses nothing but the contract, so
that it runs in any release.
"""

import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from eyebright.index.v1 import collection_pb2, record_pb2, search_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import decode_vectors, encode_vectors

FINGERPRINT = "ab" * 32
DIMENSION = 8
RECORDS = 200
QUERIES = 10
HITS = 20
METRICS = {"cosine": collection_pb2.METRIC_COSINE, "l2": collection_pb2.METRIC_L2}
SHARD_COUNTS = {"cosine": 2, "l2": 3}
EVERYTHING = record_pb2.Include(caption=True, source_uri=True, metadata=True, vector=True)


def fill(stub: IndexServiceStub, name: str) -> None:
    """Write records with and without captions and metadata, replace, change and delete some."""
    random = np.random.default_rng([*name.encode()])
    vectors = random.standard_normal((RECORDS, DIMENSION)).astype(np.float32)
    records = [
        record_pb2.Record(
            id=f"{name}/{number:03d} \N{SNOWMAN}",
            caption=None if number % 5 == 0 else f"picture {number}",
            source_uri=None if number % 7 == 0 else f"/pictures/{number}.png",
            metadata_json=None if number % 3 == 0 else json.dumps({"number": number, "big": 2**70}).encode(),
        )
        for number in range(RECORDS)
    ]
    stub.CreateCollection(
        collection_pb2.CreateCollectionRequest(
            name=name,
            dimension=DIMENSION,
            fingerprint=FINGERPRINT,
            metric=METRICS[name],
            shard_count=SHARD_COUNTS[name],
        )
    )
    for begin in range(0, RECORDS, 50):
        _upsert(stub, name, records[begin : begin + 50], vectors[begin : begin + 50])
    _upsert(stub, name, records[10:30], vectors[110:130])
    updates = [
        record_pb2.RecordUpdate(id=records[40].id, caption="changed"),
        record_pb2.RecordUpdate(id=records[41].id, caption=""),
        record_pb2.RecordUpdate(id=records[42].id, metadata_json=b'{"changed": true}', source_uri=""),
    ]
    response = stub.UpdateRecords(record_pb2.UpdateRecordsRequest(collection=name, updates=updates))
    assert not any(status.code for status in response.statuses)
    deleted = stub.Delete(record_pb2.DeleteRequest(collection=name, ids=[record.id for record in records[60:80]]))
    assert deleted.deleted_count == 20


def describe(stub: IndexServiceStub, name: str) -> dict[str, Any]:
    """Everything that a collection of up to 1,000 records holds and answers."""
    collection = stub.GetCollection(collection_pb2.GetCollectionRequest(name=name)).collection
    page = stub.ListRecords(record_pb2.ListRecordsRequest(collection=name, page_size=1_000, include=EVERYTHING))
    assert not page.next_page_token
    vectors = decode_vectors(page.vectors).astype(np.float16)
    queries = np.random.default_rng(1).standard_normal((QUERIES, DIMENSION)).astype(np.float32)
    answers = stub.Search(
        search_pb2.SearchRequest(
            collection=name,
            k=HITS,
            modality=search_pb2.MODALITY_IMAGE,
            vectors=encode_vectors(queries, FINGERPRINT),
        )
    )
    return {
        "collection": {
            "dimension": collection.dimension,
            "fingerprint": collection.fingerprint,
            "metric": collection.metric,
            "shard_count": collection.shard_count,
            "create_time_ns": collection.create_time.ToNanoseconds(),
        },
        "records": [
            {
                "id": record.id,
                "caption": record.caption if record.HasField("caption") else None,
                "source_uri": record.source_uri if record.HasField("source_uri") else None,
                "metadata_json": record.metadata_json.decode() if record.HasField("metadata_json") else None,
                "vector": base64.b64encode(vector.tobytes()).decode(),
            }
            for record, vector in zip(page.records, vectors, strict=True)
        ],
        "hits": [{"ids": list(result.ids), "scores": list(result.scores)} for result in answers.results],
    }


def _upsert(stub: IndexServiceStub, name: str, records: list[record_pb2.Record], vectors: np.ndarray) -> None:
    request = record_pb2.UpsertRequest(collection=name, records=records, vectors=encode_vectors(vectors, FINGERPRINT))
    assert not any(status.code for status in stub.Upsert(request).statuses)


def main(output: Path) -> None:
    """Make the folder."""
    output.mkdir(parents=True)
    ready = output / "ready"
    arguments = (
        "--data-folder",
        str(output / "data"),
        "--port",
        "0",
        "--metrics-port",
        "0",
        "--ready-file",
        str(ready),
    )
    service = subprocess.Popen([sys.executable, "-m", "index_service", *arguments])
    try:
        while not ready.exists():
            assert service.poll() is None, "the service did not start"
            time.sleep(0.05)
        port = json.loads(ready.read_text("utf-8"))["grpc_port"]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = IndexServiceStub(channel)  # type: ignore[no-untyped-call]
            for name in METRICS:
                fill(stub, name)
            expected = {name: describe(stub, name) for name in METRICS}
        (output / "expected.json").write_text(json.dumps(expected, indent=1), "utf-8")
    finally:
        service.terminate()
        service.wait(30)
    ready.unlink()
    (output / "data" / "lock").unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
