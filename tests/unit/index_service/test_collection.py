"""A collection against a plain model of it: random writes, restarts, and exact searches."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service.catalog import Catalog
from index_service.collection import Collection, UpsertBatch, shard_number
from index_service.filters import CAPTION, AllOf, Exists, HasPrefix, Not
from index_service.metrics import IndexMetrics
from index_service.records import Include, Record, RecordUpdate
from index_service.search import QueryAnswer, SearchOptions
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers
from service_runtime.errors import DeadlineExceeded, InvalidArgument, NotFound, ResourceExhausted, ServiceError

DIMENSION = 6


@contextmanager
def opened(folder: Path) -> Iterator[Catalog]:
    with (
        closing(Workers(2)) as workers,
        closing(Catalog(folder, workers, IndexMetrics(CollectorRegistry()))) as catalog,
    ):
        yield catalog


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with opened(tmp_path) as catalog:
        yield catalog.create("pets", VectorSpace(DIMENSION, "ab" * 32, Metric.COSINE), 3)


def answers(results: list[QueryAnswer | ServiceError]) -> list[QueryAnswer]:
    sound = [result for result in results if isinstance(result, QueryAnswer)]
    assert len(sound) == len(results)
    return sound


class Model:
    """What a collection should hold: records and their float16 vectors, by id."""

    def __init__(self, space: VectorSpace, seed: int) -> None:
        self.space = space
        self.random = np.random.default_rng(seed)
        self.records: dict[str, Record] = {}
        self.vectors: dict[str, np.ndarray] = {}

    def some_ids(self) -> list[str]:
        numbers = self.random.choice(300, size=self.random.integers(1, 40), replace=False)
        return [f"img/{number:03d}é" for number in numbers]

    def some_vectors(self, count: int) -> np.ndarray:
        """From a small grid, so that equal vectors and equal scores are common; never all zeros."""
        grid = self.random.integers(-1, 2, (count, DIMENSION)).astype(np.float32)
        grid[:, 0] += 3
        return grid

    def write(self, collection: Collection) -> None:
        kind = self.random.integers(0, 4)
        ids = self.some_ids()
        if kind <= 1:
            records = [Record(own, f"caption {self.random.integers(1000)}", None, b'{"n": 1}') for own in ids]
            vectors = self.some_vectors(len(ids))
            assert collection.upsert([UpsertBatch(records, vectors)]) == [[None] * len(ids)]
            stored = self.space.prepare(vectors)[0].astype(np.float16)
            self.records |= {record.id: record for record in records}
            self.vectors |= dict(zip(ids, stored, strict=True))
        elif kind == 2:
            faults = collection.update([RecordUpdate(own, caption="updated", metadata_json=b"") for own in ids])
            assert [fault is None for fault in faults] == [own in self.records for own in ids]
            self.records |= {own: Record(own, "updated") for own in ids if own in self.records}
        else:
            faults, deleted = collection.delete(list(ids))
            assert faults == [None] * len(ids)
            assert deleted == sum(own in self.records for own in ids)
            for own in ids:
                self.records.pop(own, None)
                self.vectors.pop(own, None)

    def nearest(self, query: np.ndarray, k: int, without: str | None = None) -> list[tuple[float, str]]:
        ids = [own for own in self.vectors if own != without]
        if not ids:
            return []
        held = np.stack([self.vectors[own] for own in ids]).astype(np.float32)
        scores = self.space.scores(np.repeat(query[None, :], len(ids), axis=0), held).tolist()
        return sorted(zip(scores, ids, strict=True), key=lambda hit: (-hit[0], hit[1].encode()))[:k]

    def check(self, collection: Collection) -> None:
        assert len(collection) == len(self.records)
        ids = sorted(self.records, key=str.encode)
        page = collection.page("", 1_000, with_vectors=True, most_bytes=10**9)
        assert [stored.record for stored in page.records] == [self.records[own] for own in ids]
        for stored in page.records:
            assert stored.vector is not None
            assert (stored.vector == self.vectors[stored.record.id]).all()
        queries = self.some_vectors(3)
        prepared, _ = self.space.prepare(queries)
        for k in (1, 10, 1_000):
            found = answers(collection.search_vectors(queries, SearchOptions(k)).results)
            for answer, query in zip(found, prepared, strict=True):
                assert list(zip(answer.scores.tolist(), answer.ids, strict=True)) == self.nearest(query, k)
        for own in ids[:3]:
            [answer] = answers(collection.search_records([own], SearchOptions(7)).results)
            expected = self.nearest(self.vectors[own].astype(np.float32), 7, without=own)
            assert list(zip(answer.scores.tolist(), answer.ids, strict=True)) == expected


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("shard_count", [1, 5], ids="{} shards".format)
def test_random_writes_and_restarts_leave_what_the_model_holds(
    tmp_path: Path, metric: Metric, shard_count: int
) -> None:
    model = Model(VectorSpace(DIMENSION, "ab" * 32, metric), seed=shard_count)
    with opened(tmp_path) as catalog:
        catalog.create("pets", model.space, shard_count)
    for _ in range(3):
        with opened(tmp_path) as catalog:
            collection = catalog.get("pets")
            model.check(collection)
            for _ in range(12):
                model.write(collection)
            model.check(collection)
    assert len(model.records) > 50


def test_a_record_lies_where_the_hash_of_its_id_says() -> None:
    digest = blake2b("é".encode()).digest()
    assert shard_number("é", 7) == int.from_bytes(digest[:8], "big") % 7
    assert [shard_number(f"img/{number}", 4) for number in range(8)] == [3, 3, 0, 1, 1, 0, 1, 0]


def test_several_batches_are_written_in_order(collection: Collection) -> None:
    batches = [UpsertBatch([Record("a", f"{number}")], np.eye(1, DIMENSION)) for number in range(5)]
    assert collection.upsert(batches) == [[None]] * 5
    [stored] = collection.read(["a"], with_vectors=False)
    assert stored is not None
    assert stored.record.caption == "4"


def test_bad_vectors_and_bad_records_fail_alone(collection: Collection) -> None:
    refused = InvalidArgument("no", field="records[1].id")
    vectors = np.eye(4, DIMENSION)
    vectors[2] = np.nan
    vectors[1] = 0
    [faults] = collection.upsert([UpsertBatch([Record("a"), refused, Record("c"), Record("d")], vectors)])
    assert faults[0] is None
    assert faults[1] is refused
    assert isinstance(faults[2], InvalidArgument)
    assert faults[2].field == "vectors[2]"
    assert faults[3] is None
    assert len(collection) == 2


def test_a_shard_that_fails_fails_its_own_records_alone(collection: Collection) -> None:
    ids = [f"{number}" for number in range(60)]
    writer = collection.shards[1]._store._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    records = [Record(own, "x" * 5_000) for own in ids]
    vectors = np.ones((60, DIMENSION))
    [faults] = collection.upsert([UpsertBatch(records, vectors)])
    for own, fault in zip(ids, faults, strict=True):
        if shard_number(own, 3) == 1:
            assert isinstance(fault, ResourceExhausted)
            assert "shard 1 of collection 'pets'" in fault.message
        else:
            assert fault is None
    [answer] = answers(collection.search_vectors(np.ones((1, DIMENSION)), SearchOptions(100)).results)
    assert set(answer.ids) == {own for own, fault in zip(ids, faults, strict=True) if fault is None}
    faults, deleted = collection.delete([*ids, ids[0]])
    assert deleted == len(answer.ids)


def test_pages_cover_everything_once_and_stay_within_their_bytes(collection: Collection) -> None:
    ids = sorted(f"{number:04d}" for number in range(500))
    records = [Record(own, "x" * 100) for own in ids]
    collection.upsert([UpsertBatch(records, np.ones((500, DIMENSION)))])
    for size, most_bytes in ((7, 10**9), (100, 2_000), (500, 10**9), (499, 1)):
        seen: list[str] = []
        after = ""
        while True:
            page = collection.page(after, size, with_vectors=False, most_bytes=most_bytes)
            assert 1 <= len(page.records) <= min(size, max(1, most_bytes // 100))
            seen += [stored.record.id for stored in page.records]
            after = page.last_id
            if not after:
                break
            assert after == seen[-1]
        assert seen == ids


def test_offset_turns_pages_of_hits(collection: Collection) -> None:
    vectors = np.random.default_rng(1).standard_normal((200, DIMENSION))
    collection.upsert([UpsertBatch([Record(f"{number:03d}") for number in range(200)], vectors)])
    [whole] = answers(collection.search_vectors(vectors[:1], SearchOptions(200)).results)
    turned: list[str] = []
    for offset in range(0, 210, 30):
        [part] = answers(collection.search_vectors(vectors[:1], SearchOptions(30, offset)).results)
        turned += part.ids
    assert turned == whole.ids
    [part] = answers(collection.search_records(["000"], SearchOptions(5, 3)).results)
    [first] = answers(collection.search_records(["000"], SearchOptions(8)).results)
    assert part.ids == first.ids[3:]
    assert "000" not in first.ids


def test_the_answer_includes_what_is_asked_for_and_states_its_evidence(collection: Collection) -> None:
    vectors = np.random.default_rng(2).standard_normal((40, DIMENSION))
    records = [Record(f"{number:02d}", f"caption {number}") for number in range(40)]
    collection.upsert([UpsertBatch(records, vectors)])
    collection.delete(["07"])
    answer = collection.search_vectors(vectors[:2], SearchOptions(10, include=Include(caption=True, vector=True)))
    for result in answers(answer.results):
        assert result.records == [records[int(own)] for own in result.ids]
        assert result.vectors is not None
        stored = collection.read(result.ids, with_vectors=True)
        assert [hit.tolist() for hit in result.vectors] == [
            record.vector.tolist() for record in stored if record is not None and record.vector is not None
        ]
    evidence = answer.evidence
    assert (evidence.shards_asked, evidence.shards_answered, evidence.rows_scanned) == (3, 3, 39)
    assert evidence.shard_search_seconds > 0
    assert evidence.merge_seconds > 0


def test_queries_that_cannot_be_answered_fail_alone(collection: Collection) -> None:
    collection.upsert([UpsertBatch([Record("a"), Record("b")], np.eye(2, DIMENSION))])
    queries = np.eye(3, DIMENSION)
    queries[1] = np.inf
    good, bad, also_good = collection.search_vectors(queries, SearchOptions(5)).results
    assert isinstance(bad, InvalidArgument)
    assert isinstance(good, QueryAnswer)
    assert isinstance(also_good, QueryAnswer)
    assert good.ids == ["a", "b"]
    assert also_good.ids == ["a", "b"]
    missing, found = collection.search_records(["x", "a"], SearchOptions(5)).results
    assert isinstance(missing, NotFound)
    assert isinstance(found, QueryAnswer)
    assert found.ids == ["b"]
    [nothing] = collection.search_records(["x"], SearchOptions(5)).results
    assert isinstance(nothing, NotFound)


def test_a_query_leaves_out_itself_and_none_that_is_nearly_called_so(collection: Collection) -> None:
    collection.upsert([UpsertBatch([Record("a"), Record("a\x00")], np.ones((2, DIMENSION)))])
    found = answers(collection.search_records(["a", "a\x00"], SearchOptions(5)).results)
    assert [answer.ids for answer in found] == [["a\x00"], ["a"]]
    collection.delete(["a\x00"])
    [alone] = answers(collection.search_records(["a"], SearchOptions(5)).results)
    assert alone.ids == []


def test_an_empty_collection_answers_with_no_hits(collection: Collection) -> None:
    include = Include(caption=True, vector=True)
    [answer] = answers(collection.search_vectors(np.ones((1, DIMENSION)), SearchOptions(5, include=include)).results)
    assert (answer.ids, answer.records) == ([], [])
    assert collection.page("", 10, with_vectors=True, most_bytes=1).records == []


def test_pages_by_filter_hold_every_match_once_however_few_are_looked_at(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index_service.collection._LISTED_ROWS", 25)
    records = [Record(f"{number:03d}", "odd" if number % 2 else None) for number in range(300)]
    collection.upsert([UpsertBatch(records, np.ones((300, DIMENSION), np.float32))])
    where = AllOf((Exists(CAPTION), Not(HasPrefix(CAPTION, "even"))))
    for size, most_bytes in ((1, 10**9), (10, 10**9), (100, 10**9), (100, 50)):
        found: list[str] = []
        after = None
        while after != "":
            page = collection.page(after or "", size, with_vectors=False, most_bytes=most_bytes, where=where)
            assert len(page.records) <= size
            found += [stored.record.id for stored in page.records]
            after = page.last_id
        assert found == [f"{number:03d}" for number in range(1, 300, 2)]


def test_a_delete_by_filter_that_fails_says_how_much_is_done(collection: Collection) -> None:
    records = [Record(f"{number:03d}", "odd" if number % 2 else None) for number in range(300)]
    collection.upsert([UpsertBatch(records, np.ones((300, DIMENSION), np.float32))])
    with pytest.raises(DeadlineExceeded, match=r"^0 records are deleted, not all that match: the deadline passed"):
        collection.delete_matching(Exists(CAPTION), time.monotonic() - 1)
    assert len(collection) == 300
    collection.shards[2].close()
    with pytest.raises(NotFound, match="is closed") as caught:
        collection.delete_matching(Exists(CAPTION), None)
    assert caught.value.message.startswith(f"{300 - len(collection)} records are deleted, not all that match: shard 2")
