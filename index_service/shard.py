"""One shard of a collection: its records on disk, and its vectors in a memtable and segments, kept in step.

Owns the order of things: disk first, then memory, then the answer; what happens when the disk fails in between; and the
moment at which a new segment takes the place of what it was made from. Nothing reaches around it to the store, the
memtable or the segments.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO

import numpy as np

from index_service.column_inheritance import inherit_from_blocks, inherit_from_segments
from index_service.compaction import DEFAULT_POLICY, IDLE_SEAL_ROWS, Policy, segments_to_merge
from index_service.fault_points import during, reach
from index_service.filtered_view import FilteredView, filter_view
from index_service.filters import Filter
from index_service.memtable import BlockView, Memtable
from index_service.metrics import IndexMetrics
from index_service.parts import ShardView
from index_service.record_store import (
    Effect,
    RecordStore,
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreInterrupted,
)
from index_service.records import StoredRecord, Upsert, Write
from index_service.segment import Interrupted, Rows, Segment, SegmentView, merged_rows
from index_service.segment_columns import ShardColumns
from index_service.segment_folder import SegmentFolder
from index_service.shard_stats import SegmentStats, ShardStats
from index_service.vector_space import VectorSpace
from service_runtime.errors import FailedPrecondition, NotFound, ResourceExhausted, ServiceError, Unavailable

STORE_FILE = "records.sqlite"
"""Name of the record store in a shard's folder."""

_REBUILD_ROWS = 4096
_SEAL_TEXT_BYTES = 64 * 1024 * 1024
"""Bytes of captions and metadata in memory from which they are put into a segment, however few the rows."""

_MOST_SEALS_IN_MEMORY = 8
_LONGEST_STALL_SECONDS = 1.0
"""How long a write waits, at most, while memory holds what so many seals take: they lag behind then."""

_VIEW_ATTEMPTS = 3
_NO_NUMBERS = np.empty(0, dtype=np.int64)

_logger = logging.getLogger("eyebright.shard")


