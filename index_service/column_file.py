"""Columns in files: written aside with little memory, read through the page cache.

Owns the format, and how dictionaries that don't fit into memory are sorted. A file is written once and never changed;
its last bytes are the digest of all others, so that a damaged one is told from a sound one. What it is of stands in it.

    sections, each at a multiple of 8 bytes       codes, rows and ends of lists, the dictionary
    a JSON object                                 what the column is of, and where the sections lie
    8 bytes, little-endian                        bytes of the JSON object
    32 bytes                                      sha-256 of everything before
"""

import hashlib
import heapq
import itertools
import json
import mmap
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from index_service.columns import FIRST, Codes, Column, GrowingColumn
from index_service.filters import Atom, Field

MOST_DICTIONARY_BYTES = 256 * 1024 * 1024
"""Bytes of all distinct values of a column, past which none is kept: it would be a second copy of the records."""

RUN_VALUES = 65_536
RUN_BYTES = 8 * 1024 * 1024
"""Distinct values, and bytes of them, that are sorted in memory at a time."""

_FORMAT = 1
_ALIGNMENT = 8
_DIGEST_BYTES = 32
_LENGTH_BYTES = 8
_HASHED_BYTES = 1024 * 1024


class ColumnTooLarge(Exception):
    """The distinct values of a field have more bytes than a column may."""


class ColumnDamaged(Exception):
    """A file is not what was written."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a column is of."""

    segment: str
    field: Field
    rows: int
    format: int = _FORMAT


@dataclass(frozen=True, slots=True)
class Source:
    """A column that rows of a new one come from."""

    codes: Codes
    numbers: Iterable[int | float]
    """Distinct, ascending; the codes count them, then the strings, from FIRST on."""
    strings: Iterable[bytes]
    rows: np.ndarray
    """(n,) int64: the rows to take."""
    targets: np.ndarray
    """(n,) int64: which rows of the new column they are."""

    @classmethod
    def of(cls, column: Column, rows: np.ndarray, targets: np.ndarray) -> "Source":
        """Rows of a column."""
        return cls(column.codes, _all(column.numbers), map(_encoded, _all(column.strings)), rows, targets)


class ColumnBuilder:
    """A column of records that are told one after another. What does not fit into memory goes to nameless files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = GrowingColumn()
        self._spilled: list[tuple[Codes, IO[bytes], int]] = []
        self._rows = 0
        self._bytes = 0

    def add(self, atoms: Sequence[Atom]) -> None:
        """The next record's values. Raises ColumnTooLarge."""
        self._run.add(atoms)
        if len(self._run.known) >= RUN_VALUES or self._run.text_bytes >= RUN_BYTES:
            self._spill()

    def sources(self) -> list[Source]:
        """All that was told; may be asked for once."""
        sources: list[Source] = []
        begin = 0
        for codes, file, number_count in self._spilled:
            file.seek(0)
            values = _read_run(file)
            # Numbers are read to their end before the first string is.
            numbers = map(_parsed, itertools.islice(values, number_count))
            count = len(codes.first)
            sources.append(Source(codes, numbers, values, np.arange(count), np.arange(begin, begin + count)))
            begin += count
        rest = self._run.column()
        count = len(rest.codes.first)
        return [*sources, Source.of(rest, np.arange(count), np.arange(begin, begin + count))]

    def close(self) -> None:
        """Let go of the files."""
        for _, file, _ in self._spilled:
            file.close()

    def _spill(self) -> None:
        run = self._run.column()
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by close()
        self._spilled.append((run.codes, file, len(run.numbers)))
        for value in itertools.chain(map(_rendered, _all(run.numbers)), map(_encoded, _all(run.strings))):
            file.write(len(value).to_bytes(4, "little") + value)
        self._bytes += file.tell()
        self._run = GrowingColumn()
        # Runs may share values; many times over they rarely do.
        if self._bytes > 4 * MOST_DICTIONARY_BYTES:
            raise ColumnTooLarge


def write_column(path: Path, described: Described, sources: Sequence[Source], gone: np.ndarray) -> None:
    """Write a column to a new file, durably but for its name; ``gone`` as in Column.

    Raises OSError or ColumnTooLarge.
    """
    with path.open("xb") as file:
        out = _Sections(file)
        translations = [array("I", range(FIRST)) for _ in sources]
        count = FIRST
        for name, values, render in (
            ("number", [source.numbers for source in sources], _rendered),
            ("string", [source.strings for source in sources], bytes),
        ):
            ends = array("Q")
            out.begin(f"{name}_texts")
            for value in _merged(values, translations, count):
                out.text(render(value), ends)
            count += len(ends)
            out.write(f"{name}_ends", np.array(ends, dtype=np.uint64))
        narrow = np.min_scalar_type(count - 1)
        moved = [
            source.codes.moved(source.rows, source.targets, np.array(translation, dtype=narrow))
            for source, translation in zip(sources, translations, strict=True)
        ]
        first = np.zeros(described.rows, dtype=narrow)
        for source, codes in zip(sources, moved, strict=True):
            first[source.targets] = codes.first
        out.write("first", first)
        out.write("many_rows", np.concatenate([codes.many_rows for codes in moved]))
        out.write("many", np.concatenate([codes.many for codes in moved]))
        out.write("gone", gone)
        out.finish(asdict(described))


