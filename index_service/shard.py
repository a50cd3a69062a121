"""One shard of a collection: its records on disk and its vectors in memory, kept in step.

Owns the order of things: disk first, then memory, then the answer; and what happens when the disk fails in between.
Nothing reaches around it to the store or the memtable.
"""

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from index_service.memtable import Memtable, View
from index_service.metrics import IndexMetrics
from index_service.record_store import (
    RecordStore,
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreFull,
)
from index_service.records import StoredRecord, Write
from service_runtime.errors import FailedPrecondition, NotFound, ResourceExhausted, ServiceError, Unavailable

STORE_FILE = "records.sqlite"
"""Name of the record store in a shard's folder."""

_REBUILD_ROWS = 4096

_logger = logging.getLogger("eyebright.shard")


@dataclass(frozen=True, slots=True)
class ShardStats:
    """The state of a shard."""

    record_count: int
    tombstone_count: int
    disk_bytes: int
    vector_bytes: int
    applied_sequence: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Writes of one caller, waiting for a commit."""

    writes: Sequence[Write]
    existed: Future[list[list[bool]]]


class Shard:
    """An open shard. Any thread may call it."""

    def __init__(self, folder: Path, name: str, dimension: int, metrics: IndexMetrics) -> None:
        """Open the shard and load its vectors. ``name`` stands in messages. Raises StoreError."""
        self.name = name
        self._dimension = dimension
        self._metrics = metrics
        self._store = RecordStore(folder / STORE_FILE, dimension)
        self._waiting: deque[_Waiting] = deque()
        self._writer_lock = Lock()
        self._failure = ""
        self._memtable = Memtable(dimension)
        self._sequence = 0
        self._in_step = True  # memory shows what is on disk; False while that is not known
        try:
            self._rebuild()
        except BaseException:
            self._store.close()
            raise

    @staticmethod
    def create(folder: Path, dimension: int) -> None:
        """Make an empty shard in a folder that exists. Raises StoreError."""
        RecordStore.create(folder / STORE_FILE, dimension)

    def close(self) -> None:
        """Let the write and the reads that are under way end, then close the files. Later calls raise NotFound."""
        with self._writer_lock:
            self._store.close()

    @property
    def read_only(self) -> bool:
        """Whether the last write failed because of the disk; the next one tries again."""
        return bool(self._failure)

    @property
    def view(self) -> View:
        """All vectors whose write has been acknowledged, and perhaps some about to be."""
        return self._memtable.view

    def __len__(self) -> int:
        return len(self._memtable)

    def vector_of(self, record_id: str) -> np.ndarray | None:
        """The vector (dimension,) float32 of a record, or None when there is none."""
        return self._memtable.vector_of(record_id)

    def write(self, writes: Sequence[Write]) -> list[list[bool]]:
        """Apply writes in order, durably, whole or not at all; they can be found once this returns.

        Callers that wait together share one commit. Returns for each write, for each of its items, whether the record
        existed before. Raises ResourceExhausted (disk full), Unavailable, FailedPrecondition or NotFound.
        """
        mine = _Waiting(writes, Future())
        self._waiting.append(mine)
        with self._writer_lock:
            # Whoever held the lock before may have committed this too.
            if not mine.existed.done():
                self._commit_waiting()
        return mine.existed.result()

    def read(self, ids: Sequence[str], *, with_vectors: bool) -> list[StoredRecord | None]:
        """The records of these ids, in order; None where there is none."""
        try:
            return self._store.read(ids, with_vectors=with_vectors)
        except StoreError as error:
            raise self._service_error(error) from error

    def ids_after(self, after: str, limit: int) -> list[str]:
        """Up to ``limit`` ids past ``after``, in the order of their bytes."""
        try:
            return self._store.ids_after(after, limit)
        except StoreError as error:
            raise self._service_error(error) from error

    def stats(self) -> ShardStats:
        """How large the shard is now."""
        memtable = self._memtable
        return ShardStats(
            record_count=len(memtable),
            tombstone_count=memtable.tombstone_count,
            disk_bytes=self._store.disk_bytes,
            vector_bytes=memtable.vector_bytes,
            applied_sequence=self._sequence,
        )

    def _commit_waiting(self) -> None:
        group: list[_Waiting] = []
        while self._waiting:
            group.append(self._waiting.popleft())
        try:
            existed = self._commit([write for waiting in group for write in waiting.writes])
        except BaseException as error:
            for waiting in group:
                waiting.existed.set_exception(error)
            if not isinstance(error, ServiceError):
                _logger.exception("write failed", extra={"shard": self.name})
            return
        begin = 0
        for waiting in group:
            waiting.existed.set_result(existed[begin : begin + len(waiting.writes)])
            begin += len(waiting.writes)

    def _commit(self, writes: list[Write]) -> list[list[bool]]:
        try:
            if not self._in_step:
                self._reconcile()
            self._in_step = False
            with self._metrics.stage("commit"):
                existed, sequence = self._store.apply(writes)
        except StoreError as error:
            self._note_failure(error)
            raise self._service_error(error) from error
        for write in writes:
            self._memtable.apply(write)
        if self._memtable.should_compact():
            self._memtable = self._memtable.compacted()
        self._sequence, self._in_step, self._failure = sequence, True, ""
        self._metrics.write_batches.inc(len(writes))
        return existed

    def _note_failure(self, error: StoreError) -> None:
        """After a failed write: find out what is on disk, now or before the next write."""
        if isinstance(error, StoreClosed):
            return
        self._failure = str(error)
        _logger.error("write failed", extra={"shard": self.name, "reason": self._failure})
        try:
            self._reconcile()
        except StoreError as second:
            _logger.error("not known yet whether it was applied", extra={"shard": self.name, "reason": str(second)})

    def _reconcile(self) -> None:
        """Make memory agree with the disk. A commit that reports an error may have been made all the same."""
        if self._store.recover() != self._sequence:
            self._rebuild()
        self._in_step = True

    def _rebuild(self) -> None:
        """Load all vectors from the disk; readers keep the old ones until the new are complete."""
        with self._metrics.stage("rebuild"):
            sequence = self._store.applied_sequence()
            memtable = Memtable(self._dimension)
            for ids, vectors in self._store.stream_vectors(_REBUILD_ROWS):
                memtable.upsert(ids, vectors)
        self._memtable, self._sequence = memtable, sequence

    def _service_error(self, error: StoreError) -> ServiceError:
        """The answer to a caller whom a StoreError reached."""
        match error:
            case StoreClosed():
                return NotFound(f"{self.name} is closed: its collection was deleted or the service stops")
            case StoreFull():
                return ResourceExhausted(f"{self.name} is read-only: its disk is full; free space and repeat the write")
            case StoreDamaged():
                return FailedPrecondition(f"{self.name} is damaged: {error}")
        return Unavailable(f"{self.name}: its disk failed: {error}")
