"""Filters over a shard that is written, sealed, merged, reopened and damaged; the truth is a plain model of it."""

import itertools
import json
import resource
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service import column_file, columns, segment_columns
from index_service.compaction import Policy
from index_service.filtered_view import filter_view
from index_service.filters import (
    CAPTION,
    AllOf,
    AnyOf,
    Comparison,
    Exists,
    Field,
    Filter,
    HasPrefix,
    IsIn,
    Kind,
    Not,
    Operator,
)
from index_service.metrics import IndexMetrics
from index_service.parts import Parts
from index_service.record_store import RecordStore
from index_service.records import Delete, DeleteRows, Record, RecordUpdate, Update, Upsert
from index_service.segment_columns import COLUMNS_FOLDER
from index_service.shard import Shard
from index_service.shard_search import Wanted, search
from index_service.vector_space import Metric, VectorSpace
from service_runtime.errors import DeadlineExceeded, NotFound
from tests.unit.index_service.filter_cases import oracle

DIMENSION = 16
SPACE = VectorSpace(DIMENSION, "ab" * 32, Metric.COSINE)
GROUP, TAGS, DEEP = Field(("group",)), Field(("tags",)), Field(("deep", "n"))
FOOD = Comparison(GROUP, Operator.EQUAL, Kind.STRING, "food")
FILTERS: list[Filter] = [
    FOOD,
    Not(FOOD),
    Comparison(TAGS, Operator.EQUAL, Kind.NUMBER, 3),
    AllOf((Exists(DEEP), Comparison(DEEP, Operator.GREATER_OR_EQUAL, Kind.NUMBER, 500), Not(FOOD))),
    AnyOf((HasPrefix(CAPTION, "picture 1"), Comparison(DEEP, Operator.EQUAL, Kind.NUMBER, 7))),
    IsIn(GROUP, frozenset(["toys", "none such"]), frozenset(), frozenset([True])),
]

