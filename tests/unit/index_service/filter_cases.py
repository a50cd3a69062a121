"""Random documents and filters for tests, and a second opinion on which match which."""

import json
from typing import Any

from hypothesis import strategies as st

from index_service.filters import (
    CAPTION,
    AllOf,
    AnyOf,
    Comparison,
    Exists,
    Field,
    Filter,
    HasPrefix,
    IsIn,
    IsNull,
    Kind,
    Not,
    Operator,
)

BIG = 2**53
STRINGS = ["", "a", "ab", "abc", "b", "é", "\x00", "a\x00", "\ud800", "\uffff", "🐞", "1", "true", "null"]
NUMBERS = [0, 1, -1, 2, 0.5, 1.0, -0.0, 1e300, 10**300, BIG, BIG + 1, float(BIG), 2**63 - 1, 2**63, -(2**70), 1e-300]
KEYS = ["a", "b", "a.b", ""]

scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(STRINGS), st.sampled_from(NUMBERS))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)),
    max_leaves=6,
)
documents = st.tuples(
    st.one_of(st.none(), st.sampled_from([text for text in STRINGS if text])),
    st.one_of(st.none(), st.dictionaries(st.sampled_from(KEYS), values, max_size=3)),
)
"""Captions and metadata."""

fields = st.one_of(
    st.just(CAPTION), st.lists(st.sampled_from(KEYS), min_size=1, max_size=3).map(lambda keys: Field(tuple(keys)))
)
operands = st.one_of(
    st.sampled_from(STRINGS).map(lambda value: (Kind.STRING, value)),
    st.sampled_from([*NUMBERS, float("inf"), float("-inf")]).map(lambda value: (Kind.NUMBER, value)),
)
conditions: st.SearchStrategy[Filter] = st.one_of(
    st.builds(lambda at, how, operand: Comparison(at, how, *operand), fields, st.sampled_from(Operator), operands),
    st.builds(
        lambda at, how, value: Comparison(at, how, Kind.BOOLEAN, value),
        fields,
        st.sampled_from([Operator.EQUAL, Operator.NOT_EQUAL]),
        st.booleans(),
    ),
    st.builds(
        IsIn,
        fields,
        st.frozensets(st.sampled_from(STRINGS), max_size=8),
        st.frozensets(st.sampled_from(NUMBERS), max_size=8),
        st.frozensets(st.booleans()),
    ),
    st.builds(Exists, fields),
    st.builds(IsNull, fields),
    st.builds(HasPrefix, fields, st.sampled_from(STRINGS)),
)
filters = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: AllOf(tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
        inner.map(Not),
    ),
    max_leaves=5,
)


def stored(document: tuple[str | None, Any]) -> tuple[str | None, bytes | None]:
    """A document as the record store holds it."""
    caption, metadata = document
    return caption, None if metadata is None else json.dumps(metadata).encode()


def oracle(where: Filter, caption: str | None, metadata: Any) -> bool:
    """Whether a filter holds, worked out anew and slowly: every path through the metadata is written down first."""
    match where:
        case AllOf(parts):
            return not any(not oracle(part, caption, metadata) for part in parts)
        case AnyOf(parts):
            return any(oracle(part, caption, metadata) for part in parts)
        case Not(negated):
            return not oracle(negated, caption, metadata)
    if where.field == CAPTION:
        found = [] if caption is None else [caption]
    else:
        found = [value for path, value in paths((), metadata) if path == where.field.keys]
    return any(_holds(where, value) for value in found)


def paths(path: tuple[str, ...], value: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Each place that keys lead to and a value there; lists are looked into, and are no place of their own."""
    if isinstance(value, list) and value:
        return [pair for element in value for pair in paths(path, element)]
    inner = [pair for key, own in value.items() for pair in paths((*path, key), own)] if isinstance(value, dict) else []
    return [(path, value), *inner]


def _holds(where: Any, value: Any) -> bool:
    if isinstance(where, Exists):
        return True
    if isinstance(where, IsNull):
        return value is None
    if isinstance(where, HasPrefix):
        return isinstance(value, str) and value[: len(where.prefix)] == where.prefix
    if value is None or isinstance(value, list | dict):
        return False
    if isinstance(where, IsIn):
        wanted: list[Any] = [*where.strings, *where.numbers, *where.booleans]
        return any(_type(value) == _type(one) and value == one for one in wanted)
    same = _type(value) == _type(where.value)
    if where.operator.value == "!=":
        return not (same and value == where.value)
    signs = "".join(("<" if value < where.value else "", ">" if value > where.value else "")) if same else "?"
    return (signs or "=") in where.operator.value


def _type(value: Any) -> str:
    return {bool: "boolean", str: "string", int: "number", float: "number"}[type(value)]