@dataclass(frozen=True, slots=True)
class ShardCopy:
    """A shard as of one point of its write order."""

    files: dict[str, BinaryIO]
    """Open files to read from their beginning, by path in the shard's folder."""
    applied_sequence: int
    record_count: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Writes of one caller, waiting for a commit."""

    writes: Sequence[Write]
    existed: Future[list[list[bool]]]


class Shard:
    """An open shard. Any thread may call it."""

    def __init__(
        self,
        folder: Path,
        name: str,
        space: VectorSpace,
        metrics: IndexMetrics,
        policy: Policy = DEFAULT_POLICY,
    ) -> None:
        """Open the shard: map its segments, load what they lack. ``name`` stands in messages.

        ``policy`` may be changed later: compaction follows.

        Raises StoreError or OSError.
        """
        self.name = name
        self.space = space
        self._metrics = metrics
        self.policy = policy
        self._store = RecordStore(folder / STORE_FILE, space.dimension)
        self._waiting: deque[_Waiting] = deque()
        self._writer_lock = Lock()
        self._sealing = Lock()
        self._merging = Lock()
        self._room = Event()
        self._closing = Event()
        self._failure = ""
        self._in_step = True  # memory shows what is on disk; False while that is not known
        try:
            self._sequence = self._store.applied_sequence()
            self._folder = SegmentFolder(folder, space)
            self._columns = ShardColumns(folder, self._store.read_documents, self._closing)
            self._memtable = Memtable(space.dimension)
            self._segments = tuple(SegmentView.of(segment, None) for segment in self._folder.load(self._sequence))
            self._columns.clear_leftovers()
            self._columns.sweep(self._folder.names)
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
        self._closing.set()
        with self._sealing, self._merging, self._writer_lock:
            self._store.close()

    @property
    def queued_writes(self) -> int:
        """Writes that wait for the commit before theirs."""
        return len(self._waiting)

    @property
    def read_only(self) -> bool:
        """Whether the last write failed because of the disk; the next one tries again."""
        return bool(self._failure)

    def __len__(self) -> int:
        return self.view.live_count

    def vector_of(self, record_id: str) -> np.ndarray | None:
        """The vector (dimension,) float32 of a record, or None when there is none. Raises ServiceError."""
        vector = self._memtable.vector_of(record_id)
        if vector is None:
            [stored] = self.read([record_id], with_vectors=True)
            vector = None if stored is None or stored.vector is None else stored.vector.astype(np.float32)
        return vector

    def write(self, writes: Sequence[Write]) -> list[list[bool]]:
        """Apply writes in order, durably, whole or not at all; they can be found once this returns.

        Callers that wait together share one commit. Returns for each write, for each of its items, whether the record
        existed before. Raises ResourceExhausted (disk full), Unavailable, FailedPrecondition or NotFound.
        """
        if not self._room.is_set():
            with self._metrics.stage("stall"):
                self._room.wait(_LONGEST_STALL_SECONDS)
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

    def filtered(self, where: Filter, deadline: float | None) -> FilteredView:
        """The view of this moment, prepared for a filter; the first for a field takes seconds, and others go on.

        Raises DeadlineExceeded or ServiceError.
        """
        try:
            found = filter_view(self.view, self._columns, where, deadline)
            for _ in range(_VIEW_ATTEMPTS):
                if not found.outdated:
                    break
                with self._writer_lock:  # what is under way is shown once it is over
                    view = self.view
                found = filter_view(view, self._columns, where, deadline)
        except StoreError as error:
            raise self._service_error(error) from error
        except Interrupted:
            raise self._service_error(StoreClosed()) from None
        return found

    def stats(self) -> ShardStats:
        """How large the shard is now."""
        view = self.view
        return ShardStats(
            record_count=view.live_count,
            tombstone_count=view.rows - view.live_count,
            applied_sequence=self._sequence,
            memtable_rows=view.memtable.rows,
            vector_bytes=self._memtable.vector_bytes,
            segments=[SegmentStats(own.segment.build.recipe.value, own.rows) for own in view.segments],
            store_bytes=self._store.file_bytes,
            log_bytes=self._store.log_bytes,
            segment_bytes=self._folder.disk_bytes,
            column_bytes=self._columns.disk_bytes,
            read_only=self.read_only,
        )

    @property
    def applied_sequence(self) -> int:
        """Number of writes applied since the shard was made."""
        return self._sequence

    @property
    def settled(self) -> bool:
        """Whether compaction would leave the shard as it is if nobody wrote to it."""
        view = self.view
        return view.memtable.rows < IDLE_SEAL_ROWS and not segments_to_merge(view.segments, self.policy, idle=True)

    @contextmanager
    def copied(self, aside: Path, stop: Callable[[], bool]) -> Iterator[ShardCopy]:
        """The shard as of one moment, for the length of a block; searches, writes and compaction go on.

        ``aside`` is a file to make for the copy of the records. Raises ServiceError, OSError, or StoreInterrupted soon
        after ``stop`` says so.
        """
        with ExitStack() as held:
            # Segments first: the records may be newer than they, never older.
            try:
                files = self._folder.hold(held)
                sequence, count = self._store.copy_into(aside, lambda: stop() or self._closing.is_set())
            except (OSError, StoreInterrupted):
                if not self._closing.is_set():
                    raise
                raise self._service_error(StoreClosed()) from None
            except StoreFull as error:
                raise ResourceExhausted(f"{self.name}: the disk has no room for a copy of its records") from error
            except StoreError as error:
                raise self._service_error(error) from error
            files[STORE_FILE] = held.enter_context(aside.open("rb"))
            yield ShardCopy(files, sequence, count)

    def compact(self, *, idle: bool) -> bool:
        """Do one piece of work that makes searches cheaper: ``seal``, or else ``merge``. False: nothing to do."""
        return self.seal(idle=idle) or self.merge(idle=idle)

    def seal(self, *, idle: bool) -> bool:
        """Put what is in memory into a segment when it is enough; False when it is not.

        Searches, writes and a merge go on meanwhile. Raises OSError or RuntimeError when the disk fails, and nothing
        has changed then.
        """
        with self._sealing, suppress(Interrupted):
            if self._closing.is_set():
                return False
            least = self.policy.seal_rows
            with self._writer_lock:  # in the middle of a write a block may be full before all its rows are shown
                memtable = self._memtable
                if idle and memtable.view.rows >= IDLE_SEAL_ROWS:
                    memtable.close_last_block()
                    least = min(least, IDLE_SEAL_ROWS)
                blocks = memtable.full_blocks()
            text_bytes = sum(block.text_bytes for block in blocks)
            if sum(block.rows for block in blocks) >= least or text_bytes >= _SEAL_TEXT_BYTES:
                self._seal(memtable, blocks)
                return True
        return False

    def merge(self, *, idle: bool) -> bool:
        """Put one segment in the place of others where that makes searches cheaper; False where it does not.

        As ``seal`` otherwise.
        """
        with self._merging, suppress(Interrupted):
            if not self._closing.is_set() and (merging := segments_to_merge(self._segments, self.policy, idle=idle)):
                self._merge(merging)
                return True
        return False

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
                effects, sequence = self._store.apply(writes)
        except StoreError as error:
            self._note_failure(error)
            raise self._service_error(error) from error
        for effect in effects:
            self._show(effect)
        if self._memtable.should_compact():
            self._memtable = self._memtable.compacted()
        self._publish()
        self._sequence, self._in_step, self._failure = sequence, True, ""
        self._metrics.write_batches.inc(len(writes))
        reach("write.before_acknowledgement")
        return [effect.existed for effect in effects]

    def _show(self, effect: Effect) -> None:
        if effect.written is None:
            self._memtable.delete(effect.removed)
        else:
            count = len(effect.written.records)
            _put(self._memtable, np.arange(effect.first_row, effect.first_row + count), effect.written)
        if effect.buried and self._segments:
            buried = np.sort(np.array(effect.buried, dtype=np.int64))
            self._segments = tuple(segment.burying(buried) for segment in self._segments)

    def _publish(self) -> None:
        """One assignment makes all that a commit did visible at once."""
        self.view = ShardView(self._memtable.view, self._segments)
        if self._memtable.view.rows < _MOST_SEALS_IN_MEMORY * self.policy.seal_rows:
            self._room.set()
        else:
            self._room.clear()

    def _seal(self, memtable: Memtable, blocks: Sequence[BlockView]) -> None:
        """Put the oldest blocks of the memtable into a segment."""
        with self._metrics.stage("seal"), during("seal"):
            live = [slice(None) if block.dead is None else ~block.dead for block in blocks]
            rows = Rows(
                np.concatenate([block.numbers[kept] for block, kept in zip(blocks, live, strict=True)]),
                np.concatenate([block.ids[kept] for block, kept in zip(blocks, live, strict=True)]).tolist(),
                np.concatenate([block.vectors[kept] for block, kept in zip(blocks, live, strict=True)]),
            )
            others = [view.segment for view in self._segments]
            sealed = self._written(
                rows, (), lambda segment: inherit_from_blocks(self._columns, segment, blocks, others)
            )
        with self._writer_lock:
            if self._memtable is not memtable:  # it was compacted or loaded anew meanwhile
                self._drop(sealed)
                return
            buried = [
                block.numbers[kept][block.dead[kept]]
                for block, kept in zip(memtable.full_blocks(), live, strict=False)
                if block.dead is not None
            ]
            self._memtable = memtable.without_oldest(len(blocks))
            self._segments += tuple(view.burying(np.concatenate([*buried, _NO_NUMBERS])) for view in sealed)
            self._publish()

    def _merge(self, merging: Sequence[SegmentView]) -> None:
        """Put one segment in the place of several, without their dead."""
        with self._metrics.stage("merge_segments"), during("merge"):
            old = [view.segment for view in merging]
            merged = self._written(
                merged_rows(merging), old, lambda segment: inherit_from_segments(self._columns, segment, old)
            )
        names = {view.segment.name for view in merging}
        with self._writer_lock:
            now = {view.segment.name: view for view in self._segments}
            buried = [view.segment.numbers[now[view.segment.name].newly_dead(view)] for view in merging]
            kept = tuple(view for name, view in now.items() if name not in names)
            self._segments = (*kept, *(view.burying(np.concatenate([*buried, _NO_NUMBERS])) for view in merged))
            self._publish()

    def _written(
        self, rows: Rows, replaced: Sequence[Segment], inherit: Callable[[Segment], None]
    ) -> list[SegmentView]:
        """The segment of these rows, on disk and in the manifest in others' place; none when there are no rows."""
        written = [self._folder.write(rows, self.policy.for_rows(len(rows.ids)), self._closing)] if rows.ids else []
        try:
            for segment in written:
                inherit(segment)
            self._count(written, replaced)
        except (OSError, Interrupted):
            for segment in written:
                self._folder.withdraw(segment)
            raise
        return [SegmentView.of(segment, None) for segment in written]

    def _drop(self, views: Sequence[SegmentView]) -> None:
        """Forget a segment that was written in vain."""
        self._count((), [view.segment for view in views])

    def _count(self, added: Sequence[Segment], removed: Sequence[Segment]) -> None:
        """Let some segments count and others no longer."""
        self._folder.publish(added, removed, self._sequence)
        self._columns.sweep(self._folder.names)

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
        """Load from the disk what the segments lack, and which of their rows are dead; readers keep the old view until
        the new one is complete.
        """
        with self._metrics.stage("rebuild"):
            sequence = self._store.applied_sequence()
            numbers = self._store.rows()
            self._segments = tuple(
                SegmentView.of(view.segment, ~np.isin(view.segment.numbers, numbers)) for view in self._segments
            )
            sealed = np.concatenate([view.segment.numbers for view in self._segments] or [_NO_NUMBERS])
            missing = np.setdiff1d(numbers, sealed, assume_unique=True)
            memtable = Memtable(self.space.dimension)
            for rows, stored in self._store.stream(int(missing[0]), _REBUILD_ROWS) if missing.size else ():
                own = np.flatnonzero(np.isin(rows, missing))
                records = [stored.records[place] for place in own.tolist()]
                _put(memtable, rows[own], Upsert(records, stored.vectors[own]))
        self._memtable, self._sequence = memtable, sequence
        self._publish()

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


def _put(memtable: Memtable, numbers: np.ndarray, written: Upsert) -> None:
    """Show records in rows of these numbers."""
    records = written.records
    memtable.upsert(
        numbers,
        [record.id for record in records],
        written.vectors,
        [record.caption for record in records],
        [record.metadata_json for record in records],
    )
