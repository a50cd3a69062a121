"""The columns of the segments of one shard: built when a filter first needs them, kept beside the segments, inherited.

Owns their folder, that a column is built once however many searches wait for it, and what is done where a field has no
column. All of it is a cache: what is missing or damaged is built anew from the record store.

    SHARD/columns/SEGMENT-FIELD.column     one field in one segment; FIELD is a digest
    SHARD/columns/.writing-*               half written; removed when the shard is opened
"""

import hashlib
import json
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from weakref import WeakKeyDictionary

import numpy as np

from index_service.column_file import (
    ColumnBuilder,
    ColumnDamaged,
    ColumnTooLarge,
    Described,
    Source,
    read_column,
    read_field,
    write_column,
)
from index_service.columns import MOST_FIELDS, Column, evaluate
from index_service.fault_points import reach
from index_service.filters import Document, Field, Filter, atoms_at, fields_of, matches
from index_service.segment import Interrupted, Segment
from service_runtime.errors import DeadlineExceeded

COLUMNS_FOLDER = "columns"
"""Name of the folder of columns in a shard's folder."""

_MASKS_KEPT = 16
_READ_ROWS = 512

ReadDocuments = Callable[[Sequence[int]], Iterable[tuple[int, str | None, bytes | None]]]
"""Reads by their numbers those rows that are still there: number, caption, metadata, by number."""

_logger = logging.getLogger("eyebright.columns")


@dataclass(frozen=True, slots=True)
class SegmentMask:
    """The rows of a segment that a filter lets through."""

    bitmap: np.ndarray
    """(rows / 8,) uint8."""
    rows: int
    gone: np.ndarray
    """(n,) int64: rows whose records are no more, of which nothing is known; not let through."""

    @property
    def mask(self) -> np.ndarray:
        """(rows,) bool."""
        return np.unpackbits(self.bitmap, count=self.rows).view(bool)


class ShardColumns:
    """The columns of one shard. Any thread may call it."""

    def __init__(self, folder: Path, read: ReadDocuments, stop: Event) -> None:
        """``folder`` is the shard's; nothing more is built once ``stop`` is set."""
        self._folder = folder / COLUMNS_FOLDER
        self._read = read
        self._stop = stop
        self._segments: WeakKeyDictionary[Segment, _SegmentColumns] = WeakKeyDictionary()
        self._adding = Lock()

    def mask(self, segment: Segment, where: Filter, deadline: float | None) -> SegmentMask:
        """The rows that a filter lets through; takes seconds where a column must be built first.

        Raises DeadlineExceeded, Interrupted once stopped, or what ``read`` raises.
        """
        return self._of(segment).mask(where, deadline)

    def fields(self, segments: Iterable[Segment]) -> set[Field]:
        """The fields of which any of these has a column."""
        return set().union(*(self._of(segment).fields() for segment in segments))

    def column(self, segment: Segment, field: Field) -> Column | None:
        """A column that is there."""
        return self._of(segment).existing(field)

    def inherit(self, segment: Segment, field: Field, sources: Sequence[Source], gone: np.ndarray) -> None:
        """Give a new segment a column that is made of those of what it was made from."""
        self._of(segment).write(field, sources, gone)

    def build(self, segment: Segment, fields: Iterable[Field]) -> None:
        """Give a new segment columns out of the record store."""
        self._of(segment).columns(list(fields), None)

    def sweep(self, names: Callable[[], Collection[str]]) -> None:
        """Remove what is neither of the segments with these names, asked for once it is known what there is, nor being
        written.
        """
        files = self._files()
        known = names()
        for path in files:
            if path.name.partition("-")[0] not in known and not path.name.startswith("."):
                _remove(path)

    def clear_leftovers(self) -> None:
        """Remove what a crash left half written. Only while nothing is built."""
        for path in self._files():
            if path.name.startswith("."):
                _remove(path)

    @property
    def disk_bytes(self) -> int:
        """Bytes of all columns."""
        total = 0
        for path in self._files():
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def _files(self) -> list[Path]:
        try:
            return list(self._folder.iterdir())
        except FileNotFoundError:
            return []

    def _of(self, segment: Segment) -> "_SegmentColumns":
        with self._adding:
            found = self._segments.get(segment)
            if found is None:
                numbers = segment.numbers
                found = _SegmentColumns(self._folder, segment.name, numbers, self._read, self._stop)
                self._segments[segment] = found
            return found


