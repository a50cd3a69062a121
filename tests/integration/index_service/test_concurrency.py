"""Writes, deletes and searches at once: no hit carries another record's vector, no acknowledged write is missed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
from eyebright.index.v1 import record_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import decode_vectors

from tests.integration.index_service.calls import DIMENSION, connected, get, search, upsert, vectors_of
from tests.processes import RunningService

ROUNDS = 40
IDS_PER_WRITER = 30


def vector_for(record_id: str, version: int) -> np.ndarray:
    """A vector that tells whose it is: its first number is the version's sign, the rest come from the id alone."""
    own = np.random.default_rng(list(record_id.encode())).standard_normal(DIMENSION).astype(np.float32)
    own[0] = 2.0 if version % 2 else -2.0
    return own / np.float32(np.linalg.norm(own))


def belongs(record_id: str, vector: np.ndarray) -> bool:
    return any(np.allclose(vector, vector_for(record_id, version), atol=1e-3) for version in (0, 1))


def write(address: str, name: str, writer: int) -> None:
    """Upsert and delete this writer's own ids; after each acknowledgement they are found, or not, at once."""
    random = np.random.default_rng(writer)
    with connected(address) as stub:
        for version in range(ROUNDS):
            ids = [f"w{writer}/{number}" for number in random.choice(IDS_PER_WRITER, 10, replace=False)]
            vectors = np.stack([vector_for(own, version) for own in ids])
            assert not any(upsert(stub, name, ids, vectors))
            [hits] = search(stub, name, vectors[:1], k=1).results
            assert hits.ids[0] == ids[0]
            assert hits.scores[0] > 0.999
            gone = ids[:4]
            stub.Delete(record_pb2.DeleteRequest(collection=name, ids=gone))
            [hits] = search(stub, name, vectors[:1], k=500).results
            assert not set(hits.ids) & set(gone)
            assert set(ids[4:]) <= set(hits.ids)


def watch(address: str, name: str, seed: int, stopped: Event) -> int:
    random = np.random.default_rng(seed)
    seen = 0
    with connected(address) as stub:
        while not stopped.is_set():
            query = random.standard_normal((2, DIMENSION)).astype(np.float32)
            include = record_pb2.Include(vector=True)
            for result in search(stub, name, query, k=25, include=include).results:
                assert len(set(result.ids)) == len(result.ids)
                assert list(result.scores) == sorted(result.scores, reverse=True)
                seen += len(result.ids)
                vectors = decode_vectors(result.vectors).astype(np.float32) if result.ids else ()
                assert all(belongs(own, vector) for own, vector in zip(result.ids, vectors, strict=True))
    return seen


def test_writers_and_searchers_at_once(index: RunningService, stub: IndexServiceStub, name: str) -> None:
    stopped = threading.Event()
    with ThreadPoolExecutor(6) as threads:
        watchers = [threads.submit(watch, index.address, name, seed, stopped) for seed in (1, 2)]
        try:
            for done in [threads.submit(write, index.address, name, writer) for writer in range(3)]:
                done.result()
        finally:
            stopped.set()
        assert all(watcher.result() > 0 for watcher in watchers)
    ids = [f"w{writer}/{number}" for writer in range(3) for number in range(IDS_PER_WRITER)]
    read = get(stub, name, ids)
    present = [own for own, status in zip(ids, read.statuses, strict=True) if status.code == 0]
    [everything] = search(stub, name, np.ones((1, DIMENSION), np.float32), k=1_000).results
    assert sorted(everything.ids) == sorted(present)
    held = dict(zip(ids, vectors_of(read), strict=True))
    assert all(belongs(own, held[own]) for own in present)
