"""The records of one shard on disk: one SQLite file, the truth that everything else is rebuilt from.

Owns the file's tables, its transactions and the words for what can go wrong with it. A write that returns is on disk.
Knows nothing of shards, requests or what vectors mean.
"""

import errno
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition
from typing import TypeVar

import numpy as np

from index_service.fault_points import reach
from index_service.records import Delete, DeleteRows, Record, RecordUpdate, StoredRecord, Update, Upsert, Write
from index_service.vector_space import STORED_DTYPE

_APPLICATION_ID = 0x45594542  # "EYEB"
_SCHEMA_VERSION = 1
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
CREATE TABLE state (dimension INTEGER NOT NULL, applied_sequence INTEGER NOT NULL, next_row INTEGER NOT NULL);
CREATE TABLE records (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, caption TEXT, source_uri TEXT, metadata_json BLOB
);
CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
"""
_READ = "SELECT id, caption, source_uri, metadata_json FROM records WHERE id = ?"
_READ_WITH_VECTOR = (
    "SELECT id, caption, source_uri, metadata_json, vector FROM records JOIN vectors USING (row) WHERE id = ?"
)
_DISK_FULL_CODES = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMMAP}
)
_DAMAGED_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_IDLE_READERS = 2
_STEPS_BETWEEN_LOOKS = 10_000

Part = TypeVar("Part", str, bytes)


class StoreError(Exception):
    """Something is wrong with the file."""


class StoreDamaged(StoreError):
    """The file is not what this service wrote."""


class StoreFull(StoreError):
    """The disk has no room for a write."""


class StoreFailed(StoreError):
    """The operating system refused to read or write."""


class StoreClosed(StoreError):
    """The store was closed, because its collection is deleted or the service stops."""


class StoreInterrupted(StoreError):
    """A copy was told to stop."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one write did."""

    existed: list[bool]
    """For each item, whether the record existed before."""
    buried: list[int]
    """Rows that the write removed."""
    removed: list[str]
    """Ids of the records in those rows."""
    first_row: int = 0
    """Row of the first record it wrote; those after it follow in order."""
    written: Upsert | None = None
    """What it wrote; None when nothing."""


