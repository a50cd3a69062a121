"""Filters: which records count, said with Python's own operators.

    F("group") == "food"                       a key of the metadata
    F("camera", "iso") >= 800                  a key within a key
    F("tags").isin(["red", "blue"])            a list matches when any element does
    F("group").exists() & ~F("draft").is_null()
    F.caption.startswith("a dog") | (F("n") != 3)

Owns the builder and its complaints; knows no message. A field that a record lacks makes every condition on it false, so
its negation true. Types are never converted: "1" is not 1, and True is not 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NoReturn, TypeAlias

from eyebright_client._exceptions import InvalidArgument

Value: TypeAlias = str | bool | int | float
Operator: TypeAlias = Literal["==", "!=", "<", "<=", ">", ">="]

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


class Filter:
    """What records must be like. Made of conditions on F, joined by ``&`` and ``|``, negated by ``~``."""

    __slots__ = ()

    def __and__(self, other: "Filter") -> "Filter":
        return _joined(AllOf, self, other, "&")

    def __or__(self, other: "Filter") -> "Filter":
        return _joined(AnyOf, self, other, "|")

    def __invert__(self) -> "Filter":
        return self.negated if isinstance(self, Not) else Not(self)

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "a filter is neither true nor false: join filters by & instead of `and`, | instead of `or`, ~ instead of "
            "`not`, each comparison in parentheses, and write (a < F(...)) & (F(...) < b) instead of a < F(...) < b"
        )


class F:
    """A field of records: ``F("key")`` and ``F("key", "key within")`` in the metadata, ``F.caption`` the caption.

    Compare it (``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``) with a string, a number or a boolean to get a Filter.
    """

    __slots__ = ("keys",)
    __hash__ = None  # type: ignore[assignment] # == builds a filter, so that fields can't be told apart in a set

    caption: ClassVar["F"]
    """The caption: a string, or missing."""

    def __init__(self, *keys: str) -> None:
        if not keys or not all(isinstance(key, str) for key in keys):
            raise InvalidArgument(f"F: expected one or more keys, strings, not {keys!r}", field="filter")
        self.keys: tuple[str, ...] = keys

    def __repr__(self) -> str:
        return f"F({', '.join(map(repr, self.keys))})" if self.keys else "F.caption"

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]
        return Comparison(self.keys, "==", _checked(value))

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        return Comparison(self.keys, "!=", _checked(value))

    def __lt__(self, value: str | float) -> Filter:
        return Comparison(self.keys, "<", _ordered(value))

    def __le__(self, value: str | float) -> Filter:
        return Comparison(self.keys, "<=", _ordered(value))

    def __gt__(self, value: str | float) -> Filter:
        return Comparison(self.keys, ">", _ordered(value))

    def __ge__(self, value: str | float) -> Filter:
        return Comparison(self.keys, ">=", _ordered(value))

    def isin(self, values: Iterable[Value]) -> Filter:
        """A value equals one of these, at most 10,000; of none it is never true."""
        if isinstance(values, str):
            raise InvalidArgument("isin: expected several values, not one string", field="filter")
        return IsIn(self.keys, tuple(_checked(value) for value in values))

    def exists(self) -> Filter:
        """There is a value of any kind, null included."""
        return Exists(self.keys)

    def is_null(self) -> Filter:
        """There is a value, and it is null."""
        return IsNull(self.keys)

    def startswith(self, prefix: str) -> Filter:
        """A string begins so, case included."""
        if not isinstance(prefix, str):
            raise InvalidArgument(f"startswith: expected a string, not {prefix!r}", field="filter")
        return HasPrefix(self.keys, prefix)

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} is a field, neither true nor false: compare it, or ask {self!r}.exists()")

    def _refuse_join(self, other: object) -> NoReturn:
        raise TypeError(
            f"{self!r} is a field, no filter, and can't be joined with {other!r}: put each comparison in parentheses, "
            'as in (F("a") == 1) & (F("b") == 2)'
        )

    __and__ = __rand__ = __or__ = __ror__ = _refuse_join

    def __invert__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} is a field, no filter, and can't be negated: ~{self!r}.exists() finds where it lacks"
        )


F.caption = F("caption")
F.caption.keys = ()


@dataclass(frozen=True, slots=True)
class Comparison(Filter):
    """A value compares so with another. ``keys`` is empty for the caption, here and below."""

    keys: tuple[str, ...]
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class IsIn(Filter):
    """A value equals one of several."""

    keys: tuple[str, ...]
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Exists(Filter):
    """There is a value."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IsNull(Filter):
    """A value is null."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HasPrefix(Filter):
    """A string begins so."""

    keys: tuple[str, ...]
    prefix: str


@dataclass(frozen=True, slots=True)
class AllOf(Filter):
    """All of these hold."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf(Filter):
    """At least one of these holds."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not(Filter):
    """A filter does not hold."""

    negated: Filter


def check_filter(given: object) -> Filter:
    """What was given as a filter. Raises InvalidArgument when it is none."""
    if isinstance(given, Filter):
        return given
    hint = "; compare the field with something" if isinstance(given, F) else ', as F("group") == "food" makes one'
    raise InvalidArgument(f"filter: expected a Filter, not {given!r}{hint}", field="filter")


def _joined(kind: type[AllOf] | type[AnyOf], left: Filter, right: object, sign: str) -> Filter:
    """One join of both; a chain of the same sign stays one join, however long."""
    if not isinstance(right, Filter):
        if isinstance(right, F):
            raise TypeError(f"{right!r} is a field, no filter: put each comparison beside {sign} in parentheses")
        raise TypeError(f"expected a filter on the right of {sign}, not {right!r}")
    parts: list[Filter] = []
    for side in (left, right):
        parts += side.filters if isinstance(side, kind) else (side,)
    return kind(tuple(parts))


def _checked(value: Any) -> Value:  # noqa: ANN401
    """A value as the contract takes it. Raises InvalidArgument."""
    if isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        number = int(value)
        if not _SMALLEST <= number <= _LARGEST:
            raise InvalidArgument(f"filter: expected an integer from -2**63 to 2**63 - 1, not {number}", field="filter")
        return number
    if isinstance(value, Real):
        if value != value:
            raise InvalidArgument("filter: expected a number, not NaN", field="filter")
        return float(value)
    hint = "; a value is null where .is_null(), missing where ~.exists()" if value is None else ""
    raise InvalidArgument(f"filter: expected a string, a number or a boolean, not {value!r}{hint}", field="filter")


def _ordered(value: Any) -> Value:  # noqa: ANN401
    if isinstance(value, bool):
        raise InvalidArgument(f"filter: expected a string or a number to order by, not {value!r}", field="filter")
    return _checked(value)
