"""Protobuf <-> domain for filters.

Owns the limits that filter.proto states, and the path of the field at fault.
"""

import math
from collections.abc import Iterable

from eyebright.index.v1 import filter_pb2, record_pb2

from index_service.converters import check_range
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
    Scalar,
    fields_of,
)
from service_runtime.errors import InvalidArgument

MAX_DEPTH = 16
MAX_NODES = 256
MAX_FIELDS = 64
MAX_FILTER_BYTES = 1024 * 1024
MAX_VALUES = 10_000
MAX_KEYS = 32

_OPERATORS = {
    filter_pb2.COMPARISON_OPERATOR_EQUAL: Operator.EQUAL,
    filter_pb2.COMPARISON_OPERATOR_NOT_EQUAL: Operator.NOT_EQUAL,
    filter_pb2.COMPARISON_OPERATOR_LESS: Operator.LESS,
    filter_pb2.COMPARISON_OPERATOR_LESS_OR_EQUAL: Operator.LESS_OR_EQUAL,
    filter_pb2.COMPARISON_OPERATOR_GREATER: Operator.GREATER,
    filter_pb2.COMPARISON_OPERATOR_GREATER_OR_EQUAL: Operator.GREATER_OR_EQUAL,
}
_FOR_BOOLEANS = (Operator.EQUAL, Operator.NOT_EQUAL)


def parse_filter(path: str, message: filter_pb2.Filter) -> Filter:
    """A filter; ``path`` is the field of the request that it stands in. Raises InvalidArgument."""
    size = message.ByteSize()
    if size > MAX_FILTER_BYTES:
        raise InvalidArgument(f"expected at most {MAX_FILTER_BYTES:,} bytes, not {size:,}", field=path)
    _check_shape(path, message)
    parsed = _filter(path, message)
    fields = len(fields_of(parsed))
    if fields > MAX_FIELDS:
        raise InvalidArgument(f"expected conditions on at most {MAX_FIELDS} fields, not {fields}", field=path)
    return parsed


def parse_delete_filter(request: record_pb2.DeleteRequest) -> Filter | None:
    """The filter of a deletion; None where it is by ids."""
    if not request.HasField("filter"):
        return None
    if request.ids:
        raise InvalidArgument(f"expected ids or a filter, not both: {len(request.ids):,} ids and one", field="filter")
    return parse_filter("filter", request.filter)


def _check_shape(path: str, message: filter_pb2.Filter) -> None:
    """Levels and nodes, level by level, before anything is parsed."""
    level, nodes, depth = [message], 0, 0
    while level:
        nodes, depth = nodes + len(level), depth + 1
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"expected at most {MAX_DEPTH} levels, not {depth} or more", field=path)
        if nodes > MAX_NODES:
            raise InvalidArgument(f"expected at most {MAX_NODES} conditions and joins, not {nodes} or more", field=path)
        level = [inner for outer in level for inner in _inner(outer)]


def _inner(message: filter_pb2.Filter) -> Iterable[filter_pb2.Filter]:
    match message.WhichOneof("condition"):
        case "all_of":
            return message.all_of.filters
        case "any_of":
            return message.any_of.filters
        case "negation":
            return [message.negation]
    return ()


def _filter(path: str, message: filter_pb2.Filter) -> Filter:
    kind = message.WhichOneof("condition")
    inner = f"{path}.{kind}"
    match kind:
        case None:
            raise InvalidArgument("expected a condition, not none", field=path)
        case "negation":
            return Not(_filter(inner, message.negation))
        case "all_of":
            return AllOf(_filters(inner, message.all_of))
        case "any_of":
            return AnyOf(_filters(inner, message.any_of))
    return _condition(inner, kind, message)


def _filters(path: str, message: filter_pb2.FilterList) -> tuple[Filter, ...]:
    if not message.filters:
        raise InvalidArgument("expected 1 or more, not 0", field=f"{path}.filters")
    return tuple(_filter(f"{path}.filters[{place}]", own) for place, own in enumerate(message.filters))


def _condition(path: str, kind: str, message: filter_pb2.Filter) -> Filter:
    match kind:
        case "comparison":
            return _comparison(path, message.comparison)
        case "is_in":
            return _is_in(path, message.is_in)
        case "has_prefix":
            return HasPrefix(_field(path, message.has_prefix.field), message.has_prefix.prefix)
        case "is_null":
            return IsNull(_field(path, message.is_null.field))
    return Exists(_field(path, message.exists.field))


def _comparison(path: str, message: filter_pb2.Comparison) -> Comparison:
    operator = _OPERATORS.get(message.operator)
    if operator is None:
        raise InvalidArgument(
            f"expected one of {', '.join(map(filter_pb2.ComparisonOperator.Name, _OPERATORS))}, not {message.operator}",
            field=f"{path}.operator",
        )
    kind, value = _value(f"{path}.value", message.value)
    if kind is Kind.BOOLEAN and operator not in _FOR_BOOLEANS:
        name = filter_pb2.ComparisonOperator.Name(message.operator)
        raise InvalidArgument(f"expected EQUAL or NOT_EQUAL for a boolean, not {name}", field=f"{path}.operator")
    return Comparison(_field(path, message.field), operator, kind, value)


def _is_in(path: str, message: filter_pb2.IsIn) -> IsIn:
    check_range(f"{path}.values", len(message.values), 0, MAX_VALUES)
    values = [_value(f"{path}.values[{place}]", own) for place, own in enumerate(message.values)]
    return IsIn(
        _field(path, message.field),
        frozenset(value for _, value in values if isinstance(value, str)),
        frozenset(value for kind, value in values if kind is Kind.NUMBER and not isinstance(value, str)),
        frozenset(value for _, value in values if isinstance(value, bool)),
    )


def _field(path: str, message: filter_pb2.FilterField) -> Field:
    match message.WhichOneof("field"):
        case "metadata":
            check_range(f"{path}.field.metadata.keys", len(message.metadata.keys), 1, MAX_KEYS)
            return Field(tuple(message.metadata.keys))
        case "caption":
            return CAPTION
    raise InvalidArgument("expected metadata or caption, not neither", field=f"{path}.field")


def _value(path: str, message: filter_pb2.FilterValue) -> tuple[Kind, Scalar]:
    match message.WhichOneof("value"):
        case "string_value":
            return Kind.STRING, message.string_value
        case "integer_value":
            return Kind.NUMBER, message.integer_value
        case "bool_value":
            return Kind.BOOLEAN, message.bool_value
        case "double_value":
            if math.isnan(message.double_value):
                raise InvalidArgument("expected a number, not NaN", field=f"{path}.double_value")
            return Kind.NUMBER, message.double_value
    raise InvalidArgument("expected a value, not none", field=path)
