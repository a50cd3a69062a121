"""The records of one shard on disk: one SQLite file, the truth that everything else is rebuilt from.

Owns the file's tables, its transactions and the words for what can go wrong with it. A write that returns is on disk.
Knows nothing of shards, requests or what vectors mean.
"""

import errno
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition
from typing import Any, TypeVar

import numpy as np

from index_service import record_schema
from index_service.acknowledged_mark import AcknowledgedMark
from index_service.fault_points import reach
from index_service.record_checksums import ids_checksum, text_checksum, vector_checksums
from index_service.record_schema import SchemaError, State
from index_service.records import Delete, DeleteRows, Record, RecordUpdate, StoredRecord, Update, Upsert, Write
from index_service.vector_space import STORED_DTYPE

_RECORD = "records.row, id, caption, source_uri, metadata_json, records.checksum"
_READ = f"SELECT {_RECORD} FROM records WHERE id = ?"  # noqa: S608
_BOTH = f"{_RECORD}, vector, vectors.checksum"
_READ_WITH_VECTOR = f"SELECT {_BOTH} FROM records LEFT JOIN vectors USING (row) WHERE id = ?"  # noqa: S608
_DISK_FULL_CODES = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMMAP}
)
_DAMAGED_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LONGEST_REASON = 200
_MARK_SUFFIX = "-acknowledged"
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

    @property
    def written_count(self) -> int:
        """Records it wrote."""
        return 0 if self.written is None else len(self.written.records)

    @property
    def ids_checksum(self) -> int:
        """What it adds to the checksum of all ids."""
        new = [] if self.written is None else [record.id for record in self.written.records]
        rows = range(self.first_row, self.first_row + len(new))
        return ids_checksum(rows, new) - ids_checksum(self.buried, self.removed)


