import itertools
import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index_service.record_store import RecordStore, StoreClosed, StoreDamaged, StoreFailed, StoreInterrupted
from index_service.records import Delete, Record, RecordUpdate, StoredRecord, Update, Upsert


@pytest.fixture
def path(tmp_path: Path) -> Path:
    RecordStore.create(tmp_path / "records.sqlite", 2)
    return tmp_path / "records.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[RecordStore]:
    with closing(RecordStore(path, 2)) as opened:
        yield opened


def upsert(*records: Record, start: float = 0.0) -> Upsert:
    return Upsert(list(records), np.arange(start, start + 2 * len(records), dtype=np.float16).reshape(-1, 2))


def only(found: list[StoredRecord | None]) -> StoredRecord:
    [stored] = found
    assert stored is not None
    return stored


def test_records_come_back_as_they_were_written(store: RecordStore) -> None:
    whole = Record("a\x00b", "a caption", "file:///a.png", b'{"n": 9007199254740993}')
    effects, sequence = store.apply([upsert(whole, Record("🐞"))])
    assert [effect.existed for effect in effects] == [[False, False]]
    assert sequence == 1 == store.applied_sequence()
    found = store.read(["🐞", "nobody", "a\x00b"], with_vectors=True)
    assert found[1] is None
    assert found[0] is not None
    assert found[0].record == Record("🐞")
    assert found[2] is not None
    assert found[2].record == whole
    assert found[2].vector is not None
    assert found[2].vector.tolist() == [0.0, 1.0]
    assert only(store.read(["🐞"], with_vectors=False)).vector is None


def test_an_upsert_replaces_the_record_whole(store: RecordStore) -> None:
    store.apply([upsert(Record("a", "old", "old uri", b'{"old": 1}'))])
    effects, _ = store.apply([upsert(Record("a", "new"), start=5.0)])
    assert [effect.existed for effect in effects] == [[True]]
    stored = only(store.read(["a"], with_vectors=True))
    assert stored.record == Record("a", "new")
    assert stored.vector is not None
    assert stored.vector.tolist() == [5.0, 6.0]


def test_an_update_changes_what_it_names_and_empty_removes(store: RecordStore) -> None:
    store.apply([upsert(Record("a", "caption", "uri", b'{"n": 1}'))])
    effects, _ = store.apply([Update([RecordUpdate("a", caption="other"), RecordUpdate("b", caption="x")])])
    assert [effect.existed for effect in effects] == [[True, False]]
    assert only(store.read(["a"], with_vectors=False)).record == Record("a", "other", "uri", b'{"n": 1}')
    store.apply([Update([RecordUpdate("a", caption="", source_uri="", metadata_json=b"")])])
    stored = only(store.read(["a"], with_vectors=True))
    assert stored.record == Record("a")
    assert stored.vector is not None
    assert stored.vector.tolist() == [0.0, 1.0]


