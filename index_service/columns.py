"""Columns: the values of one field over many rows as codes of a dictionary, and the rows that a condition lets through.

Owns what the codes mean and how a condition becomes a mask. Knows no file and no record. A column gives the same answer
as ``filters.matches`` row by row.
"""

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from threading import Lock
from typing import Any, Protocol

import numpy as np

from index_service.filters import (
    AllOf,
    AnyOf,
    Atom,
    Comparison,
    Condition,
    Document,
    Exists,
    Field,
    Filter,
    HasPrefix,
    IsIn,
    IsNull,
    Kind,
    Not,
    Opaque,
    Operator,
    atoms_at,
    fields_of,
)

MISSING, OPAQUE, NULL, FALSE, TRUE, FIRST = range(6)
"""What the first codes stand for; from FIRST on they are places in the dictionary, numbers before strings."""

MOST_FIELDS = 64
"""Fields of which a block or a segment keeps columns, the most recently used ones."""

_FIRST_CAPACITY = 256
_FEW_RANGES = 4
_PREDEFINED: dict[Atom, int] = {None: NULL, Opaque.VALUE: OPAQUE}

Ranges = Sequence[tuple[int, int]]
"""Codes from the first of each pair to before the second."""


def evaluate(where: Filter, mask_of: Callable[[Condition], np.ndarray]) -> np.ndarray:
    """The rows (rows,) bool that a filter lets through, from those that each of its conditions does."""
    match where:
        case AllOf(filters):
            return reduce(np.logical_and, [evaluate(part, mask_of) for part in filters])
        case AnyOf(filters):
            return reduce(np.logical_or, [evaluate(part, mask_of) for part in filters])
        case Not(negated):
            return ~evaluate(negated, mask_of)
    return mask_of(where)


@dataclass(frozen=True, slots=True)
class Codes:
    """The codes of some rows."""

    first: np.ndarray
    """(rows,) unsigned. OPAQUE where a row has several values, which then stand in ``many``."""
    many_rows: np.ndarray
    """(n,) int64: the row of each of them."""
    many: np.ndarray
    """(n,) unsigned."""

    def chosen(self, ranges: Ranges, code_count: int) -> np.ndarray:
        """The rows (rows,) bool with a code in the ranges; there are ``code_count`` codes."""
        mask = _in_ranges(self.first, ranges, code_count)
        if len(self.many):
            mask[self.many_rows[_in_ranges(self.many, ranges, code_count)]] = True
        return mask

    def moved(self, rows: np.ndarray, targets: np.ndarray, translation: np.ndarray) -> "Codes":
        """Those of ``rows`` (n,), as of the rows ``targets`` (n,), by another dictionary; ``first`` as for ``rows``."""
        moved_to = np.full(len(self.first), -1, dtype=np.int64)
        moved_to[rows] = targets
        many_rows = moved_to[self.many_rows]
        kept = many_rows >= 0
        return Codes(translation[self.first[rows]], many_rows[kept], translation[self.many[kept]])


class Values(Protocol):
    """Distinct values of one type, ascending, numbers whatever their type and strings by their code points."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> Any: ...  # noqa: ANN401 - numbers or strings


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one field in rows that never change."""

    codes: Codes
    numbers: Values
    strings: Values
    gone: np.ndarray
    """(n,) int64: rows of records that were deleted before they were read."""

    @property
    def code_count(self) -> int:
        """How many codes there are."""
        return FIRST + len(self.numbers) + len(self.strings)

    def mask(self, condition: Condition) -> np.ndarray:
        """The rows (rows,) bool that a condition lets through."""
        return self.codes.chosen(self._ranges(condition), self.code_count)

    def _ranges(self, condition: Condition) -> Ranges:
        match condition:
            case Exists():
                return [(OPAQUE, self.code_count)]
            case IsNull():
                return [(NULL, FALSE)]
            case HasPrefix(_, prefix):
                begin = self._place(Kind.STRING, prefix)
                count = bisect_left(
                    range(begin, self.code_count), True, key=lambda code: not self._string(code).startswith(prefix)
                )
                return [(begin, begin + count)]
            case IsIn():
                return [own for kind in Kind for own in self._equal(kind, condition.of_kind(kind))]
            case Comparison(_, operator, kind, value):
                return self._compared(operator, kind, value)

    def _string(self, code: int) -> str:
        string: str = self.strings[code - FIRST - len(self.numbers)]
        return string

    def _part(self, kind: Kind) -> tuple[Values, int]:
        """The values of a type, and the code of the first."""
        match kind:
            case Kind.BOOLEAN:
                return (False, True), FALSE
            case Kind.NUMBER:
                return self.numbers, FIRST
            case Kind.STRING:
                return self.strings, FIRST + len(self.numbers)

    def _place(self, kind: Kind, value: Any) -> int:  # noqa: ANN401
        """The code of the first value of a type that is not less than this one."""
        values, first = self._part(kind)
        return first + bisect_left(range(len(values)), value, key=values.__getitem__)

    def _equal(self, kind: Kind, wanted: frozenset[Any]) -> Ranges:
        """The codes of those of the wanted values that are there."""
        values, first = self._part(kind)
        if len(wanted) * max(1, len(values).bit_length()) > len(values):
            found = [first + place for place in range(len(values)) if values[place] in wanted]
        else:
            places = ((self._place(kind, value), value) for value in wanted)
            found = [code for code, value in places if code < first + len(values) and values[code - first] == value]
        return [(code, code + 1) for code in found]

    def _compared(self, operator: Operator, kind: Kind, value: Any) -> Ranges:  # noqa: ANN401
        values, first = self._part(kind)
        end = first + len(values)
        at = self._place(kind, value)
        past = at + (at < end and values[at - first] == value)
        return {
            Operator.EQUAL: [(at, past)],
            Operator.NOT_EQUAL: [(FALSE, at), (past, self.code_count)],
            Operator.LESS: [(first, at)],
            Operator.LESS_OR_EQUAL: [(first, past)],
            Operator.GREATER: [(past, end)],
            Operator.GREATER_OR_EQUAL: [(at, end)],
        }[operator]


