"""Filters: what one says, and whether it holds for a record.

Owns the tree and its meaning, row by row. Knows no protobuf, and no way to answer but to look at each record.
"""

import json
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias


class Kind(Enum):
    """Types of values that comparisons see; none is ever converted into another."""

    BOOLEAN = "boolean"
    NUMBER = "number"
    STRING = "string"


class Operator(Enum):
    """How a value compares with another."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


class Opaque(Enum):
    """What stands for a value that no comparison sees: an object or an empty list."""

    VALUE = "opaque"


Scalar: TypeAlias = str | int | float | bool
Atom: TypeAlias = Scalar | Opaque | None
"""One of the values that a record has in a field; None is null."""


@dataclass(frozen=True, slots=True)
class Field:
    """Where a condition looks: at the keys that lead to a value in the metadata, or with no keys at the caption."""

    keys: tuple[str, ...] = ()


CAPTION = Field()


@dataclass(frozen=True, slots=True)
class Comparison:
    """A value compares so with another."""

    field: Field
    operator: Operator
    kind: Kind
    """Of the value; Python alone would take True for 1."""
    value: Scalar


@dataclass(frozen=True, slots=True)
class IsIn:
    """A value equals one of several."""

    field: Field
    strings: frozenset[str]
    numbers: frozenset[int | float]
    booleans: frozenset[bool]

    def of_kind(self, kind: Kind) -> frozenset[Any]:
        """Those of one type."""
        return {Kind.STRING: self.strings, Kind.NUMBER: self.numbers, Kind.BOOLEAN: self.booleans}[kind]


@dataclass(frozen=True, slots=True)
class Exists:
    """There is a value."""

    field: Field


@dataclass(frozen=True, slots=True)
class IsNull:
    """A value is null."""

    field: Field


@dataclass(frozen=True, slots=True)
class HasPrefix:
    """A string begins so."""

    field: Field
    prefix: str


@dataclass(frozen=True, slots=True)
class AllOf:
    """All of these hold."""

    filters: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of these holds."""

    filters: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """A filter does not hold."""

    negated: "Filter"


Condition: TypeAlias = Comparison | IsIn | Exists | IsNull | HasPrefix
"""What looks at one field."""

Filter: TypeAlias = Condition | AllOf | AnyOf | Not

_decode = json.JSONDecoder().raw_decode

_COMPARE: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


@dataclass(frozen=True, slots=True)
class Document:
    """What filters see of a record."""

    caption: str | None = None
    metadata: dict[str, Any] | None = field(default=None, hash=False)

    @classmethod
    def parsed(cls, caption: str | None, metadata_json: bytes | None) -> "Document":
        """From what is stored. Metadata that can't be read, which no write lets in, counts as none."""
        try:
            return cls(caption, _decode(metadata_json.decode().lstrip())[0] if metadata_json else None)
        except ValueError:
            return cls(caption)


def matches(where: Filter, document: Document) -> bool:
    """Whether a filter holds for a record."""
    match where:
        case AllOf(filters):
            return all(matches(part, document) for part in filters)
        case AnyOf(filters):
            return any(matches(part, document) for part in filters)
        case Not(negated):
            return not matches(negated, document)
    return any(holds(where, atom) for atom in atoms_at(document, where.field))


def fields_of(where: Filter) -> set[Field]:
    """The fields that a filter looks at."""
    match where:
        case AllOf(filters) | AnyOf(filters):
            return set().union(*(fields_of(part) for part in filters))
        case Not(negated):
            return fields_of(negated)
    return {where.field}


def holds(condition: Condition, atom: Atom) -> bool:
    """Whether a condition holds for one of the values of its field."""
    match condition:
        case Exists():
            return True
        case IsNull():
            return atom is None
        case HasPrefix(_, prefix):
            return isinstance(atom, str) and atom.startswith(prefix)
    kind = kind_of(atom)
    if kind is None:
        return False
    if isinstance(condition, IsIn):
        return atom in condition.of_kind(kind)
    if kind is not condition.kind:
        return condition.operator is Operator.NOT_EQUAL
    return _COMPARE[condition.operator](atom, condition.value)


def kind_of(atom: Atom) -> Kind | None:
    """The type of a value; None for what comparisons don't see."""
    match atom:
        case bool():
            return Kind.BOOLEAN
        case int() | float():
            return Kind.NUMBER
        case str():
            return Kind.STRING
    return None


def atoms_at(document: Document, where: Field) -> Sequence[Atom]:
    """The values that a record has in a field; none when it is missing."""
    if not where.keys:
        return () if document.caption is None else (document.caption,)
    value: Any = document.metadata
    for depth, key in enumerate(where.keys):
        if type(value) is not dict:
            return list(_within(value, where.keys[depth:]))
        if key not in value:
            return ()
        value = value[key]
    return list(_within(value, ())) if type(value) in (list, dict) else (value,)


def _within(value: Any, keys: tuple[str, ...]) -> Iterator[Atom]:  # noqa: ANN401 - parsed JSON
    """The values that keys lead to; a list stands for its elements."""
    if isinstance(value, list) and value:
        for element in value:
            yield from _within(element, keys)
    elif not keys:
        yield Opaque.VALUE if isinstance(value, list | dict) else value
    elif isinstance(value, dict) and keys[0] in value:
        yield from _within(value[keys[0]], keys[1:])