def test_a_deleted_record_is_gone_and_its_row_number_is_not_used_again(store: RecordStore, path: Path) -> None:
    store.apply([upsert(Record("a"), Record("b"))])
    effects, sequence = store.apply([Delete(["b", "c"]), upsert(Record("d"))])
    assert [effect.existed for effect in effects] == [[True, False], [False]]
    assert [(effect.buried, effect.first_row) for effect in effects] == [([2], 0), ([], 3)]
    assert sequence == 3
    assert store.ids_after("", 10) == ["a", "d"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT row, id FROM records ORDER BY row").fetchall() == [(1, "a"), (3, "d")]
        assert connection.execute("SELECT row FROM vectors ORDER BY row").fetchall() == [(1,), (3,)]


def test_ids_are_listed_in_the_order_of_their_bytes(store: RecordStore) -> None:
    ids = ["b", "a", "aa", "Z", "é", "🐞", "\uffff", "~"]
    store.apply([upsert(*map(Record, ids))])
    ordered = sorted(ids, key=str.encode)
    assert store.ids_after("", 100) == ordered
    assert store.ids_after(ordered[2], 3) == ordered[3:6]


def test_a_failing_write_leaves_nothing_of_the_whole_commit(store: RecordStore) -> None:
    store.apply([upsert(Record("a", "old"))])
    with pytest.raises(StoreFailed, match="UNIQUE"):
        store.apply([Delete(["a"]), upsert(Record("twice"), Record("twice"))])
    assert store.recover() == 1
    assert only(store.read(["a"], with_vectors=False)).record.caption == "old"
    assert store.read(["twice"], with_vectors=False) == [None]
    assert store.apply([upsert(Record("b"))])[1] == 2


def test_everything_survives_reopening(path: Path) -> None:
    with closing(RecordStore(path, 2)) as store:
        records = [Record(f"{n:03d}", f"caption {n}", "uri", b'{"n": %d}' % n) for n in range(100)]
        store.apply([upsert(*records)])
        store.apply([Delete(["050"])])
    with closing(RecordStore(path, 2)) as store:
        assert store.applied_sequence() == 2
        assert store.rows().tolist() == [*range(1, 51), *range(52, 101)]
        chunks = list(store.stream(1, 30))
        assert [len(chunk.records) for _, chunk in chunks] == [30, 30, 30, 9]
        assert [len(chunk.records) for _, chunk in store.stream(60, 30)] == [30, 11]
        assert chunks[0][0].tolist() == list(range(1, 31))
        assert chunks[0][1].vectors[3].tolist() == [6.0, 7.0]
        assert chunks[0][1].records[3] == Record("003", "caption 3", None, b'{"n": 3}')
        assert "050" not in [record.id for record in chunks[1][1].records]


def test_a_closed_store_refuses_and_closing_twice_is_harmless(path: Path) -> None:
    store = RecordStore(path, 2)
    store.close()
    store.close()
    for use in (
        store.applied_sequence,
        store.recover,
        lambda: store.apply([]),
        lambda: store.read([], with_vectors=True),
    ):
        with pytest.raises(StoreClosed):
            use()


def test_its_size_can_be_asked_while_its_collection_is_moved_aside(store: RecordStore, path: Path) -> None:
    folder, aside = path.parent, path.parent.with_name("aside")
    asked = threading.Event()

    def move_to_and_fro() -> None:
        while not asked.is_set():
            folder.rename(aside)
            aside.rename(folder)

    with ThreadPoolExecutor(1) as mover:
        moving = mover.submit(move_to_and_fro)
        try:
            sizes = [store.file_bytes for _ in range(10_000)]
        finally:
            asked.set()
        moving.result()
    assert max(sizes) > 10_000


def spoil(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statement)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("PRAGMA application_id = 7", "expected application id 0x45594542, not 0x7"),
        ("PRAGMA user_version = 9", "expected schema version 2, not 9"),
        ("UPDATE state SET dimension = 3", r"expected 2 dimensions, not \[3\]"),
        ("DELETE FROM state", r"expected 2 dimensions, not \[\]"),
    ],
)
def test_a_foreign_file_is_refused_with_both_values(path: Path, statement: str, message: str) -> None:
    spoil(path, statement)
    with pytest.raises(StoreDamaged, match=message):
        RecordStore(path, 2)


def test_a_missing_an_empty_and_an_overwritten_file_are_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreDamaged, match="missing"):
        RecordStore(tmp_path / "none.sqlite", 2)
    assert not (tmp_path / "none.sqlite").exists()
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(StoreDamaged, match="no record store"):
        RecordStore(tmp_path / "empty.sqlite", 2)
    path.write_bytes(b"this is not SQLite" * 1000)
    with pytest.raises(StoreDamaged, match="damaged"):
        RecordStore(path, 2)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE vectors SET vector = x'00'", "expected 4 bytes in the vector of row 1, not 1"),
        ("DELETE FROM vectors WHERE row = 1", "2 records or vectors, but only 1"),
        ("DELETE FROM records WHERE row = 1", "2 records or vectors, but only 1"),
    ],
)
def test_rows_that_do_not_belong_together_are_noticed(path: Path, statement: str, message: str) -> None:
    with closing(RecordStore(path, 2)) as store:
        store.apply([upsert(Record("a"), Record("b"))])
    spoil(path, statement)
    with closing(RecordStore(path, 2)) as store, pytest.raises(StoreDamaged, match=message):
        list(store.stream(1, 10))