def read_column(path: Path, described: Described) -> Column:
    """Map a column. Raises ColumnDamaged unless it is sound and what ``described`` says, or OSError."""
    found, held = _mapped(path)
    expected = json.loads(json.dumps(asdict(described)))
    if {key: found.get(key) for key in expected} != expected:
        raise ColumnDamaged(f"{path}: expected {expected}, not {found}")
    whole = np.frombuffer(held, dtype=np.uint8)

    def section(name: str) -> np.ndarray:
        begin, end, kind = found["sections"][name]
        return whole[begin:end].view(np.dtype(kind))

    def texts(name: str) -> tuple[mmap.mmap, int, memoryview]:
        return held, found["sections"][f"{name}_texts"][0], section(f"{name}_ends").data

    codes = Codes(section("first"), section("many_rows"), section("many"))
    return Column(codes, _Numbers(*texts("number")), _Strings(*texts("string")), section("gone"))


def read_field(path: Path) -> Field:
    """The field that a file holds a column of. Raises ColumnDamaged or OSError."""
    found, _ = _mapped(path)
    return Field(tuple(found["field"]["keys"]))


def _mapped(path: Path) -> tuple[dict[str, Any], mmap.mmap]:
    """What a file says it is, and its bytes. Raises ColumnDamaged or OSError."""
    try:
        with path.open("rb") as file:
            held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        end = len(held) - _DIGEST_BYTES
        digest = hashlib.sha256()
        with memoryview(held) as view:
            for begin in range(0, max(end, 0), _HASHED_BYTES):
                digest.update(view[begin : min(begin + _HASHED_BYTES, end)])
        if end < _LENGTH_BYTES or held[end:] != digest.digest():
            raise ColumnDamaged(f"{path}: its digest is another")
        length = int.from_bytes(held[end - _LENGTH_BYTES : end], "little")
        return json.loads(held[end - _LENGTH_BYTES - length : end - _LENGTH_BYTES]), held
    except ValueError as error:  # an empty file can't be mapped
        raise ColumnDamaged(f"{path}: {error}") from error


class _Sections:
    """A file while it is written, section after section."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0
        self._sections: dict[str, tuple[int, int, str]] = {}
        self._open: tuple[str, int] | None = None
        self._text_bytes = 0

    def begin(self, name: str) -> None:
        """A section of texts begins."""
        self._put(bytes(-self._size % _ALIGNMENT))
        self._open = name, self._size

    def text(self, text: bytes, ends: "array[int]") -> None:
        """One more text. Raises ColumnTooLarge."""
        assert self._open is not None
        self._put(text)
        self._text_bytes += len(text)
        if self._text_bytes > MOST_DICTIONARY_BYTES:
            raise ColumnTooLarge
        ends.append(self._size - self._open[1])

    def write(self, name: str, numbers: np.ndarray) -> None:
        """A section of numbers."""
        self._close_texts()
        self._put(bytes(-self._size % _ALIGNMENT))
        little = numbers.astype(numbers.dtype.newbyteorder("<"))
        begin = self._size
        self._put(little.tobytes())
        self._sections[name] = begin, self._size, little.dtype.str

    def finish(self, described: dict[str, Any]) -> None:
        """Write what the file is, and sync it."""
        footer = json.dumps(described | {"sections": self._sections}).encode()
        self._put(footer)
        self._put(len(footer).to_bytes(_LENGTH_BYTES, "little"))
        self._file.write(self._digest.digest())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _close_texts(self) -> None:
        if self._open is not None:
            name, begin = self._open
            self._sections[name] = begin, self._size, "|u1"
            self._open = None

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)


class _Texts:
    """Texts in a mapped file."""

    def __init__(self, held: mmap.mmap, begin: int, ends: memoryview) -> None:
        self._held = held
        self._begin = begin
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def text(self, place: int) -> bytes:
        """One of them."""
        begin = self._ends[place - 1] if place else 0
        return self._held[self._begin + begin : self._begin + self._ends[place]]


class _Numbers(_Texts):
    def __getitem__(self, place: int) -> int | float:
        return _parsed(self.text(place))


class _Strings(_Texts):
    def __getitem__(self, place: int) -> str:
        return self.text(place).decode("utf-8", "surrogatepass")


def _merged(values: Sequence[Iterable[Any]], translations: Sequence["array[int]"], first_code: int) -> Iterator[Any]:
    """The union of ascending values, noting the code of each, from ``first_code`` on, for each that has it."""
    last: Any = None
    code = first_code - 1
    for value, source in heapq.merge(*(_numbered(own, source) for source, own in enumerate(values))):
        if last is None or value != last:
            last = value
            code += 1
            yield value
        translations[source].append(code)


def _numbered(values: Iterable[Any], source: int) -> Iterator[tuple[Any, int]]:
    return ((value, source) for value in values)


def _read_run(file: IO[bytes]) -> Iterator[bytes]:
    while length := file.read(4):
        yield file.read(int.from_bytes(length, "little"))


def _all(values: Any) -> Iterator[Any]:  # noqa: ANN401 - numbers or strings
    return map(values.__getitem__, range(len(values)))


def _encoded(text: str) -> bytes:
    """A string as bytes that sort as its code points do. JSON may hold half of a surrogate pair."""
    return text.encode("utf-8", "surrogatepass")


def _rendered(number: int | float) -> bytes:
    """A number as text, the same for equal ones."""
    return repr(int(number) if isinstance(number, float) and number.is_integer() else number).encode()


def _parsed(text: bytes) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