class RecordStore:
    """One open file. One thread at a time writes; any number read."""

    def __init__(self, path: Path, dimension: int) -> None:
        """Open an existing file. Raises StoreDamaged when it is missing, foreign, damaged or of another dimension."""
        self._path = path
        self._dimension = dimension
        self._closed = False
        self._readers_out = 0
        self._idle_readers: list[sqlite3.Connection] = []
        self._readers_changed = Condition()
        if not path.is_file():
            raise StoreDamaged(f"{path} is missing")
        with self._translated():
            self._writer = self._connect()
            try:
                self._check_file()
            except BaseException:
                self._writer.close()
                raise
            # A reader that stays open keeps the write-ahead log's index on disk, which a full disk could not make anew.
            self._idle_readers.append(self._connect())
            self._idle_readers[0].execute("SELECT count(*) FROM state").fetchone()

    @staticmethod
    def create(path: Path, dimension: int) -> None:
        """Make an empty file, durably but for its name in the folder. Raises StoreFull or StoreFailed."""
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.executescript(_SCHEMA)
                connection.execute("INSERT INTO state VALUES (?, 0, 1)", (dimension,))
        except sqlite3.Error as error:
            raise _translate(error, path) from error

    def close(self) -> None:
        """Refuse further use, wait for reads that are under way, and close the file."""
        with self._readers_changed:
            self._closed = True
            self._readers_changed.wait_for(lambda: self._readers_out == 0)
            for reader in self._idle_readers:
                reader.close()
            self._idle_readers.clear()
        self._writer.close()

    @property
    def disk_bytes(self) -> int:
        """Bytes of the file and its write-ahead log."""
        total = 0
        for path in (self._path, Path(f"{self._path}-wal")):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def applied_sequence(self) -> int:
        """Number of writes applied since the file was made."""
        with self._reading() as reader:
            return int(reader.execute("SELECT applied_sequence FROM state").fetchone()[0])

    def apply(self, writes: Sequence[Write]) -> tuple[list[Effect], int]:
        """Apply writes in one durable transaction, whole or not at all.

        Returns what each write did, and the sequence number now.
        Raises StoreError; then ``recover`` tells whether the writes were applied all the same.
        """
        if self._closed:
            raise StoreClosed(f"{self._path} is closed")
        with self._translated():
            self._writer.execute("BEGIN IMMEDIATE")
            sequence, next_row = self._writer.execute("SELECT applied_sequence, next_row FROM state").fetchone()
            effects: list[Effect] = []
            for write in writes:
                match write:
                    case Upsert():
                        effects.append(self._put(write, next_row))
                    case Update(updates):
                        effects.append(self._update(updates, next_row))
                    case Delete(ids):
                        effects.append(self._remove(ids))
                    case DeleteRows(rows):
                        effects.append(self._remove_rows(rows))
                written = effects[-1].written
                next_row += len(written.records) if written else 0
            sequence += len(writes)
            self._writer.execute("UPDATE state SET applied_sequence = ?, next_row = ?", (sequence, next_row))
            reach("write.before_commit")
            self._writer.execute("COMMIT")
            reach("write.after_commit")
        return effects, sequence

    def recover(self) -> int:
        """After an error of ``apply``: roll back what is open, and return the sequence number that is on disk."""
        if self._closed:
            raise StoreClosed(f"{self._path} is closed")
        with self._translated():
            try:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                return int(self._writer.execute("SELECT applied_sequence FROM state").fetchone()[0])
            except sqlite3.Error:
                broken, self._writer = self._writer, self._connect()
                broken.close()
                return int(self._writer.execute("SELECT applied_sequence FROM state").fetchone()[0])

    def copy_into(self, path: Path, stop: Callable[[], bool]) -> tuple[int, int]:
        """Write what the file holds at this moment into a new one, while writes go on. Makes nothing durable.

        Returns the sequence number and the number of records of the copy. Raises StoreDamaged where the file can't be
        read in full, StoreFull, or StoreInterrupted soon after ``stop`` says so; ``path`` may be left half written.
        """
        with self._reading() as reader:
            reader.set_progress_handler(stop, _STEPS_BETWEEN_LOOKS)
            try:
                # One read transaction, so one moment. Reads records, not pages: finds damage, leaves free space out.
                reader.execute("VACUUM INTO ?", (str(path),))
            finally:
                reader.set_progress_handler(None, 0)
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as copy:
                copy.execute("PRAGMA journal_mode = WAL")
                (sequence,) = copy.execute("SELECT applied_sequence FROM state").fetchone()
                (count,) = copy.execute("SELECT count(*) FROM records").fetchone()
        except sqlite3.Error as error:
            raise _translate(error, path) from error
        return int(sequence), int(count)

    def read(self, ids: Sequence[str], *, with_vectors: bool) -> list[StoredRecord | None]:
        """The records of these ids, in order; None where there is none."""
        with self._reading() as reader:
            query = _READ_WITH_VECTOR if with_vectors else _READ
            rows = [reader.execute(query, (record_id,)).fetchone() for record_id in ids]
        return [None if row is None else self._stored(row) for row in rows]

    def ids_after(self, after: str, limit: int) -> list[str]:
        """Up to ``limit`` ids past ``after``, in the order of their bytes."""
        with self._reading() as reader:
            rows = reader.execute("SELECT id FROM records WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
            return [row[0] for row in rows]

    def rows(self) -> np.ndarray:
        """The rows of all records (n,) int64, ascending."""
        with self._reading() as reader:
            # The index of ids is a fraction of either table, and holds every record's row.
            found = reader.execute("SELECT row FROM records INDEXED BY sqlite_autoindex_records_1")
            rows = np.fromiter((row for (row,) in found), dtype=np.int64)
        rows.sort()
        return rows

    def read_documents(self, rows: Sequence[int]) -> list[tuple[int, str | None, bytes | None]]:
        """Row, caption and metadata of those of at most 512 rows that are there, in the order of rows."""
        wanted = ", ".join("?" * len(rows))
        query = f"SELECT row, caption, metadata_json FROM records WHERE row IN ({wanted}) ORDER BY row"  # noqa: S608
        with self._reading() as reader:
            return list(reader.execute(query, rows))

    def stream(self, from_row: int, chunk_rows: int) -> Iterator[tuple[np.ndarray, Upsert]]:
        """Rows (n,) int64 from ``from_row`` on, and the records in them without their source_uris, in order.

        At most chunk_rows at a time. Raises StoreDamaged when records and vectors don't pair up.
        """
        with self._reading() as reader:
            (expected,) = reader.execute(
                "SELECT max((SELECT count(*) FROM records WHERE row >= ?1), "
                "(SELECT count(*) FROM vectors WHERE row >= ?1))",
                (from_row,),
            ).fetchone()
            found = reader.execute(
                "SELECT row, id, caption, metadata_json, vector FROM records JOIN vectors USING (row) "
                "WHERE row >= ? ORDER BY row",
                (from_row,),
            )
            seen = 0
            while chunk := found.fetchmany(chunk_rows):
                seen += len(chunk)
                records = [Record(own, caption, None, metadata) for _, own, caption, metadata, _ in chunk]
                rows = np.array([row for row, *_ in chunk], dtype=np.int64)
                yield rows, Upsert(records, np.stack([self._vector(vector) for *_, vector in chunk]))
            if seen != expected:
                raise StoreDamaged(f"{self._path}: {expected} records or vectors, but only {seen} that belong together")

    def _check_file(self) -> None:
        (application,) = self._writer.execute("PRAGMA application_id").fetchone()
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION_ID:
            raise StoreDamaged(
                f"{self._path} is no record store: expected application id {_APPLICATION_ID:#x}, not {application:#x}"
            )
        if version != _SCHEMA_VERSION:
            raise StoreDamaged(f"{self._path}: expected schema version {_SCHEMA_VERSION}, not {version}")
        dimensions = [row[0] for row in self._writer.execute("SELECT dimension FROM state")]
        if dimensions != [self._dimension]:
            raise StoreDamaged(f"{self._path}: expected {self._dimension} dimensions, not {dimensions}")

    def _connect(self) -> sqlite3.Connection:
        uri = f"{self._path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30.0)
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._readers_changed:
            if self._closed:
                raise StoreClosed(f"{self._path} is closed")
            reader = self._idle_readers.pop() if self._idle_readers else None
            self._readers_out += 1
        try:
            with self._translated():
                reader = reader or self._connect()
                yield reader
        finally:
            with self._readers_changed:
                self._readers_out -= 1
                if reader is not None and len(self._idle_readers) < _IDLE_READERS:
                    self._idle_readers.append(reader)
                elif reader is not None:
                    reader.close()
                self._readers_changed.notify_all()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _translate(error, self._path) from error

    def _put(self, upsert: Upsert, first_row: int) -> Effect:
        """Write records in place of those that bear their ids."""
        removed = self._remove([record.id for record in upsert.records])
        self._insert(upsert.records, upsert.vectors, first_row)
        return replace(removed, first_row=first_row, written=upsert)

    def _update(self, updates: Sequence[RecordUpdate], first_row: int) -> Effect:
        """Write records again with what is changed. A row never changes: whoever reads one reads one state of it."""
        found = [self._writer.execute(_READ_WITH_VECTOR, (update.id,)).fetchone() for update in updates]
        olds = [self._stored(row) for row in found if row is not None]
        changed = [update for update, row in zip(updates, found, strict=True) if row is not None]
        existed = [row is not None for row in found]
        if not changed:
            return Effect(existed, [], [])
        records = [_changed(old.record, update) for old, update in zip(olds, changed, strict=True)]
        vectors = np.stack([old.vector for old in olds if old.vector is not None])
        return replace(self._put(Upsert(records, vectors), first_row), existed=existed)

    def _remove(self, ids: Sequence[str]) -> Effect:
        """Remove records."""
        find = "SELECT row FROM records WHERE id = ?"
        found = [self._writer.execute(find, (record_id,)).fetchone() for record_id in ids]
        rows = [row for (row,) in filter(None, found)]
        self._delete(rows)
        removed = [own for own, row in zip(ids, found, strict=True) if row is not None]
        return Effect([row is not None for row in found], rows, removed)

    def _remove_rows(self, rows: Sequence[int]) -> Effect:
        """Remove the records in these rows."""
        find = "SELECT row, id FROM records WHERE row = ?"
        found = [self._writer.execute(find, (row,)).fetchone() for row in rows]
        there = [pair for pair in found if pair is not None]
        self._delete([row for row, _ in there])
        return Effect([pair is not None for pair in found], [row for row, _ in there], [own for _, own in there])

    def _delete(self, rows: Sequence[int]) -> None:
        keys = [(row,) for row in rows]
        self._writer.executemany("DELETE FROM vectors WHERE row = ?", keys)
        self._writer.executemany("DELETE FROM records WHERE row = ?", keys)

    def _insert(self, records: Sequence[Record], vectors: np.ndarray, first_row: int) -> None:
        numbered = list(enumerate(records, first_row))
        self._writer.executemany(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?)",
            ((row, record.id, record.caption, record.source_uri, record.metadata_json) for row, record in numbered),
        )
        blobs = (vector.tobytes() for vector in np.asarray(vectors, dtype=STORED_DTYPE))
        self._writer.executemany(
            "INSERT INTO vectors VALUES (?, ?)", zip((row for row, _ in numbered), blobs, strict=True)
        )

    def _stored(self, row: tuple[str, str | None, str | None, bytes | None, bytes]) -> StoredRecord:
        return StoredRecord(Record(*row[:4]), self._vector(row[4]) if len(row) > 4 else None)

    def _vector(self, blob: bytes) -> np.ndarray:
        expected = self._dimension * STORED_DTYPE.itemsize
        if len(blob) != expected:
            raise StoreDamaged(f"{self._path}: expected {expected} bytes in a vector, not {len(blob)}")
        return np.frombuffer(blob, dtype=STORED_DTYPE)


def _changed(old: Record, update: RecordUpdate) -> Record:
    """The record with what the update names; empty removes a part."""

    def part(kept: Part | None, given: Part | None) -> Part | None:
        return kept if given is None else given or None

    return Record(
        old.id,
        part(old.caption, update.caption),
        part(old.source_uri, update.source_uri),
        part(old.metadata_json, update.metadata_json),
    )


def _translate(error: sqlite3.Error | OSError, path: Path) -> StoreError:
    """The StoreError that an error of SQLite or of the system amounts to."""
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return (StoreFull if full else StoreFailed)(f"{path}: {error}")
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code == sqlite3.SQLITE_INTERRUPT:
        return StoreInterrupted(f"{path}: {error}")
    if code in _DISK_FULL_CODES:
        return StoreFull(f"{path}: {error}")
    if code & 0xFF in _DAMAGED_CODES:
        return StoreDamaged(f"{path} is damaged: {error}")
    return StoreFailed(f"{path}: {error} ({getattr(error, 'sqlite_errorname', 'no code')})")