def test_a_copy_is_of_one_moment_and_opens_like_the_original(store: RecordStore, path: Path, tmp_path: Path) -> None:
    """A writer in another thread commits whole pairs of records; no copy holds half of one."""
    done = threading.Event()

    def write_pair(number: int) -> None:
        store.apply([upsert(Record(f"{number}-a", "c" * 2_000), Record(f"{number}-b", "c" * 2_000))])

    def write() -> None:
        for number in itertools.count(1):
            if done.is_set():
                return
            write_pair(number)

    write_pair(0)
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        try:
            for number in range(10):
                before = store.applied_sequence()
                sequence, count = store.copy_into(tmp_path / f"copy{number}", lambda: False)
                assert before <= sequence <= store.applied_sequence()
                assert count == 2 * sequence
                with closing(RecordStore(tmp_path / f"copy{number}", 2)) as copy:
                    ids = copy.ids_after("", 100_000)
                    assert ids == sorted(f"{pair}-{half}" for pair in range(sequence) for half in "ab")
                    assert copy.applied_sequence() == sequence
                    assert copy.rows().tolist() == list(range(1, count + 1))
                    [(rows, stored)] = copy.stream(1, 100_000)
                    assert (len(rows), stored.vectors.shape) == (count, (count, 2))
                    assert copy.apply([upsert(Record("new"))])[1] == sequence + 1
        finally:
            done.set()
        writing.result()
    with closing(sqlite3.connect(tmp_path / "copy0")) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_copy_leaves_what_was_deleted_behind(store: RecordStore, path: Path, tmp_path: Path) -> None:
    store.apply([upsert(Record("a", "a secret"), Record("b"))])
    store.apply([Delete(["a"])])
    store.copy_into(tmp_path / "copy", lambda: False)
    assert b"a secret" not in (tmp_path / "copy").read_bytes()


def test_a_copy_can_be_stopped_and_the_store_goes_on(store: RecordStore, tmp_path: Path) -> None:
    store.apply([upsert(*(Record(f"{number}", "c" * 100) for number in range(20_000)))])
    with pytest.raises(StoreInterrupted):
        store.copy_into(tmp_path / "copy", lambda: True)
    (tmp_path / "copy").unlink(missing_ok=True)
    assert store.copy_into(tmp_path / "copy", lambda: False) == (1, 20_000)
    assert store.apply([Delete(["1"])])[1] == 2


def test_a_damaged_store_is_not_copied(path: Path, tmp_path: Path) -> None:
    with closing(RecordStore(path, 2)) as store:
        store.apply([upsert(*(Record(f"{number}", "c" * 500) for number in range(200)))])
    data = bytearray(path.read_bytes())
    data[10 * 4_096 : 11 * 4_096] = b"x" * 4_096
    path.write_bytes(data)
    with closing(RecordStore(path, 2)) as store, pytest.raises(StoreDamaged):
        store.copy_into(tmp_path / "copy", lambda: False)


def held(store: RecordStore) -> dict[str, StoredRecord]:
    """All that a store holds, read in every way there is."""
    rows = store.rows()
    ids = store.ids_after("", 100_000)
    by_id = {own: only([found]) for own, found in zip(ids, store.read(ids, with_vectors=True), strict=True)}
    assert len(rows) == len(ids)
    streamed = [
        (row, *pair)
        for numbers, part in store.stream(1, 4_096)
        for row, *pair in zip(numbers.tolist(), part.records, part.vectors, strict=True)
    ]
    assert [row for row, _, _ in streamed] == rows.tolist()
    for row, record, vector in streamed:
        stored = by_id[record.id]
        assert stored.vector is not None
        assert (stored.vector == vector).all()
        assert (record.caption, record.metadata_json) == (stored.record.caption, stored.record.metadata_json)
        assert store.read_documents([row]) == [(row, record.caption, record.metadata_json)]
    return by_id


def same(one: dict[str, StoredRecord], other: dict[str, StoredRecord]) -> bool:
    return one.keys() == other.keys() and all(
        stored.record == other[own].record and np.array_equal(stored.vector, other[own].vector)  # type: ignore[arg-type]
        for own, stored in one.items()
    )


@pytest.mark.parametrize("seed", range(4))
def test_no_flipped_bit_anywhere_changes_what_is_read(path: Path, tmp_path: Path, seed: int) -> None:
    """SQLite itself reads most of them without a word."""
    with closing(RecordStore(path, 2)) as store:
        for part in range(5):
            records = [
                Record(f"{part}-{n}", f"caption {n}", None if n % 3 else f"u{n}", b'{"n": %d}' % n) for n in range(50)
            ]
            store.apply([upsert(*records, start=part)])
        store.apply([Delete([f"2-{n}" for n in range(50)]), Update([RecordUpdate("1-7", caption="changed")])])
        before = held(store)
    whole, chosen = path.read_bytes(), random.Random(seed)
    changed = tmp_path / "changed.sqlite"
    messages: list[str] = []
    for number in range(100):
        flipped = bytearray(whole)
        flipped[chosen.randrange(len(whole) if number % 4 else 4_096)] ^= 1 << chosen.randrange(8)
        for leftover in tmp_path.glob("changed.sqlite*"):
            leftover.unlink()
        changed.write_bytes(flipped)
        try:
            with closing(RecordStore(changed, 2)) as store:
                assert same(held(store), before)
        except StoreDamaged as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert all(str(changed) in message for message in messages)


