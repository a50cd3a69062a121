"""Searches, writes, deletes and compaction at once for a while: no hit is wrong, foreign, torn or stale, none is
missing, and the process does not grow. EYEBRIGHT_SOAK_SEED repeats the operations, though not their order.
"""

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eyebright.index.v1 import collection_pb2, filter_pb2, record_pb2, search_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import decode_vectors, encode_vectors

from index_service.vector_space import Metric, VectorSpace
from tests.integration.index_service.calls import EVERYTHING, FINGERPRINT, connected, create, get, search
from tests.processes import RunningService, running_service

NAME = "soak"
DIMENSION = 16
SPACE = VectorSpace(DIMENSION, FINGERPRINT, Metric.COSINE)
WRITERS = 2
SEARCHERS = 2
IDS_PER_WRITER = 2_000
VARIANTS = 4
"""Vectors that a record may have; an upsert takes the next one."""

State = tuple[int, int]
"""How often a record was written, which tells its vector, and how often it was changed since."""


def written_vector(record_id: str, variant: int) -> np.ndarray:
    """As it is sent."""
    return np.random.default_rng([variant, *record_id.encode()]).standard_normal(DIMENSION).astype(np.float32)


@lru_cache(100_000)
def vector_for(record_id: str, variant: int) -> np.ndarray:
    """As it comes back, to the bit."""
    stored: np.ndarray = SPACE.prepare(written_vector(record_id, variant)[None])[0][0].astype(np.float16)
    return stored


def record_for(record_id: str, state: State) -> record_pb2.Record:
    written, changed = state
    metadata = f'{{"owner": "{record_id[:2]}", "written": {written}, "changed": {changed}}}'.encode()
    return record_pb2.Record(id=record_id, caption=f"{record_id} {written} {changed}", metadata_json=metadata)


def check_hits(query: np.ndarray, result: search_pb2.QueryResult) -> None:
    """Each hit has a vector of its own id's, whole, scored right, and its own text."""
    assert len(set(result.ids)) == len(result.ids)
    assert list(result.scores) == sorted(result.scores, reverse=True)
    if not result.ids:
        return
    vectors = decode_vectors(result.vectors)
    for own, vector, record in zip(result.ids, vectors, result.records, strict=True):
        assert any(np.array_equal(vector, vector_for(own, variant)) for variant in range(VARIANTS)), own
        assert record.id == own
        if record.HasField("caption"):  # deleted since it was found otherwise
            _, written, changed = record.caption.split()
            assert record == record_for(own, (int(written), int(changed)))
    scores = SPACE.scores(query, vectors.astype(np.float32))
    np.testing.assert_allclose(result.scores, scores, rtol=1e-5, atol=1e-6)


class Writer:
    """Writes records of its own, and knows what each of them must be."""

    def __init__(self, number: int, seed: int) -> None:
        self.ids = [f"w{number}/{place:04d}" for place in range(IDS_PER_WRITER)]
        self.known: dict[str, State] = {}
        self.operations = 0
        self._written = 0
        self._random = random.Random(seed)

    def work(self, address: str, until: Callable[[], bool]) -> None:
        with connected(address) as stub:
            self.upsert(stub, self.ids)
            while not until():
                ids = self._random.sample(self.ids, self._random.randint(1, 40))
                chosen = self._random.choices((self.upsert, self.update, self.delete, self.look), (5, 3, 2, 3))[0]
                chosen(stub, ids)
                self.operations += 1

    def upsert(self, stub: IndexServiceStub, ids: Sequence[str]) -> None:
        self._written += 1
        state = (self._written, 0)
        vectors = np.stack([written_vector(own, self._written % VARIANTS) for own in ids])
        records = [record_for(own, state) for own in ids]
        request = record_pb2.UpsertRequest(
            collection=NAME, records=records, vectors=encode_vectors(vectors, FINGERPRINT)
        )
        assert not any(status.code for status in stub.Upsert(request).statuses)
        self.known |= dict.fromkeys(ids, state)

    def update(self, stub: IndexServiceStub, ids: Sequence[str]) -> None:
        states = {own: (state[0], state[1] + 1) for own in ids if (state := self.known.get(own))}
        if not states:
            return
        records = [record_for(own, state) for own, state in states.items()]
        updates = [
            record_pb2.RecordUpdate(id=record.id, caption=record.caption, metadata_json=record.metadata_json)
            for record in records
        ]
        answer = stub.UpdateRecords(record_pb2.UpdateRecordsRequest(collection=NAME, updates=updates))
        assert not any(status.code for status in answer.statuses)
        self.known |= states

    def delete(self, stub: IndexServiceStub, ids: Sequence[str]) -> None:
        answer = stub.Delete(record_pb2.DeleteRequest(collection=NAME, ids=ids))
        assert answer.deleted_count == sum(self.known.pop(own, None) is not None for own in ids)

    def look(self, stub: IndexServiceStub, ids: Sequence[str]) -> None:
        """What was acknowledged is what is found: each record first by its own vector, as it is now."""
        present = [own for own in ids if own in self.known]
        gone = set(ids) - set(present)
        if present:
            vectors = np.stack([vector_for(own, self.known[own][0] % VARIANTS) for own in present]).astype(np.float32)
            answer = search(stub, NAME, vectors, k=3, exact=True, include=EVERYTHING)
            for own, query, result in zip(present, SPACE.prepare(vectors)[0], answer.results, strict=True):
                check_hits(query[None], result)
                assert result.ids[0] == own
                assert result.records[0] == record_for(own, self.known[own])
                assert not gone & set(result.ids)

    def check(self, stub: IndexServiceStub) -> None:
        """All of this writer's records, in reading, searching and filtering."""
        for begin in range(0, len(self.ids), 1_000):
            ids = self.ids[begin : begin + 1_000]
            answer = get(stub, NAME, ids)
            vectors = decode_vectors(answer.vectors)
            for own, status, record, vector in zip(ids, answer.statuses, answer.records, vectors, strict=True):
                assert (status.code == 0) == (own in self.known)
                if status.code == 0:
                    assert record == record_for(own, self.known[own])
                    assert np.array_equal(vector, vector_for(own, self.known[own][0] % VARIANTS))
        [mine] = search(stub, NAME, np.ones((1, DIMENSION), np.float32), k=10_000, filter=owned_by(self.ids[0])).results
        assert sorted(mine.ids) == sorted(self.known)