class RecordStore:
    """One open file. One thread at a time writes; any number read."""

    def __init__(self, path: Path, dimension: int) -> None:
        """Open an existing file, and bring one of an earlier release up to this one.

        Raises StoreDamaged when it is missing, foreign, damaged, of another dimension, or lacks acknowledged writes.
        """
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
            self._mark = AcknowledgedMark(Path(f"{path}{_MARK_SUFFIX}"))
            try:
                record_schema.check(self._writer, dimension)
                self._check_mark()
            except BaseException:
                self._writer.close()
                self._mark.close()
                raise
            # A reader that stays open keeps the write-ahead log's index on disk, which a full disk could not make anew.
            self._idle_readers.append(self._connect())
            self._idle_readers[0].execute("SELECT count(*) FROM state").fetchone()

    @staticmethod
    def create(path: Path, dimension: int) -> None:
        """Make an empty file, durably but for its name in the folder. Raises StoreFull or StoreFailed."""
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                record_schema.make(connection, dimension)
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
        self._mark.close()

    @property
    def file_bytes(self) -> int:
        """Bytes of the file."""
        return _size_bytes(self._path)

    @property
    def log_bytes(self) -> int:
        """Bytes of its write-ahead log. SQLite begins it anew from time to time, but leaves it as long as it was."""
        return _size_bytes(Path(f"{self._path}-wal"))

    def applied_sequence(self) -> int:
        """Number of writes applied since the file was made."""
        with self._reading() as reader:
            return record_schema.read_state(reader).applied_sequence

    def apply(self, writes: Sequence[Write]) -> tuple[list[Effect], int]:
        """Apply writes in one durable transaction, whole or not at all.

        Returns what each write did, and the sequence number now.
        Raises StoreError; then ``recover`` tells whether the writes were applied all the same.
        """
        if self._closed:
            raise StoreClosed(f"{self._path} is closed")
        with self._translated():
            self._writer.execute("BEGIN IMMEDIATE")
            state = record_schema.read_state(self._writer)
            next_row, checksum = state.next_row, state.ids_checksum
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
                next_row += effects[-1].written_count
                checksum += effects[-1].ids_checksum
            sequence = state.applied_sequence + len(writes)
            record_schema.write_state(self._writer, State(state.dimension, sequence, next_row, checksum))
            reach("write.before_commit")
            self._writer.execute("COMMIT")
            reach("write.after_commit")
        self._mark.write(sequence)
        return effects, sequence

    def recover(self) -> int:
        """After an error of ``apply``: roll back what is open, and return the sequence number that is on disk."""
        if self._closed:
            raise StoreClosed(f"{self._path} is closed")
        with self._translated():
            try:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                return record_schema.read_state(self._writer).applied_sequence
            except sqlite3.Error:
                broken, self._writer = self._writer, self._connect()
                broken.close()
                return record_schema.read_state(self._writer).applied_sequence

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
        """The rows of all records (n,) int64, ascending. Raises StoreDamaged when one is missing or another's."""
        with self._reading() as reader:
            reader.execute("BEGIN")  # rows and state of one moment
            try:
                found, checksum = record_schema.read_rows(reader)
                state = record_schema.read_state(reader)
            finally:
                reader.execute("COMMIT")
        if checksum != state.ids_checksum:
            raise StoreDamaged(f"{self._path}: its ids are not those that were written")
        rows = np.array(found, dtype=np.int64)
        rows.sort()
        return rows

    def read_documents(self, rows: Sequence[int]) -> list[tuple[int, str | None, bytes | None]]:
        """Row, caption and metadata of those of at most 512 rows that are there, in the order of rows."""
        wanted = ", ".join("?" * len(rows))
        query = f"SELECT {_RECORD} FROM records WHERE row IN ({wanted}) ORDER BY row"  # noqa: S608
        with self._reading() as reader:
            found = reader.execute(query, rows).fetchall()
        records = [self._record(*row) for row in found]
        return [(row[0], record.caption, record.metadata_json) for row, record in zip(found, records, strict=True)]

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
                f"SELECT {_BOTH} FROM records JOIN vectors USING (row) "  # noqa: S608
                "WHERE row >= ? ORDER BY row",
                (from_row,),
            )
            seen = 0
            while chunk := found.fetchmany(chunk_rows):
                seen += len(chunk)
                whole = [self._record(*row[:6]) for row in chunk]
                records = [Record(own.id, own.caption, None, own.metadata_json) for own in whole]
                rows = np.array([row for row, *_ in chunk], dtype=np.int64)
                yield rows, Upsert(records, np.stack([self._vector(row[0], *row[6:]) for row in chunk]))
            if seen != expected:
                raise StoreDamaged(f"{self._path}: {expected} records or vectors, but only {seen} that belong together")

    def _check_mark(self) -> None:
        """Raise StoreDamaged when writes are missing that were acknowledged."""
        sequence, acknowledged = record_schema.read_state(self._writer).applied_sequence, self._mark.read()
        if acknowledged > sequence:
            raise StoreDamaged(
                f"{self._path} holds {sequence} writes, but {acknowledged} were acknowledged: {self._path}-wal was "
                f"damaged or removed, or an older copy put in its place; to go on without them, remove "
                f"{self._path}{_MARK_SUFFIX}"
            )

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
        except SchemaError as error:
            raise StoreDamaged(f"{self._path} is damaged: {error}") from error
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
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
        rows = range(first_row, first_row + len(records))
        blobs = [vector.tobytes() for vector in np.asarray(vectors, dtype=STORED_DTYPE)]
        texts = (
            # Written out twice: to build the columns once and unpack them for the checksum takes longer.
            (
                row,
                own.id,
                own.caption,
                own.source_uri,
                own.metadata_json,
                text_checksum(row, own.id, own.caption, own.source_uri, own.metadata_json),
            )
            for row, own in zip(rows, records, strict=True)
        )
        self._writer.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", texts)
        self._writer.executemany(
            "INSERT INTO vectors VALUES (?, ?, ?)", zip(rows, blobs, vector_checksums(rows, blobs), strict=True)
        )

    def _stored(self, row: tuple[Any, ...]) -> StoredRecord:
        """What a row of _READ or _READ_WITH_VECTOR holds."""
        return StoredRecord(self._record(*row[:6]), self._vector(row[0], *row[6:]) if len(row) > 6 else None)

    def _record(
        self,
        row: int,
        record_id: str,
        caption: str | None,
        source_uri: str | None,
        metadata_json: bytes | None,
        checksum: int | None,
    ) -> Record:
        """The record of a row. Raises StoreDamaged unless it is as it was written."""
        try:
            found = text_checksum(row, record_id, caption, source_uri, metadata_json)
        except (AttributeError, TypeError):  # what was text or bytes is something else now
            found = None
        if found is None or checksum not in (found, None):
            raise StoreDamaged(f"{self._path}: the record {record_id!r} is not as it was written")
        return Record(record_id, caption, source_uri, metadata_json)

    def _vector(self, row: int, blob: bytes | None, checksum: int | None) -> np.ndarray:
        """The vector of a row. Raises StoreDamaged unless it is as it was written."""
        expected = self._dimension * STORED_DTYPE.itemsize
        if not isinstance(blob, bytes) or len(blob) != expected:
            found = len(blob) if isinstance(blob, bytes) else blob
            raise StoreDamaged(f"{self._path}: expected {expected} bytes in the vector of row {row}, not {found}")
        if checksum not in (*vector_checksums([row], [blob]), None):
            raise StoreDamaged(f"{self._path}: the vector of row {row} is not as it was written")
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


def _size_bytes(path: Path) -> int:
    """Bytes of a file; 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _translate(error: sqlite3.Error | OSError | UnicodeDecodeError, path: Path) -> StoreError:
    """The StoreError that an error of SQLite or of the system amounts to."""
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return (StoreFull if full else StoreFailed)(f"{path}: {error}")
    if isinstance(error, UnicodeDecodeError) or not hasattr(error, "sqlite_errorcode"):
        return StoreDamaged(f"{path} is damaged: {str(error)[:_LONGEST_REASON]}")  # Python finds text that is none
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code == sqlite3.SQLITE_INTERRUPT:
        return StoreInterrupted(f"{path}: {error}")
    if code in _DISK_FULL_CODES:
        return StoreFull(f"{path}: {error}")
    if code & 0xFF in _DAMAGED_CODES:
        return StoreDamaged(f"{path} is damaged: {error}")
    return StoreFailed(f"{path}: {error} ({getattr(error, 'sqlite_errorname', 'no code')})")