Model = dict[str, tuple[np.ndarray, str | None, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Shard.create(tmp_path, DIMENSION)
    return tmp_path


def opened(folder: Path) -> Shard:
    policy = Policy(index_from_rows=1_000, seal_rows=400)
    return Shard(folder, "shard 0 of collection 'pets'", SPACE, IndexMetrics(CollectorRegistry()), policy)


def some_metadata(random: np.random.Generator) -> Any:
    metadata: dict[str, Any] = {}
    if random.random() < 0.8:
        metadata["group"] = ["food", "toys", True, None, 5][random.integers(5)]
    if random.random() < 0.7:
        metadata["tags"] = random.integers(0, 6, random.integers(0, 4)).tolist()
    if random.random() < 0.7:
        metadata["deep"] = {"n": int(random.integers(0, 1_000))}
    return metadata or None


def some_vectors(random: np.random.Generator, count: int) -> np.ndarray:
    prepared, _ = SPACE.prepare(random.standard_normal((count, DIMENSION)).astype(np.float32))
    return prepared.astype(np.float16)


def encoded(metadata: Any) -> bytes | None:
    return None if metadata is None else json.dumps(metadata).encode()


def put(shard: Shard, model: Model, random: np.random.Generator, ids: Sequence[str]) -> None:
    vectors = some_vectors(random, len(ids))
    captions = [None if random.random() < 0.2 else f"picture {random.integers(30)}" for _ in ids]
    metadata = [some_metadata(random) for _ in ids]
    parts = list(zip(ids, captions, metadata, strict=True))
    shard.write([Upsert([Record(own, words, None, encoded(held)) for own, words, held in parts], vectors)])
    model.update({own: (vector, words, held) for (own, words, held), vector in zip(parts, vectors, strict=True)})


def filled(shard: Shard, rows: int = 1_500) -> Model:
    random, model = np.random.default_rng(1), Model()
    put(shard, model, random, [f"id{number}" for number in range(rows)])
    return model


def compact(shard: Shard) -> None:
    while shard.compact(idle=True):
        pass


def hits(shard: Shard, where: Filter, queries: np.ndarray, limit: int) -> list[list[str]]:
    found = shard.filtered(where, None)
    parts = Parts(found.view.parts)
    answers = search(parts, SPACE, queries, Wanted(limit), found.masks()).hits
    return [parts.ids_at(own.addresses).tolist() for own in answers]


def matching(model: Model, where: Filter) -> list[str]:
    return sorted(own for own, (_, caption, metadata) in model.items() if oracle(where, caption, metadata))


def check(shard: Shard, model: Model, filters: Sequence[Filter] = FILTERS) -> None:
    """Filtered answers are those of comparing all that match, each of them."""
    query = some_vectors(np.random.default_rng(5), 1).astype(np.float32)
    for where in filters:
        ids = np.array(matching(model, where), dtype=object)
        stored = np.stack([model[own][0] for own in ids]).astype(np.float32)
        order = np.argsort(-SPACE.scores(query, stored), kind="stable")
        for limit in (1, 10, len(model)):
            assert hits(shard, where, query, limit) == [ids[order[:limit]].tolist()]


def test_whatever_is_written_sealed_merged_and_reopened_filters_hold(folder: Path) -> None:
    random, model = np.random.default_rng(31), Model()
    shard = opened(folder)
    most_segments = 0
    for step in range(40):
        ids = [f"id{number}" for number in random.choice(3_000, size=random.integers(1, 300), replace=False)]
        kind = random.integers(4)
        if kind <= 1:
            put(shard, model, random, ids)
        elif kind == 2:
            metadata = [some_metadata(random) for _ in ids]
            updates = [
                RecordUpdate(own, None, None, encoded(held) or b"") for own, held in zip(ids, metadata, strict=True)
            ]
            shard.write([Update(updates)])
            for own, held in zip(ids, metadata, strict=True):
                if own in model:
                    model[own] = (*model[own][:2], held)
        else:
            shard.write([Delete(ids)])
            model = {own: state for own, state in model.items() if own not in set(ids)}
        if random.random() < 0.6:
            shard.compact(idle=bool(random.random() < 0.2))
        most_segments = max(most_segments, shard.stats().segment_count)
        if step % 4 == 3:
            check(shard, model)
        if step % 13 == 12:
            shard.close()
            shard = opened(folder)
            check(shard, model)
    assert most_segments >= 2
    compact(shard)
    check(shard, model)
    shard.close()


@contextmanager
def no_reading() -> Iterator[None]:
    def refuse(_self: RecordStore, _rows: Sequence[int]) -> list[tuple[int, str | None, bytes | None]]:
        raise AssertionError("a column is built that is there")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordStore, "read_documents", refuse)
        yield


def test_columns_are_inherited_when_segments_are_sealed_and_merged_and_outlive_a_restart(folder: Path) -> None:
    with closing(opened(folder)) as shard, no_reading():
        model = filled(shard)
        check(shard, model)  # in memory
        compact(shard)
        check(shard, model)  # sealed, out of memory
        put(shard, model, np.random.default_rng(2), [f"id{number}" for number in range(1_200, 2_000)])
        shard.write([Delete(["id3", "id1999"])])
        model = {own: state for own, state in model.items() if own not in ("id3", "id1999")}
        assert shard.compact(idle=True)
        assert shard.stats().segment_count == 2
        check(shard, model)  # sealed, by what the other segment has
        compact(shard)
        assert shard.stats().segment_count == 1
        check(shard, model)  # merged
    with closing(opened(folder)) as shard, no_reading():
        check(shard, model)
        compact(shard)
        [name] = [view.segment.name for view in shard.view.segments]
        files = [path.name for path in (folder / COLUMNS_FOLDER).iterdir()]
        assert len(files) == 4
        assert {own.partition("-")[0] for own in files} == {name}, "those of older segments are gone"


def sealed_and_filtered(folder: Path) -> Model:
    with closing(opened(folder)) as shard:
        model = filled(shard)
        compact(shard)
        check(shard, model)
    return model


def column_paths(folder: Path) -> list[Path]:
    return sorted((folder / COLUMNS_FOLDER).iterdir())


def test_missing_and_damaged_columns_are_built_anew(folder: Path) -> None:
    model = sealed_and_filtered(folder)
    sound = {path: path.read_bytes() for path in column_paths(folder)}
    assert len(sound) == 4
    first, second, third, fourth = sound
    first.unlink()
    second.write_bytes(b"")
    third.write_bytes(sound[third][:-1])
    fourth.write_bytes(sound[fourth][:40] + bytes([sound[fourth][40] ^ 1]) + sound[fourth][41:])
    (folder / COLUMNS_FOLDER / ".writing-0").write_bytes(b"half")
    with closing(opened(folder)) as shard:
        assert set(column_paths(folder)) == set(sound) - {first}
        check(shard, model)
    assert {path: path.read_bytes() for path in column_paths(folder)} == sound


def test_rows_that_are_gone_before_a_column_is_built_are_dead(folder: Path) -> None:
    with closing(opened(folder)) as shard:
        model = filled(shard)
        compact(shard)
        gone = [f"id{number}" for number in range(0, 1_500, 9)]
        old = shard.view
        shard.write([Delete(gone)])
        model = {own: state for own, state in model.items() if own not in set(gone)}
        check(shard, model)
        outdated = filter_view(old, shard._columns, FOOD, None)
        assert outdated.outdated
        assert not filter_view(shard.view, shard._columns, FOOD, None).outdated
        let_through = np.flatnonzero(outdated.masks()[0])
        assert sorted(old.segments[0].ids_of(let_through).tolist()) == matching(model, FOOD)


def test_a_column_is_built_once_however_many_wait_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(opened(folder)) as shard:
        model = filled(shard)
        compact(shard)
        go, read, calls = threading.Event(), shard._store.read_documents, list[int]()

        def slow(rows: Sequence[int]) -> list[tuple[int, str | None, bytes | None]]:
            calls.append(len(rows))
            assert go.wait(30)
            return read(rows)

        monkeypatch.setattr(shard._columns, "_read", slow)
        with ThreadPoolExecutor(5) as callers:
            building = [callers.submit(shard.filtered, where, None) for where in (FOOD, Not(FOOD), FOOD, Not(FOOD))]
            while not calls:
                time.sleep(0.001)
            with pytest.raises(DeadlineExceeded, match="while columns were built"):
                shard.filtered(FOOD, time.monotonic() + 0.01)
            query = some_vectors(np.random.default_rng(0), 1).astype(np.float32)
            assert len(search(Parts(shard.view.parts), SPACE, query, Wanted(10)).hits[0].scores) == 10, "others go on"
            go.set()
            assert [len(found.result().numbers()) for found in building[:2]] == [
                len(matching(model, where)) for where in (FOOD, Not(FOOD))
            ]
        assert sum(calls) == len(model)
        check(shard, model, [FOOD])


def test_closing_ends_what_is_being_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = opened(folder)
    filled(shard)
    compact(shard)
    read, begun = shard._store.read_documents, threading.Event()

    def noticed(rows: Sequence[int]) -> list[tuple[int, str | None, bytes | None]]:
        begun.set()
        assert shard._closing.wait(30)
        return read(rows)

    monkeypatch.setattr(shard._columns, "_read", noticed)
    with ThreadPoolExecutor(1) as caller:
        building = caller.submit(shard.filtered, FOOD, None)
        assert begun.wait(30)
        shard.close()
        with pytest.raises(NotFound, match="is closed"):
            building.result()
    assert not column_paths(folder)


@pytest.mark.parametrize("limit", ["MOST_DICTIONARY_BYTES", "disk"])
def test_a_field_that_can_have_no_column_is_answered_record_by_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    with closing(opened(folder)) as shard:
        model = filled(shard)
        compact(shard)
        if limit == "disk":
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
            try:
                check(shard, model)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        else:
            monkeypatch.setattr(column_file, limit, 20)
            check(shard, model)
            with pytest.raises(DeadlineExceeded, match="compared with the filter"):
                shard.filtered(HasPrefix(CAPTION, "none such"), time.monotonic() - 1)
            with no_reading():
                check(shard, model)  # answers are kept
        assert not column_paths(folder) if limit == "disk" else len(column_paths(folder)) == 2


def test_a_segment_keeps_the_columns_used_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MOST_FIELDS", 3)
    monkeypatch.setattr(segment_columns, "MOST_FIELDS", 3)
    with closing(opened(folder)) as shard:
        filled(shard)
        compact(shard)
        for number in range(6):
            shard.filtered(Exists(Field((str(number),))), None)
            assert len(column_paths(folder)) == min(number + 1, 3)
        shard.filtered(AnyOf(tuple(Exists(Field((str(number),))) for number in range(5))), None)
        assert len(column_paths(folder)) == 3


def test_long_texts_are_sealed_however_few_the_rows(folder: Path) -> None:
    with closing(opened(folder)) as shard:
        vectors = some_vectors(np.random.default_rng(0), 100)
        for begin in range(0, 1_200, 100):
            records = [Record(f"{begin + n}", None, None, encoded({"long": "x" * 65_000})) for n in range(100)]
            shard.write([Upsert(records, vectors)])
        shard.policy = Policy(seal_rows=100_000)
        assert shard.compact(idle=False)
        assert shard.stats().memtable_rows < 300


def test_rows_are_deleted_only_while_they_are_what_was_found(folder: Path) -> None:
    with closing(opened(folder)) as shard:
        model = filled(shard, 300)
        rows = shard.filtered(FOOD, None).numbers().tolist()
        kept, replaced, changed, *rest = matching(model, FOOD)
        put(shard, model, np.random.default_rng(3), [replaced])
        shard.write([Update([RecordUpdate(changed, metadata_json=b"")])])
        [existed] = shard.write([DeleteRows(rows)])
        assert sum(existed) == len(rest) + 1
        assert set(shard.ids_after("", 1_000)) == set(model) - {kept, *rest}
        [again] = shard.write([DeleteRows(rows)])
        assert not any(again)


def test_a_record_that_changes_is_always_there_in_one_state(folder: Path) -> None:
    """Updates, compaction and filters that build columns run side by side: each search finds every record once."""
    count, done = 600, threading.Event()
    ids = [f"id{number:03d}" for number in range(count)]
    with closing(opened(folder)) as shard:
        random = np.random.default_rng(4)
        shard.write([Upsert([Record(own, None, None, b'{"v": 1}') for own in ids], some_vectors(random, count))])

        def update() -> None:
            while not done.is_set():
                some = random.choice(ids, size=20, replace=False).tolist()
                value = b'{"v": %d}' % random.integers(1, 3)
                shard.write([Update([RecordUpdate(own, metadata_json=value) for own in some])])

        def compact_often() -> None:
            while not done.is_set():
                compact(shard)
                # As after a restart without columns: the next filter builds them while records change.
                for path in column_paths(folder) if (folder / COLUMNS_FOLDER).exists() else ():
                    path.unlink(missing_ok=True)
                shard._columns._segments.clear()

        query = some_vectors(np.random.default_rng(0), 1).astype(np.float32)
        value = Field(("v",))
        with ThreadPoolExecutor(2) as others:
            running = [others.submit(update), others.submit(compact_often)]
            try:
                for _ in itertools.takewhile(lambda step: step < 150 or shard.applied_sequence < 50, itertools.count()):
                    one, two = (Comparison(value, Operator.EQUAL, Kind.NUMBER, number) for number in (1, 2))
                    for where in (AnyOf((one, two)), Not(AllOf((one, two))), Exists(value)):
                        [found] = hits(shard, where, query, 2 * count)
                        assert sorted(found) == ids
                    [ones] = hits(shard, one, query, 2 * count)
                    assert len(set(ones)) == len(ones) <= count
            finally:
                done.set()
            for own in running:
                own.result()
