"""A collection: records of one vector space, spread over shards by their ids.

Owns the routing, and the fan-out of writes and reads. Knows no protobuf and no file but through its shards.
"""

import errno
import heapq
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from threading import Lock

import numpy as np

from index_service.filters import Document, Filter, matches
from index_service.index_config import IndexConfig, Modality, write_config
from index_service.metrics import IndexMetrics
from index_service.query_reservoir import QueryReservoir
from index_service.recall_estimates import RecallEstimates
from index_service.recall_probe import RecallProbe
from index_service.recipes import Recipe
from index_service.records import Delete, DeleteRows, Fault, Record, RecordUpdate, StoredRecord, Update, Upsert, Write
from index_service.search import Queries, SearchAnswer, SearchOptions, search_shards
from index_service.shard import Shard
from index_service.shard_stats import ShardStats
from index_service.vector_space import STORED_DTYPE, VectorSpace
from index_service.workers import Workers
from service_runtime.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)

_READ_PIECE = 64
_LISTED_ROWS = 10_000
"""Records that are compared with a filter for one page; stated in record.proto."""

_DELETE_ROWS = 1_000
"""Records that are deleted in one commit, so that other writes get their turn soon."""


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """What is fixed at creation."""

    name: str
    space: VectorSpace
    shard_count: int
    create_time_ns: int
    """Nanoseconds since 1970-01-01 UTC."""


@dataclass(frozen=True, slots=True)
class UpsertBatch:
    """Records to write and their vectors (n, dimension) float32 or float16; a fault where a record can't be written."""

    items: Sequence[Record | ServiceError]
    vectors: np.ndarray


@dataclass(frozen=True, slots=True)
class Page:
    """Records in the order of the bytes of their ids, and the id to go on after; empty after the last page."""

    records: list[StoredRecord]
    last_id: str


def shard_number(record_id: str, shard_count: int) -> int:
    """The shard a record lies in: the first 8 bytes of blake2b(id), big-endian, modulo the number of shards."""
    return int.from_bytes(blake2b(record_id.encode()).digest()[:8], "big") % shard_count


