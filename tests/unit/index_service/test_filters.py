"""What a filter means, case by case, and against a second opinion."""

import json
from typing import Any

import pytest
from hypothesis import given

from index_service.filters import (
    CAPTION,
    Comparison,
    Document,
    Exists,
    Field,
    Filter,
    HasPrefix,
    IsIn,
    IsNull,
    Kind,
    Not,
    Operator,
    fields_of,
    matches,
)
from tests.unit.index_service.filter_cases import documents, filters, oracle, stored

GROUP = Field(("group",))
EQUAL, NOT_EQUAL, LESS = Operator.EQUAL, Operator.NOT_EQUAL, Operator.LESS


def compare(keys: str, operator: Operator, value: Any) -> Comparison:
    kind = Kind.BOOLEAN if isinstance(value, bool) else Kind.STRING if isinstance(value, str) else Kind.NUMBER
    return Comparison(Field(tuple(keys.split("/"))), operator, kind, value)


@pytest.mark.parametrize(
    ("where", "metadata", "expected"),
    [
        (compare("n", EQUAL, 1), '{"n": 1.0}', True),
        (compare("n", EQUAL, 1), '{"n": true}', False),
        (compare("n", EQUAL, True), '{"n": 1}', False),
        (compare("n", EQUAL, "1"), '{"n": 1}', False),
        (compare("n", EQUAL, 2**53), '{"n": 9007199254740993}', False),
        (compare("n", EQUAL, float(2**53)), '{"n": 9007199254740993}', False),
        (compare("n", LESS, 2**63 - 1), '{"n": 9223372036854775808}', False),
        (compare("n", Operator.GREATER, 1e300), '{"n": 1' + "0" * 301 + "}", True),
        (compare("n", LESS, "b"), '{"n": "a"}', True),
        (compare("n", LESS, "\uffff"), '{"n": "\U0001f41e"}', False),
        (compare("n", NOT_EQUAL, 1), '{"n": "1"}', True),
        (compare("n", NOT_EQUAL, 1), '{"n": null}', False),
        (compare("n", NOT_EQUAL, 1), '{"n": {}}', False),
        (compare("n", NOT_EQUAL, 1), "{}", False),
        (Not(compare("n", EQUAL, 1)), "{}", True),
        (Not(compare("n", LESS, 1)), "{}", True),
        (compare("n", EQUAL, "a"), '{"n": ["b", "a"]}', True),
        (compare("n", NOT_EQUAL, "a"), '{"n": ["a", "b"]}', True),
        (Not(compare("n", EQUAL, "a")), '{"n": ["a", "b"]}', False),
        (compare("n", EQUAL, "a"), '{"n": [["a"]]}', True),
        (compare("n/m", EQUAL, 3), '{"n": {"m": 3}}', True),
        (compare("n/m", EQUAL, 3), '{"n": [{"m": 1}, {"m": [2, 3]}]}', True),
        (compare("n/m", EQUAL, 3), '{"n.m": 3, "n": 3}', False),
        (compare("n.m", EQUAL, 3), '{"n.m": 3}', True),
        (Exists(Field(("n",))), '{"n": null}', True),
        (Exists(Field(("n",))), '{"n": []}', True),
        (Exists(Field(("n",))), '{"n": {}}', True),
        (Exists(Field(("n", "m"))), '{"n": []}', False),
        (Exists(Field(("n",))), "{}", False),
        (IsNull(Field(("n",))), '{"n": null}', True),
        (IsNull(Field(("n",))), '{"n": [1, null]}', True),
        (IsNull(Field(("n",))), "{}", False),
        (HasPrefix(Field(("n",)), "ab"), '{"n": "abc"}', True),
        (HasPrefix(Field(("n",)), "AB"), '{"n": "abc"}', False),
        (HasPrefix(Field(("n",)), "1"), '{"n": 12}', False),
        (IsIn(Field(("n",)), frozenset("ab"), frozenset(), frozenset()), '{"n": "b"}', True),
        (IsIn(Field(("n",)), frozenset(), frozenset([1]), frozenset()), '{"n": true}', False),
        (IsIn(Field(("n",)), frozenset(), frozenset(), frozenset()), '{"n": true}', False),
    ],
)
def test_meaning(where: Filter, metadata: str, expected: bool) -> None:
    assert matches(where, Document.parsed(None, metadata.encode())) is expected
    assert oracle(where, None, json.loads(metadata)) is expected


def test_a_caption_is_a_string_or_missing() -> None:
    assert matches(HasPrefix(CAPTION, "a d"), Document("a dog"))
    assert not matches(Exists(CAPTION), Document.parsed(None, b'{"caption": "a dog"}'))


def test_metadata_that_cannot_be_read_counts_as_none() -> None:
    assert Document.parsed("words", b"{") == Document("words")


def test_equal_filters_mean_the_same() -> None:
    """They are keys of a cache, and Python takes True for 1."""
    assert compare("n", EQUAL, 1) == compare("n", EQUAL, 1.0)
    assert compare("n", EQUAL, 1) != compare("n", EQUAL, True)
    assert IsIn(GROUP, frozenset(), frozenset([1]), frozenset()) != IsIn(
        GROUP, frozenset(), frozenset(), frozenset([True])
    )


def test_the_fields_of_a_filter() -> None:
    assert fields_of(Not(compare("group", EQUAL, 1))) == {GROUP}


@given(filters, documents)
def test_any_filter_and_document(where: Filter, document: tuple[str | None, Any]) -> None:
    assert matches(where, Document.parsed(*stored(document))) == oracle(where, *document)