class _SegmentColumns:
    """The columns of one segment. Holds no reference to it, so that it goes when the segment does."""

    def __init__(self, folder: Path, name: str, numbers: np.ndarray, read: ReadDocuments, stop: Event) -> None:
        self._folder = folder
        self._name = name
        self._numbers = numbers
        self._read = read
        self._stop = stop
        self._changing = Lock()
        self._held: OrderedDict[Field, Column] = OrderedDict()
        self._building: dict[Field, Future[None]] = {}
        self._too_large: set[Field] = set()
        self._masks: OrderedDict[Filter, SegmentMask] = OrderedDict()

    def mask(self, where: Filter, deadline: float | None) -> SegmentMask:
        with self._changing:
            found = self._masks.get(where)
            if found is not None:
                self._masks.move_to_end(where)
                return found
        columns = self.columns(sorted(fields_of(where), key=lambda field: field.keys), deadline)
        if columns is None:
            mask, gone = self._scanned(where, deadline)
        else:
            mask = evaluate(where, lambda condition: columns[condition.field].mask(condition))
            gone = np.unique(np.concatenate([column.gone for column in columns.values()]))
        mask[gone] = False
        found = SegmentMask(np.packbits(mask), len(mask), gone)
        with self._changing:
            self._masks[where] = found
            while len(self._masks) > _MASKS_KEPT:
                self._masks.popitem(last=False)
        return found

    def columns(self, fields: Sequence[Field], deadline: float | None) -> dict[Field, Column] | None:
        """The columns of these fields; None where one of them can't have any. Each is built by one caller alone."""
        got: dict[Field, Column] = {}
        while True:
            with self._changing:
                if self._too_large.intersection(fields):
                    return None
                for field in self._held.keys() & set(fields):
                    self._held.move_to_end(field)
                    got[field] = self._held[field]
                missing = [field for field in fields if field not in got]
                if not missing:
                    return got
                theirs = next((self._building[field] for field in missing if field in self._building), None)
                if theirs is None:
                    mine: Future[None] = Future()
                    self._building |= dict.fromkeys(missing, mine)
            if theirs is not None:
                _wait(theirs, deadline)
                continue
            try:
                got |= self._provided(missing)
            except OSError as error:
                _logger.warning("no columns", extra={"segment": self._name, "reason": str(error)})
                return None
            finally:
                with self._changing:
                    for field in missing:
                        del self._building[field]
                mine.set_result(None)

    def existing(self, field: Field) -> Column | None:
        """The column of a field, when it is held or on disk."""
        with self._changing:
            found = self._held.get(field)
        return self._opened(field) if found is None else found

    def fields(self) -> set[Field]:
        """Those that are held or on disk."""
        with self._changing:
            found = set(self._held)
        for path in self._folder.glob(f"{self._name}-*.column"):
            with suppress(OSError, ColumnDamaged):
                found.add(read_field(path))
        return found

    def write(self, field: Field, sources: Sequence[Source], gone: np.ndarray) -> Column:
        """Make a column and keep it. Raises OSError or ColumnTooLarge."""
        self._folder.mkdir(exist_ok=True)
        aside = self._folder / f".writing-{uuid.uuid4().hex}"
        try:
            reach("column.before_writing")
            write_column(aside, self._described(field), sources, gone)
            column = read_column(aside, self._described(field))
            reach("column.before_rename")
            aside.replace(self._path(field))
            reach("column.after_rename")
        finally:
            aside.unlink(missing_ok=True)
        self._hold(field, column)
        return column

    def _provided(self, fields: Sequence[Field]) -> dict[Field, Column]:
        """These fields' columns, from disk or built, but for those that are too large, which are noted."""
        got = {field: column for field in fields if (column := self._opened(field)) is not None}
        for field, column in got.items():
            self._hold(field, column)
        missing = [field for field in fields if field not in got]
        return got | self._built(missing) if missing else got

    def _built(self, fields: Sequence[Field]) -> dict[Field, Column]:
        began = time.perf_counter()
        self._folder.mkdir(exist_ok=True)
        builders = {field: ColumnBuilder(self._folder) for field in fields}
        built: dict[Field, Column] = {}
        try:
            gone = self._told(builders)
            for field, builder in builders.items():
                try:
                    built[field] = self.write(field, builder.sources(), gone)
                except ColumnTooLarge:
                    self._note_too_large(field)
        finally:
            for builder in builders.values():
                builder.close()
        seconds = round(time.perf_counter() - began, 3)
        named = [list(field.keys) or "caption" for field in fields]
        _logger.info("columns built", extra={"segment": self._name, "fields": named, "seconds": seconds})
        return built

    def _told(self, builders: dict[Field, ColumnBuilder]) -> np.ndarray:
        """Tell all records to the builders, dropping those that can't hold their field. Returns the rows gone (n,)."""
        gone: list[int] = []
        for row, document in self._documents(builders):
            if document is None:
                gone.append(row)
            for field, builder in tuple(builders.items()):
                try:
                    builder.add(() if document is None else atoms_at(document, field))
                except ColumnTooLarge:
                    self._note_too_large(field)
                    builders.pop(field).close()
        return np.array(gone, dtype=np.int64)

    def _documents(self, fields: Iterable[Field]) -> Iterator[tuple[int, Document | None]]:
        """Every row with what its record holds in these fields; None where it is no more."""
        with_metadata = any(field.keys for field in fields)
        for begin in range(0, len(self._numbers), _READ_ROWS):
            if self._stop.is_set():
                raise Interrupted
            numbers = self._numbers[begin : begin + _READ_ROWS].tolist()
            found = {number: (caption, metadata) for number, caption, metadata in self._read(numbers)}
            for row, number in enumerate(numbers, begin):
                if number not in found:
                    yield row, None
                    continue
                caption, metadata = found[number]
                yield row, Document.parsed(caption, metadata) if with_metadata else Document(caption)

    def _scanned(self, where: Filter, deadline: float | None) -> tuple[np.ndarray, np.ndarray]:
        """The rows that a filter lets through, by looking at each record, and those that are gone."""
        mask = np.zeros(len(self._numbers), dtype=bool)
        gone: list[int] = []
        for row, document in self._documents(fields_of(where)):
            if row % _READ_ROWS == 0 and deadline is not None and time.monotonic() > deadline:
                raise DeadlineExceeded("the deadline passed while records were compared with the filter")
            if document is None:
                gone.append(row)
            else:
                mask[row] = matches(where, document)
        return mask, np.array(gone, dtype=np.int64)

    def _opened(self, field: Field) -> Column | None:
        path = self._path(field)
        try:
            return read_column(path, self._described(field))
        except FileNotFoundError:
            return None
        except (OSError, ColumnDamaged) as error:
            _logger.warning("column not used", extra={"path": str(path), "reason": str(error)})
            _remove(path)
            return None

    def _hold(self, field: Field, column: Column) -> None:
        """Keep a column, and let go of the one not used for longest where there are too many, its file too."""
        with self._changing:
            self._held[field] = column
            dropped = [self._held.popitem(last=False)[0] for _ in range(len(self._held) - MOST_FIELDS)]
        for old in dropped:
            _remove(self._path(old))

    def _note_too_large(self, field: Field) -> None:
        named = list(field.keys) or "caption"
        _logger.warning("field has too large a column", extra={"segment": self._name, "field": named})
        with self._changing:
            self._too_large.add(field)

    def _described(self, field: Field) -> Described:
        return Described(self._name, field, len(self._numbers))

    def _path(self, field: Field) -> Path:
        digest = hashlib.sha256(json.dumps(field.keys).encode()).hexdigest()[:32]
        return self._folder / f"{self._name}-{digest}.column"


def _remove(path: Path) -> None:
    """Remove a file that does not count; what is left is removed later."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _wait(building: "Future[None]", deadline: float | None) -> None:
    """Wait for another's work. Raises DeadlineExceeded."""
    try:
        building.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except FutureTimeout:
        raise DeadlineExceeded("the deadline passed while columns were built for the filter's fields") from None