class GrowingColumn:
    """The values of one field while rows are added. Its dictionary is in the order of arrival."""

    def __init__(self) -> None:
        self.rows = 0
        self.known: dict[str | int | float, int] = {}
        """The code of each number and string."""
        self.text_bytes = 0
        """Least bytes of the strings known."""
        self._first = np.empty(_FIRST_CAPACITY, dtype=np.uint32)
        self._many_rows = array("q")
        self._many = array("I")
        self._column: Column | None = None

    def add(self, atoms: Sequence[Atom]) -> None:
        """One more row with these values."""
        if self.rows == len(self._first):
            self._first = np.concatenate([self._first, np.empty_like(self._first)])
        if len(atoms) == 1:
            self._first[self.rows] = self._code(atoms[0])
        elif not atoms:
            self._first[self.rows] = MISSING
        else:
            self._first[self.rows] = OPAQUE
            several = {self._code(atom) for atom in atoms}
            self._many_rows.extend([self.rows] * len(several))
            self._many.extend(several)
        self.rows += 1

    def column(self) -> Column:
        """All rows as they are now, with the dictionary in order."""
        if self._column is None or len(self._column.codes.first) < self.rows:
            values = sorted(value for value in self.known if not isinstance(value, str))
            strings = sorted(value for value in self.known if isinstance(value, str))
            translation = np.arange(FIRST + len(self.known), dtype=np.uint32)
            old = np.fromiter((self.known[value] for value in (*values, *strings)), np.int64, len(self.known))
            translation[old] = np.arange(FIRST, FIRST + len(old))
            codes = Codes(
                translation[self._first[: self.rows]],
                np.array(self._many_rows, dtype=np.int64),
                translation[np.array(self._many, dtype=np.uint32)],
            )
            self._column = Column(codes, values, strings, np.empty(0, np.int64))
        return self._column

    def _code(self, atom: Atom) -> int:
        if isinstance(atom, bool):
            return TRUE if atom else FALSE
        if atom is None or isinstance(atom, Opaque):
            return _PREDEFINED[atom]
        code = self.known.get(atom)
        if code is None:
            code = self.known[atom] = FIRST + len(self.known)
            self.text_bytes += len(atom) if isinstance(atom, str) else 0
        return code


class BlockColumns:
    """The columns of one block of the memtable, each as long as the block was when it was last asked for."""

    def __init__(self) -> None:
        self._columns: OrderedDict[Field, GrowingColumn] = OrderedDict()
        self._changing = Lock()

    @property
    def fields(self) -> set[Field]:
        """Those that there are columns of."""
        with self._changing:
            return set(self._columns)

    def mask(self, where: Filter, captions: np.ndarray, metadata: np.ndarray) -> np.ndarray:
        """The rows (rows,) bool that a filter lets through, of a block with these captions and metadata (rows,)."""
        with self._changing:
            columns = self._grown(fields_of(where), captions, metadata)
        rows = slice(len(captions))  # another search may have seen more
        return evaluate(where, lambda condition: columns[condition.field].mask(condition)[rows])

    def grown(self, fields: set[Field], captions: np.ndarray, metadata: np.ndarray) -> dict[Field, Column]:
        """The columns of these fields over these rows at the least."""
        with self._changing:
            return self._grown(fields, captions, metadata)

    def _grown(self, fields: set[Field], captions: np.ndarray, metadata: np.ndarray) -> dict[Field, Column]:
        columns = {own: self._columns.setdefault(own, GrowingColumn()) for own in fields}
        for own in columns:
            self._columns.move_to_end(own)
        while len(self._columns) > max(MOST_FIELDS, len(fields)):
            self._columns.popitem(last=False)
        for row in range(min(column.rows for column in columns.values()), len(captions)) if columns else ():
            document = Document.parsed(captions[row], metadata[row])
            for own, column in columns.items():
                if column.rows == row:
                    column.add(atoms_at(document, own))
        return {own: column.column() for own, column in columns.items()}


def _in_ranges(codes: np.ndarray, ranges: Ranges, code_count: int) -> np.ndarray:
    """Which of the codes (n,) lie in one of the ranges."""
    present = [(begin, end) for begin, end in ranges if begin < end]
    if len(present) > _FEW_RANGES:
        table = np.zeros(code_count, dtype=bool)
        for begin, end in present:
            table[begin:end] = True
        return np.take(table, codes)
    if not present:
        return np.zeros(len(codes), dtype=bool)
    # Unsigned numbers wrap round, so that one comparison tells.
    parts = [
        codes == begin if end == begin + 1 else codes - codes.dtype.type(begin) < end - begin for begin, end in present
    ]
    return reduce(np.logical_or, parts)
