"""Requests to an index service, written short."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc
import numpy as np
from eyebright.index.v1 import collection_pb2, record_pb2, search_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import decode_vectors, encode_vectors

FINGERPRINT = "ab" * 32
DIMENSION = 8
MIB = 1024 * 1024


@contextmanager
def connected(address: str, most_sent_bytes: int = 64 * MIB) -> Iterator[IndexServiceStub]:
    """A stub for the length of a block."""
    options = [("grpc.max_receive_message_length", 64 * MIB), ("grpc.max_send_message_length", most_sent_bytes)]
    with grpc.insecure_channel(address, options) as channel:
        yield IndexServiceStub(channel)  # type: ignore[no-untyped-call]


def create(
    stub: IndexServiceStub,
    name: str,
    dimension: int = DIMENSION,
    metric: collection_pb2.Metric = collection_pb2.METRIC_COSINE,
    shard_count: int = 3,
) -> collection_pb2.Collection:
    request = collection_pb2.CreateCollectionRequest(
        name=name, dimension=dimension, fingerprint=FINGERPRINT, metric=metric, shard_count=shard_count
    )
    created: collection_pb2.CreateCollectionResponse = stub.CreateCollection(request)
    return created.collection


def records(ids: Sequence[str], caption: str | None = None) -> list[record_pb2.Record]:
    return [record_pb2.Record(id=own, caption=caption) for own in ids]


def upsert_request(
    name: str, ids: Sequence[str], vectors: np.ndarray, caption: str | None = None
) -> record_pb2.UpsertRequest:
    return record_pb2.UpsertRequest(
        collection=name, records=records(ids, caption), vectors=encode_vectors(vectors, FINGERPRINT)
    )


def upsert(stub: IndexServiceStub, name: str, ids: Sequence[str], vectors: np.ndarray) -> list[int]:
    """Write; the status code of each record."""
    return [status.code for status in stub.Upsert(upsert_request(name, ids, vectors)).statuses]


def search_request(
    name: str, queries: np.ndarray | Sequence[str], k: int = 10, **fields: object
) -> search_pb2.SearchRequest:
    if isinstance(queries, np.ndarray):
        fields = {"modality": search_pb2.MODALITY_IMAGE, "vectors": encode_vectors(queries, FINGERPRINT)} | fields
    else:
        fields = {"modality": search_pb2.MODALITY_RECORD, "records": search_pb2.RecordQueries(ids=queries)} | fields
    return search_pb2.SearchRequest(collection=name, k=k, **fields)  # type: ignore[arg-type]


def search(
    stub: IndexServiceStub, name: str, queries: np.ndarray | Sequence[str], k: int = 10, **fields: object
) -> search_pb2.SearchResponse:
    response: search_pb2.SearchResponse = stub.Search(search_request(name, queries, k, **fields))
    return response


def get(stub: IndexServiceStub, name: str, ids: Sequence[str]) -> record_pb2.GetRecordsResponse:
    """Read everything of records."""
    response: record_pb2.GetRecordsResponse = stub.GetRecords(
        record_pb2.GetRecordsRequest(collection=name, ids=ids, include=EVERYTHING)
    )
    return response


def vectors_of(response: record_pb2.GetRecordsResponse) -> np.ndarray:
    return decode_vectors(response.vectors).astype(np.float32)


EVERYTHING = record_pb2.Include(caption=True, source_uri=True, metadata=True, vector=True)


def random_vectors(count: int, dimension: int = DIMENSION, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