class Collection:
    """An open collection. Any thread may call it."""

    def __init__(
        self,
        spec: CollectionSpec,
        shards: Sequence[Shard],
        config: IndexConfig,
        folder: Path,
        workers: Workers,
        metrics: IndexMetrics,
        queries: QueryReservoir,
        probe: RecallProbe | None,
    ) -> None:
        """``folder`` holds all of it, ``config`` too."""
        self.spec = spec
        self.shards = shards
        self.config = config
        self.queries = queries
        """Some of the recent queries."""
        self.recall = RecallEstimates(spec.name, metrics)
        """How much of the exact answers the approximate ones hold."""
        self.closed = False
        """Whether it was deleted, or the service stops."""
        self.folder = folder
        self._probe = probe
        self._configuring = Lock()
        self._workers = workers
        self._metrics = metrics

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def close(self) -> None:
        """Close all shards; calls from now on raise NotFound."""
        self.closed = True
        self.recall.close()
        self.queries.close()
        for shard in self.shards:
            shard.close()

    def configure(self, change: Callable[[IndexConfig], IndexConfig]) -> None:
        """Change how the collection is indexed, durably; its segments follow in the background.

        Raises ResourceExhausted (disk full) or Unavailable, and nothing has changed then.
        """
        with self._configuring:
            changed = change(self.config)
            try:
                write_config(self.folder, changed)
            except OSError as error:
                message = f"the index of collection {self.spec.name!r} can't be changed: {error}"
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                raise (ResourceExhausted(message) if full else Unavailable(message)) from error
            self.config = changed
            for shard in self.shards:
                shard.policy = replace(shard.policy, build=changed.build_in_force)
            self.recall.forget()

    def upsert(self, batches: Sequence[UpsertBatch]) -> list[list[Fault]]:
        """Write batches in order; all their writes to one shard share a commit. Returns the fault of each record.

        The records of a shard that fails carry its error; those of the other shards are written.
        """
        faults: list[list[Fault]] = []
        parts: list[_Part] = []
        for number, batch in enumerate(batches):
            prepared, bad_vectors = self.spec.space.prepare(batch.vectors)
            items = [
                InvalidArgument(bad_vectors[row], field=f"vectors[{row}]")
                if row in bad_vectors and isinstance(item, Record)
                else item
                for row, item in enumerate(batch.items)
            ]
            faults.append([item if isinstance(item, ServiceError) else None for item in items])
            good = {row: item for row, item in enumerate(items) if isinstance(item, Record)}
            stored = prepared.astype(STORED_DTYPE)
            for shard, rows in self._route({row: record.id for row, record in good.items()}):
                parts.append(_Part(shard, number, rows, Upsert([good[row] for row in rows], stored[rows])))
        for number, row, result in self._apply(parts):
            if isinstance(result, ServiceError):
                faults[number][row] = result
        return faults

    def update(self, items: Sequence[RecordUpdate | ServiceError]) -> list[Fault]:
        """Change parts of records. Returns the fault of each update, NotFound where there is no such record."""
        faults: list[Fault] = [item if isinstance(item, ServiceError) else None for item in items]
        good = {row: item for row, item in enumerate(items) if isinstance(item, RecordUpdate)}
        parts = [
            _Part(shard, 0, rows, Update([good[row] for row in rows]))
            for shard, rows in self._route({row: update.id for row, update in good.items()})
        ]
        for _, row, result in self._apply(parts):
            if isinstance(result, ServiceError):
                faults[row] = result
            elif not result:
                faults[row] = self._unknown(good[row].id, f"updates[{row}].id")
        return faults

    def delete(self, items: Sequence[str | ServiceError]) -> tuple[list[Fault], int]:
        """Remove records. Returns the fault of each id, and how many records there were."""
        faults: list[Fault] = [item if isinstance(item, ServiceError) else None for item in items]
        rows_of: defaultdict[str, list[int]] = defaultdict(list)
        for row, item in enumerate(items):
            if isinstance(item, str):
                rows_of[item].append(row)
        first_rows = {rows[0]: record_id for record_id, rows in rows_of.items()}
        parts = [
            _Part(shard, 0, rows, Delete([first_rows[row] for row in rows])) for shard, rows in self._route(first_rows)
        ]
        deleted = 0
        for _, row, result in self._apply(parts):
            if isinstance(result, ServiceError):
                for repeated in rows_of[first_rows[row]]:
                    faults[repeated] = result
            else:
                deleted += result
        return faults, deleted

    def delete_matching(self, where: Filter, deadline: float | None) -> int:
        """Remove the records that a filter lets through now, batch by batch. Returns how many there were.

        Raises DeadlineExceeded or another ServiceError; what is removed by then stays removed.
        """
        numbers = [shard.filtered(where, deadline).numbers() for shard in self.shards]
        deleted = [0] * len(self.shards)

        def delete(shard: int) -> ServiceError | None:
            try:
                for begin in range(0, len(numbers[shard]), _DELETE_ROWS):
                    if deadline is not None and time.monotonic() > deadline:
                        raise DeadlineExceeded("the deadline passed while records were being deleted")
                    rows = numbers[shard][begin : begin + _DELETE_ROWS].tolist()
                    [existed] = self.shards[shard].write([DeleteRows(rows)])
                    deleted[shard] += sum(existed)
            except ServiceError as error:
                return error
            return None

        for error in self._workers.write(delete, range(len(self.shards))):
            if error is not None:
                raise type(error)(
                    f"{sum(deleted):,} records are deleted, not all that match: {error.message}"
                ) from error
        return sum(deleted)

    def read(self, ids: Sequence[str], *, with_vectors: bool) -> list[StoredRecord | None]:
        """The records of these ids, in order; None where there is none."""
        found: list[StoredRecord | None] = [None] * len(ids)
        for shard, rows in self._route(dict(enumerate(ids))):
            records = self.shards[shard].read([ids[row] for row in rows], with_vectors=with_vectors)
            for row, record in zip(rows, records, strict=True):
                found[row] = record
        return found

    def page(self, after: str, size: int, *, with_vectors: bool, most_bytes: int, where: Filter | None = None) -> Page:
        """Up to ``size`` records past the id ``after`` that a filter lets through; fewer where many don't match or, but
        then one at least, where they pass ``most_bytes``.
        """
        looked_at = size if where is None else _LISTED_ROWS
        by_shard = [shard.ids_after(after, looked_at + 1) for shard in self.shards]
        ids = list(itertools.islice(heapq.merge(*by_shard), looked_at + 1))
        records: list[StoredRecord] = []
        held_bytes = 0
        for begin in range(0, min(looked_at, len(ids)), _READ_PIECE):
            piece = ids[begin : min(begin + _READ_PIECE, looked_at)]
            for place, stored in enumerate(self.read(piece, with_vectors=with_vectors), begin):
                if stored is None or not _is_listed(stored.record, where):
                    continue  # it may have been deleted since its id was read
                held_bytes += _size_bytes(stored)
                if records and (len(records) == size or held_bytes > most_bytes):
                    return Page(records, ids[place - 1])
                records.append(stored)
        return Page(records, ids[looked_at - 1] if len(ids) > looked_at else "")

    def search_vectors(self, vectors: np.ndarray, options: SearchOptions) -> SearchAnswer:
        """The records nearest to each of ``vectors`` (n, dimension) of any float dtype."""
        prepared, bad_vectors = self.spec.space.prepare(vectors)
        faults: dict[int, ServiceError] = {
            row: InvalidArgument(message, field=f"vectors[{row}]") for row, message in bad_vectors.items()
        }
        good = prepared[[row for row in range(len(prepared)) if row not in faults]]
        return self._search(Queries(good, [None] * len(good), faults), options)

    def search_records(self, items: Sequence[str | ServiceError], options: SearchOptions) -> SearchAnswer:
        """The records nearest to each of these records, itself left out."""
        faults: dict[int, ServiceError] = {}
        vectors: list[np.ndarray] = []
        good: list[str] = []
        for row, item in enumerate(items):
            if isinstance(item, ServiceError):
                faults[row] = item
                continue
            vector = self.shards[shard_number(item, self.spec.shard_count)].vector_of(item)
            if vector is None:
                faults[row] = self._unknown(item, f"records.ids[{row}]")
                continue
            vectors.append(vector)
            good.append(item)
        stacked = np.stack(vectors) if vectors else np.empty((0, self.spec.space.dimension), np.float32)
        return self._search(Queries(stacked, good, faults), replace(options, modality=Modality.RECORD))

    def stats(self) -> list[ShardStats]:
        """The state of each shard, in order."""
        return [shard.stats() for shard in self.shards]

    def _search(self, queries: Queries, options: SearchOptions) -> SearchAnswer:
        def read_records(ids: Sequence[str]) -> list[StoredRecord | None]:
            return self.read(ids, with_vectors=False)

        generation = self.recall.generation  # read before the choices that it goes with
        answer = search_shards(
            self.shards, self.spec.space, self.config, queries, options, read_records, self._workers, self._metrics
        )
        if not options.offset:  # a page that is turned is the same query again
            self.queries.add(options.modality, queries.vectors, options.k)
            if self._probe is not None:
                self._probe.offer(self.recall, generation, self.spec.space, queries, options, answer)
        if options.target_recall is None and answer.evidence.recipe is not Recipe.EXACT:
            measured = self.recall.expected(options.modality, answer.evidence.recipe)
            if measured is not None:
                return replace(answer, evidence=replace(answer.evidence, estimated_recall=measured))
        return answer

    def _route(self, ids: dict[int, str]) -> list[tuple[int, list[int]]]:
        """The shards that ids lie in, by number, each with the rows of its ids."""
        rows_of: defaultdict[int, list[int]] = defaultdict(list)
        for row, record_id in ids.items():
            rows_of[shard_number(record_id, self.spec.shard_count)].append(row)
        return sorted(rows_of.items())

    def _apply(self, parts: Sequence["_Part"]) -> Iterator[tuple[int, int, bool | ServiceError]]:
        """Write to all shards side by side. For each item its batch, its row, and whether it existed, or the error."""
        by_shard: defaultdict[int, list[_Part]] = defaultdict(list)
        for part in parts:
            by_shard[part.shard].append(part)

        def write(shard: int) -> list[list[bool]] | ServiceError:
            try:
                return self.shards[shard].write([part.write for part in by_shard[shard]])
            except ServiceError as error:
                return error

        shards = list(by_shard)
        for shard, outcome in zip(shards, self._workers.write(write, shards), strict=True):
            for place, part in enumerate(by_shard[shard]):
                results: Sequence[bool | ServiceError]
                results = [outcome] * len(part.rows) if isinstance(outcome, ServiceError) else outcome[place]
                for row, result in zip(part.rows, results, strict=True):
                    yield part.batch, row, result

    def _unknown(self, record_id: str, field: str) -> NotFound:
        return NotFound(f"collection {self.spec.name!r} holds no record {record_id!r}", field=field)


@dataclass(frozen=True, slots=True)
class _Part:
    """A write to one shard, with the batch and the rows its items come from."""

    shard: int
    batch: int
    rows: list[int]
    write: Write


def _is_listed(record: Record, where: Filter | None) -> bool:
    return where is None or matches(where, Document.parsed(record.caption, record.metadata_json))


def _size_bytes(stored: StoredRecord) -> int:
    """About the bytes of a record on the wire; characters of text may take up to 4."""
    record = stored.record
    text = len(record.id) + len(record.caption or "") + len(record.source_uri or "")
    return 4 * text + len(record.metadata_json or b"") + (0 if stored.vector is None else stored.vector.nbytes)