FIRST_SCHEMA = """
PRAGMA application_id = 0x45594542;
PRAGMA user_version = 1;
CREATE TABLE state (dimension INTEGER NOT NULL, applied_sequence INTEGER NOT NULL, next_row INTEGER NOT NULL);
CREATE TABLE records (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, caption TEXT, source_uri TEXT, metadata_json BLOB
);
CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
INSERT INTO state VALUES (2, 1, 3);
INSERT INTO records VALUES (1, 'a', 'old', NULL, NULL), (2, 'b', NULL, 'u', x'7b7d');
INSERT INTO vectors VALUES (1, x'003c0000'), (2, x'0000003c');
"""


def test_a_store_of_the_first_schema_is_taken_over_and_new_rows_are_covered(tmp_path: Path) -> None:
    path = tmp_path / "first.sqlite"
    spoil(path, FIRST_SCHEMA)
    for _ in range(2):
        with closing(RecordStore(path, 2)) as store:
            found = held(store)
            assert [found[own].record for own in "ab"] == [Record("a", "old"), Record("b", None, "u", b"{}")]
            assert store.applied_sequence() == 1
    with closing(RecordStore(path, 2)) as store:
        store.apply([Update([RecordUpdate("a", caption="new")]), Delete(["b"])])
        assert held(store).keys() == {"a"}
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*) FROM records WHERE checksum IS NULL").fetchone() == (0,)
    spoil(path, "UPDATE records SET caption = 'nwe'")
    with closing(RecordStore(path, 2)) as store, pytest.raises(StoreDamaged, match="'a' is not as it was written"):
        store.read(["a"], with_vectors=False)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM records WHERE id = 'a'",
        "UPDATE records SET id = 'c' WHERE id = 'a'",
        "UPDATE state SET next_row = 2",
        "UPDATE state SET applied_sequence = 0",
    ],
)
def test_records_that_are_missing_or_anothers_are_noticed(path: Path, statement: str) -> None:
    with closing(RecordStore(path, 2)) as store:
        store.apply([upsert(Record("a"), Record("b"))])
    spoil(path, statement)
    with pytest.raises(StoreDamaged, match="written"), closing(RecordStore(path, 2)) as store:
        store.rows()


def crashed(store: RecordStore, path: Path, to: Path) -> Path:
    """A copy of the files as a kill -9 would leave them."""
    to.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, to)
    return to / path.name


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_write_ahead_log_that_lost_acknowledged_writes_is_noticed(
    store: RecordStore, path: Path, tmp_path: Path, damage: str
) -> None:
    for number in range(20):
        store.apply([upsert(Record(f"{number}"))])
    with closing(RecordStore(crashed(store, path, tmp_path / "whole"), 2)) as whole:
        assert len(whole.rows()) == 20
    other = crashed(store, path, tmp_path / "damaged")
    log = Path(f"{other}-wal")
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    match damage:
        case "flip":
            log.write_bytes(data)
        case "truncate":
            log.write_bytes(data[:-5_000])
        case "remove":
            log.unlink()
    with pytest.raises(StoreDamaged, match=r"holds \d+ writes, but 20 were acknowledged: .*-wal") as raised:
        RecordStore(other, 2)
    mark = str(raised.value).rpartition("remove ")[2]
    Path(mark).unlink()
    with closing(RecordStore(other, 2)) as reopened:
        assert len(reopened.rows()) < 20


@pytest.mark.parametrize("data", [b"", b"short", bytes(12), b"\xff" * 12])
def test_a_mark_that_can_not_be_read_is_made_anew(store: RecordStore, path: Path, tmp_path: Path, data: bytes) -> None:
    store.apply([upsert(Record("a"))])
    other = crashed(store, path, tmp_path / "other")
    Path(f"{other}-acknowledged").write_bytes(data)
    with closing(RecordStore(other, 2)) as reopened:
        reopened.apply([upsert(Record("b"))])
        lost = crashed(reopened, other, tmp_path / "lost")
    Path(f"{lost}-wal").unlink()
    with pytest.raises(StoreDamaged, match="2 were acknowledged"):
        RecordStore(lost, 2)
