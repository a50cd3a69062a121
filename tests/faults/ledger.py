"""The ledger of acknowledged writes.

Writers keep, for each id, the last state that was acknowledged and the states that later writes would lead to. After a
kill -9 and a restart every record must be in one of these, whole, in GetRecords and in Search alike.
"""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import grpc
import numpy as np
import pytest
from eyebright.index.v1 import record_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import decode_vectors, encode_vectors

from index_service.vector_space import Metric, VectorSpace
from tests.integration.index_service.calls import EVERYTHING, FINGERPRINT, connected, search

NAME = "ledger"
DIMENSION = 16
SPACE = VectorSpace(DIMENSION, FINGERPRINT, Metric.COSINE)
READ_ITEMS = 1_000
QUERIES = 1_000

State = tuple[int, int] | None
"""The version of a record's vector and that of its text; None when it is absent."""


@dataclass
class Entry:
    """What is known of one id."""

    settled: State = None
    pending: list[State] = field(default_factory=list)

    @property
    def newest(self) -> State:
        return self.pending[-1] if self.pending else self.settled


@lru_cache(100_000)
def vector_for(record_id: str, version: int) -> np.ndarray:
    own = np.random.default_rng([version, *record_id.encode()]).standard_normal(DIMENSION).astype(np.float32)
    return own / np.float32(np.linalg.norm(own))


def stored_vector(record_id: str, version: int) -> np.ndarray:
    """The vector to the bit, as it comes back."""
    stored: np.ndarray = SPACE.prepare(vector_for(record_id, version)[None])[0][0].astype(np.float16)
    return stored


def record_for(record_id: str, version: int) -> record_pb2.Record:
    return record_pb2.Record(
        id=record_id, caption=f"{record_id} as of {version}", metadata_json=b'{"version":%d}' % version
    )


