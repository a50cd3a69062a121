"""Disk and memory in step, also on a failing disk: SQLite's page limit and the file size limit stand for one."""

import resource
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service.metrics import IndexMetrics
from index_service.parts import ShardView
from index_service.record_store import RecordStore
from index_service.records import Delete, Record, RecordUpdate, Update, Upsert
from index_service.shard import STORE_FILE, Shard
from index_service.vector_space import Metric, VectorSpace
from service_runtime.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable

DIMENSION = 16
SPACE = VectorSpace(DIMENSION, "ab" * 32, Metric.COSINE)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def shard(tmp_path: Path, registry: CollectorRegistry) -> Iterator[Shard]:
    Shard.create(tmp_path, DIMENSION)
    opened = reopened(tmp_path, registry)
    yield opened
    opened.close()


def reopened(folder: Path, registry: CollectorRegistry | None = None) -> Shard:
    return Shard(folder, "shard 0 of collection 'pets'", SPACE, IndexMetrics(registry or CollectorRegistry()))


def upsert(*ids: str, caption: str | None = None) -> Upsert:
    vectors = np.full((len(ids), DIMENSION), 0.5, np.float16)
    return Upsert([Record(own, caption) for own in ids], vectors)


def ids_in(view: ShardView) -> set[str]:
    live = [np.arange(part.rows) if part.dead is None else np.flatnonzero(~part.dead) for part in view.parts]
    ids = [own for part, rows in zip(view.parts, live, strict=True) for own in part.ids_of(rows).tolist()]
    assert len(set(ids)) == len(ids)
    return set(ids)


def agreed_ids(shard: Shard) -> set[str]:
    """The ids in memory, which must be those on disk."""
    on_disk = set(shard.ids_after("", 1_000_000))
    assert ids_in(shard.view) == on_disk
    assert len(shard) == shard.stats().record_count == len(on_disk)
    return on_disk


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """No file of this process grows past this: writes fail as on a failing disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_writes_can_be_found_at_once_and_after_reopening(shard: Shard, tmp_path: Path) -> None:
    existed = shard.write(
        [upsert("a", "b"), Delete(["a", "x"]), Update([RecordUpdate("b", "words")]), upsert("b", "c")]
    )
    assert existed == [[False, False], [True, False], [True], [True, False]]
    assert agreed_ids(shard) == {"b", "c"}
    assert shard.stats().applied_sequence == 4
    assert shard.stats().tombstone_count == 3, "a, b, and b as it was updated"
    shard.close()
    with closing(reopened(tmp_path)) as again:
        assert agreed_ids(again) == {"b", "c"}
        assert again.stats().applied_sequence == 4
        assert again.stats().tombstone_count == 0
        vector = again.vector_of("c")
        assert vector is not None
        assert vector.tolist() == [0.5] * DIMENSION


def test_writes_that_wait_together_share_a_commit(shard: Shard, registry: CollectorRegistry) -> None:
    with ThreadPoolExecutor(8) as callers:
        with shard._writer_lock:
            writes = [callers.submit(shard.write, [upsert(f"{caller}"), upsert(f"{caller}")]) for caller in range(8)]
            while len(shard._waiting) < 8:
                time.sleep(0.001)
        assert [write.result() for write in writes] == [[[False], [True]]] * 8
    assert registry.get_sample_value("eyebright_index_stage_latency_seconds_count", {"stage": "commit"}) == 1
    assert registry.get_sample_value("eyebright_index_write_batches_total") == 16
    assert agreed_ids(shard) == set("01234567")


def test_a_full_disk_makes_it_read_only_until_there_is_room(shard: Shard) -> None:
    shard.write([upsert("a")])
    (pages,) = shard._store._writer.execute("PRAGMA page_count").fetchone()
    shard._store._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    for _ in range(2):
        with pytest.raises(ResourceExhausted, match="shard 0 of collection 'pets' is read-only: its disk is full"):
            shard.write([Delete(["a"]), upsert(*map(str, range(1_000)), caption="x" * 500)])
        assert shard.read_only
        assert agreed_ids(shard) == {"a"}
        assert shard.read(["a"], with_vectors=True) != [None]
    shard._store._writer.execute("PRAGMA max_page_count = 1000000")
    shard.write([upsert("b")])
    assert not shard.read_only
    assert agreed_ids(shard) == {"a", "b"}


def test_a_failing_disk_changes_neither_side(shard: Shard, tmp_path: Path) -> None:
    shard.write([upsert("a")])
    size = (tmp_path / f"{STORE_FILE}-wal").stat().st_size
    with largest_file(size + 8_192):
        for number in range(3):
            with pytest.raises(Unavailable, match="shard 0 of collection 'pets'"):
                shard.write([upsert(*(f"{number}-{row}" for row in range(500)), caption="x" * 500)])
            assert agreed_ids(shard) == {"a"}
    shard.write([upsert("b")])
    assert agreed_ids(shard) == {"a", "b"}
    shard.close()
    with closing(reopened(tmp_path)) as again:
        assert agreed_ids(again) == {"a", "b"}


def test_a_commit_that_was_made_although_it_reported_an_error_is_noticed(shard: Shard, tmp_path: Path) -> None:
    shard.write([upsert("a")])
    with closing(RecordStore(tmp_path / STORE_FILE, DIMENSION)) as other:
        other.apply([upsert("made")])
    with largest_file((tmp_path / f"{STORE_FILE}-wal").stat().st_size), pytest.raises(Unavailable):
        shard.write([upsert(*map(str, range(500)), caption="x" * 500)])
    assert agreed_ids(shard) == {"a", "made"}
    shard.write([upsert("b")])
    assert agreed_ids(shard) == {"a", "made", "b"}
    assert shard.stats().applied_sequence == 3


def test_one_writers_bad_luck_is_told_to_all_who_shared_the_commit(shard: Shard) -> None:
    with ThreadPoolExecutor(2) as callers:
        with shard._writer_lock:
            bad = callers.submit(shard.write, [upsert("twice", "twice")])
            good = callers.submit(shard.write, [upsert("b")])
            while len(shard._waiting) < 2:
                time.sleep(0.001)
        for write in (bad, good):
            with pytest.raises(Unavailable, match="UNIQUE"):
                write.result()
    assert agreed_ids(shard) == set()
    shard.write([upsert("b")])
    assert agreed_ids(shard) == {"b"}


def test_many_replacements_are_compacted(shard: Shard) -> None:
    ids = [str(number) for number in range(1_500)]
    for _ in range(5):
        shard.write([upsert(*ids)])
    assert shard.stats().tombstone_count < 4_096 + 1_500
    assert agreed_ids(shard) == set(ids)


def test_a_closed_shard_answers_not_found(shard: Shard) -> None:
    shard.close()
    for use in (lambda: shard.write([upsert("a")]), lambda: shard.read(["a"], with_vectors=False)):
        with pytest.raises(NotFound, match="is closed"):
            use()
    with pytest.raises(NotFound, match="is closed"):
        shard.ids_after("", 1)


def test_damage_that_shows_when_reading_is_told_as_such(shard: Shard, tmp_path: Path) -> None:
    shard.write([upsert("a")])
    with closing(sqlite3.connect(tmp_path / STORE_FILE)) as other, other:
        other.execute("UPDATE vectors SET vector = x'00'")
    with pytest.raises(FailedPrecondition, match="shard 0 of collection 'pets' is damaged"):
        shard.read(["a"], with_vectors=True)
