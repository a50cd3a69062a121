"""The records of one shard on disk: one SQLite file, the truth that everything else is rebuilt from.

Owns the file's tables, its transactions and the words for what can go wrong with it. A write that returns is on disk.
Knows nothing of shards, requests or what vectors mean.
"""

import errno
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition

import numpy as np

from index_service.fault_points import reach
from index_service.records import Delete, Record, RecordUpdate, StoredRecord, Update, Upsert, Write
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
_UPDATE = """
UPDATE records SET
    caption = CASE WHEN ?2 IS NULL THEN caption ELSE nullif(?2, '') END,
    source_uri = CASE WHEN ?3 IS NULL THEN source_uri ELSE nullif(?3, '') END,
    metadata_json = CASE WHEN ?4 IS NULL THEN metadata_json ELSE nullif(?4, x'') END
WHERE id = ?1
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
    first_row: int
    """Row of the first record it wrote; those after it follow in order. 0 unless it is an Upsert."""


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
                    case Upsert(records, vectors):
                        effects.append(Effect(*self._remove([record.id for record in records]), next_row))
                        self._insert(records, vectors, next_row)
                        next_row += len(records)
                    case Update(updates):
                        effects.append(Effect([self._update(update) for update in updates], [], 0))
                    case Delete(ids):
                        effects.append(Effect(*self._remove(ids), 0))
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

    def stream_vectors(self, from_row: int, chunk_rows: int) -> Iterator[tuple[np.ndarray, list[str], np.ndarray]]:
        """Rows (n,) int64 from ``from_row`` on, their ids and vectors (n, dimension) float16, in the order of rows.

        At most chunk_rows at a time. Raises StoreDamaged when records and vectors don't pair up.
        """
        with self._reading() as reader:
            (expected,) = reader.execute(
                "SELECT max((SELECT count(*) FROM records WHERE row >= ?1), "
                "(SELECT count(*) FROM vectors WHERE row >= ?1))",
                (from_row,),
            ).fetchone()
            found = reader.execute(
                "SELECT row, id, vector FROM records JOIN vectors USING (row) WHERE row >= ? ORDER BY row", (from_row,)
            )
            seen = 0
            while chunk := found.fetchmany(chunk_rows):
                seen += len(chunk)
                rows = np.array([row for row, _, _ in chunk], dtype=np.int64)
                yield rows, [own for _, own, _ in chunk], np.stack([self._vector(vector) for _, _, vector in chunk])
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

    def _remove(self, ids: Sequence[str]) -> tuple[list[bool], list[int]]:
        """Remove records; whether each existed, and the rows of those that did."""
        find = "SELECT row FROM records WHERE id = ?"
        found = [self._writer.execute(find, (record_id,)).fetchone() for record_id in ids]
        rows = [row for row in found if row is not None]
        self._writer.executemany("DELETE FROM vectors WHERE row = ?", rows)
        self._writer.executemany("DELETE FROM records WHERE row = ?", rows)
        return [row is not None for row in found], [row for (row,) in rows]

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

    def _update(self, update: RecordUpdate) -> bool:
        parts = (update.id, update.caption, update.source_uri, update.metadata_json)
        return self._writer.execute(_UPDATE, parts).rowcount > 0

    def _stored(self, row: tuple[str, str | None, str | None, bytes | None, bytes]) -> StoredRecord:
        return StoredRecord(Record(*row[:4]), self._vector(row[4]) if len(row) > 4 else None)

    def _vector(self, blob: bytes) -> np.ndarray:
        expected = self._dimension * STORED_DTYPE.itemsize
        if len(blob) != expected:
            raise StoreDamaged(f"{self._path}: expected {expected} bytes in a vector, not {len(blob)}")
        return np.frombuffer(blob, dtype=STORED_DTYPE)


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