class Ledger:
    """What was written, by id; each writer touches its own ids only."""

    def __init__(self, seed: int, writers: int, ids_per_writer: int) -> None:
        self.random = random.Random(seed)
        self.entries = {f"w{w}/{n:03d}": Entry() for w in range(writers) for n in range(ids_per_writer)}
        self.version = 0
        self.acknowledged = 0
        self.changed = threading.Condition()

    def begin(self, ids: list[str], change: Callable[[State, int], State]) -> int:
        """Note a write that is about to be sent; returns its version."""
        with self.changed:
            self.version += 1
            for own in ids:
                self.entries[own].pending.append(change(self.entries[own].newest, self.version))
            return self.version

    def acknowledge(self, ids: list[str]) -> None:
        """The oldest write of these ids that was pending is durable."""
        with self.changed:
            for own in ids:
                self.entries[own].settled = self.entries[own].pending.pop(0)
            self.acknowledged += 1
            self.changed.notify_all()

    def upsert_request(self, ids: list[str]) -> record_pb2.UpsertRequest:
        version = self.begin(ids, lambda _, new: (new, new))
        vectors = encode_vectors(np.stack([vector_for(own, version) for own in ids]), FINGERPRINT)
        return record_pb2.UpsertRequest(
            collection=NAME, records=[record_for(own, version) for own in ids], vectors=vectors
        )

    def write_until_killed(self, address: str, writer: int, seed: int, *, stopped: bool = False) -> None:
        """Write until the server is gone. One that is ``stopped`` first may also cancel what has just arrived."""
        own_random = random.Random(seed)
        own_ids = [own for own in self.entries if own.startswith(f"w{writer}/")]
        with (
            connected(address) as stub,
            pytest.raises(grpc.RpcError, match="UNAVAILABLE|CANCELLED" if stopped else "UNAVAILABLE"),
        ):
            while True:
                kind = own_random.choice((self._upsert, self._stream, self._update, self._delete))
                kind(stub, own_ids, own_random)

    def _upsert(self, stub: IndexServiceStub, own_ids: list[str], own_random: random.Random) -> None:
        ids = own_random.sample(own_ids, own_random.randint(1, 30))
        assert not any(status.code for status in stub.Upsert(self.upsert_request(ids)).statuses)
        self.acknowledge(ids)

    def _stream(self, stub: IndexServiceStub, own_ids: list[str], own_random: random.Random) -> None:
        batches = [own_random.sample(own_ids, own_random.randint(1, 20)) for _ in range(own_random.randint(1, 8))]

        def requests() -> Iterator[record_pb2.UpsertStreamRequest]:
            for number, ids in enumerate(batches):
                yield record_pb2.UpsertStreamRequest(batch_id=number, upsert=self.upsert_request(ids))

        for number, answer in enumerate(stub.UpsertStream(requests())):
            assert answer.batch_id == number
            assert not any(status.code for status in answer.statuses)
            self.acknowledge(batches[number])

    def _update(self, stub: IndexServiceStub, own_ids: list[str], own_random: random.Random) -> None:
        ids = own_random.sample(own_ids, own_random.randint(1, 20))
        version = self.begin(ids, lambda old, new: None if old is None else (old[0], new))
        texts = (record_for(own, version) for own in ids)
        updates = [
            record_pb2.RecordUpdate(id=text.id, caption=text.caption, metadata_json=text.metadata_json)
            for text in texts
        ]
        response = stub.UpdateRecords(record_pb2.UpdateRecordsRequest(collection=NAME, updates=updates))
        for own, status in zip(ids, response.statuses, strict=True):
            assert (status.code == 0) == (self.entries[own].newest is not None)
        self.acknowledge(ids)

    def _delete(self, stub: IndexServiceStub, own_ids: list[str], own_random: random.Random) -> None:
        ids = own_random.sample(own_ids, own_random.randint(1, 10))
        self.begin(ids, lambda _old, _new: None)
        stub.Delete(record_pb2.DeleteRequest(collection=NAME, ids=ids))
        self.acknowledge(ids)

    def check(self, stub: IndexServiceStub) -> None:
        """Compare with what the server holds, and take that as settled."""
        present: list[tuple[str, State]] = []
        ids = list(self.entries)
        for begin in range(0, len(ids), READ_ITEMS):
            present += self._check_records(stub, ids[begin : begin + READ_ITEMS])
        self._check_search(stub, present)

    def _check_records(self, stub: IndexServiceStub, ids: list[str]) -> list[tuple[str, State]]:
        """The records that are present, and their states."""
        response = stub.GetRecords(record_pb2.GetRecordsRequest(collection=NAME, ids=ids, include=EVERYTHING))
        vectors = decode_vectors(response.vectors)
        present: list[tuple[str, State]] = []
        for own, status, record, vector in zip(ids, response.statuses, response.records, vectors, strict=True):
            entry = self.entries[own]
            allowed = [entry.settled, *entry.pending]
            observed = self._observed(status.code, record, vector, allowed)
            assert observed in allowed, f"{own} is {observed}, not one of {allowed}"
            self.entries[own] = Entry(observed)
            if observed is not None:
                present.append((own, observed))
        return present

    def _observed(self, code: int, record: record_pb2.Record, vector: np.ndarray, allowed: list[State]) -> State:
        if code:
            assert code == grpc.StatusCode.NOT_FOUND.value[0]
            return None
        text = int(record.caption.rpartition(" ")[2])
        assert record == record_for(record.id, text), f"not whole: {record}"
        for state in allowed:
            if state is not None and state[1] == text and (vector == stored_vector(record.id, state[0])).all():
                return state
        raise AssertionError(f"{record.id} has text {text} and a vector of none of {allowed}")

    def _check_search(self, stub: IndexServiceStub, present: list[tuple[str, State]]) -> None:
        anything = np.ones((1, DIMENSION), np.float32)
        [everything] = search(stub, NAME, anything, k=100_000).results
        assert sorted(everything.ids) == sorted(own for own, _ in present)
        for begin in range(0, len(present), QUERIES):
            piece = present[begin : begin + QUERIES]
            queries = np.stack([vector_for(own, state[0]) for own, state in piece if state is not None])
            for (own, _), result in zip(piece, search(stub, NAME, queries, k=1).results, strict=True):
                assert list(result.ids) == [own]
                assert result.scores[0] > 0.999