def owned_by(record_id: str) -> filter_pb2.Filter:
    field = filter_pb2.FilterField(metadata=filter_pb2.MetadataPlace(keys=["owner"]))
    value = filter_pb2.FilterValue(string_value=record_id[:2])
    return filter_pb2.Filter(
        comparison=filter_pb2.Comparison(field=field, operator=filter_pb2.COMPARISON_OPERATOR_EQUAL, value=value)
    )


def search_all_the_time(address: str, seed: int, until: Callable[[], bool]) -> tuple[int, int]:
    """Searches answered, and how many of them through an index."""
    numbers, chosen = np.random.default_rng(seed), random.Random(seed)
    answered = approximate = 0
    with connected(address) as stub:
        while not until():
            queries = numbers.standard_normal((chosen.randint(1, 4), DIMENSION)).astype(np.float32)
            where = owned_by(f"w{chosen.randrange(WRITERS)}") if chosen.random() < 0.3 else None
            answer = search(stub, NAME, queries, k=chosen.choice((1, 3, 10, 200)), include=EVERYTHING, filter=where)
            for query, result in zip(SPACE.prepare(queries)[0], answer.results, strict=True):
                check_hits(query[None], result)
            answered += 1
            approximate += not answer.evidence.exact
    return answered, approximate


class Growth:
    """How much memory and how many files a process holds, looked at now and then."""

    def __init__(self, service: RunningService) -> None:
        self._folder = Path("/proc") / str(service.process.pid)
        self.memory: list[int] = []
        self.files: list[int] = []

    def watch(self, until: Callable[[], bool]) -> None:
        while not until():
            pages = int((self._folder / "statm").read_text().split()[1])
            self.memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
            self.files.append(len(list((self._folder / "fd").iterdir())))
            time.sleep(0.2)

    def check(self) -> None:
        """The last third holds about what the second held: what grows with time alone would show."""
        third = len(self.memory) // 3
        sys.stdout.write(f"memory {[max(self.memory[n * third : (n + 1) * third]) >> 20 for n in range(3)]} MiB, ")
        sys.stdout.write(f"files {[max(self.files[n * third : (n + 1) * third]) for n in range(3)]}\n")
        assert max(self.memory[2 * third :]) < 1.15 * max(self.memory[third : 2 * third]) + (24 << 20)
        assert max(self.files[2 * third :]) < max(self.files[third : 2 * third]) + 30


def soak(folder: Path, seconds: float) -> None:
    seed = int(os.environ.get("EYEBRIGHT_SOAK_SEED") or random.randrange(2**32))
    sys.stdout.write(f"EYEBRIGHT_SOAK_SEED={seed}\n")
    small = ("--seal-rows", "256", "--index-from-rows", "1000", "--log-level", "warning")
    arguments = ("--data-folder", str(folder / "data"), *small)
    writers = [Writer(number, seed + number) for number in range(WRITERS)]
    stopping = threading.Event()
    with running_service("index_service", folder, *arguments) as service, connected(service.address) as stub:
        create(stub, NAME, DIMENSION, shard_count=2)
        index = collection_pb2.IndexConfig(
            recipe=collection_pb2.RECIPE_FASTSCAN, effort=collection_pb2.Effort(k_factor=2)
        )
        stub.UpdateCollection(collection_pb2.UpdateCollectionRequest(name=NAME, index=index))
        growth = Growth(service)
        with ThreadPoolExecutor(WRITERS + SEARCHERS + 1) as threads:
            searching = [
                threads.submit(search_all_the_time, service.address, seed + number, stopping.is_set)
                for number in range(SEARCHERS)
            ]
            others = [threads.submit(writer.work, service.address, stopping.is_set) for writer in writers]
            watching = threads.submit(growth.watch, stopping.is_set)
            everything: list[Future[Any]] = [*searching, *others, watching]
            wait(everything, seconds, FIRST_EXCEPTION)
            stopping.set()
        for done in (*others, watching):
            done.result()
        answered, approximate = (sum(counts) for counts in zip(*(done.result() for done in searching), strict=True))
        operations = sum(writer.operations for writer in writers)
        sys.stdout.write(f"{operations} writes, {answered} searches, {approximate} of them through an index\n")
        assert min(operations, approximate) > 20
        for writer in writers:
            writer.check(stub)
        growth.check()
        assert "Traceback" not in service.log.read_text("utf-8")
    with running_service("index_service", folder, *arguments) as service, connected(service.address) as stub:
        for writer in writers:
            writer.check(stub)


def test_nothing_wrong_is_found_while_everything_happens_at_once(tmp_path: Path) -> None:
    soak(tmp_path, 7)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_nothing_wrong_is_found_in_5_minutes_of_everything_at_once(tmp_path: Path) -> None:
    soak(tmp_path, 300)
