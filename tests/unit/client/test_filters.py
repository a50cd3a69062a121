"""The builder: what it makes, and what it says to those who mistake it for Python's own logic."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from eyebright.index.v1 import filter_pb2
from eyebright_client import F, Filter, InvalidArgument
from eyebright_client._messages import filter_message
from google.protobuf import text_format

A, B = F("a") == 1, F("b") == 2


def text(where: Filter) -> str:
    return text_format.MessageToString(filter_message(where), as_one_line=True)


GROUP = 'field { metadata { keys: "group" } }'


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (F("group") == "food", f'comparison {{ {GROUP} operator: EQUAL value {{ string_value: "food" }} }}'),
        (F("group") != 3, f"comparison {{ {GROUP} operator: NOT_EQUAL value {{ integer_value: 3 }} }}"),
        (F("group") < 3.0, f"comparison {{ {GROUP} operator: LESS value {{ double_value: 3 }} }}"),
        (F("group") <= np.int16(3), f"comparison {{ {GROUP} operator: LESS_OR_EQUAL value {{ integer_value: 3 }} }}"),
        (F("group") > np.float32(0.5), f"comparison {{ {GROUP} operator: GREATER value {{ double_value: 0.5 }} }}"),
        (F("group") >= 3, f"comparison {{ {GROUP} operator: GREATER_OR_EQUAL value {{ integer_value: 3 }} }}"),
        (F("group") == True, f"comparison {{ {GROUP} operator: EQUAL value {{ bool_value: true }} }}"),  # noqa: E712
        (
            F("group").isin(["a", 1, False]),
            f'is_in {{ {GROUP} values {{ string_value: "a" }} values {{ integer_value: 1 }} '
            "values { bool_value: false } }",
        ),
        (F("group").exists(), f"exists {{ {GROUP} }}"),
        (F("group").is_null(), f"is_null {{ {GROUP} }}"),
        (F("a", "b.c").startswith("x"), 'has_prefix { field { metadata { keys: "a" keys: "b.c" } } prefix: "x" }'),
        (F.caption.startswith(""), "has_prefix { field { caption { } } }"),
    ],
)
def test_conditions(where: Filter, expected: str) -> None:
    parsed = text_format.Parse(expected.replace("operator: ", "operator: COMPARISON_OPERATOR_"), filter_pb2.Filter())
    assert filter_message(where) == parsed


def test_a_chain_is_one_join_and_twice_negated_is_itself() -> None:
    chain = A
    for number in range(100):
        chain = chain & (F("n") == number)
    assert len(filter_message(chain).all_of.filters) == 101
    assert len(filter_message(A | B | (A | B)).any_of.filters) == 4
    assert text(~~A) == text(A)
    mixed = filter_message(~(A & (B | A)))
    assert [part.WhichOneof("condition") for part in mixed.negation.all_of.filters] == ["comparison", "any_of"]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: A and B, "join filters by & instead of `and`"),
        (lambda: not A, "~ instead of `not`"),
        (lambda: 1 < F("a") < 3, r"\(a < F\(...\)\) & \(F\(...\) < b\)"),
        (lambda: F("a") and F("b"), r"F\('a'\) is a field"),
        (lambda: "x" if F("a") else "y", r"compare it, or ask F\('a'\).exists\(\)"),
        (lambda: F("a") == 1 & F("b") == 2, "put each comparison in parentheses"),
        (lambda: F("a") & F("b"), "put each comparison in parentheses"),
        (lambda: A & F("b"), "put each comparison beside & in parentheses"),
        (
            lambda: A | 3,  # type: ignore[operator]
            r"on the right of \|, not 3",
        ),
        (lambda: ~F("a"), r"can't be negated: ~F\('a'\).exists\(\)"),
        (lambda: {F("a")}, "unhashable"),
    ],
)
def test_mistakes_are_type_errors_that_say_what_to_write(mistake: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        mistake()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: F("a") == None, r"not None; a value is null where .is_null\(\)"),  # noqa: E711
        (lambda: F("a") == [1], r"not \[1\]"),
        (lambda: F("a") == 2**63, r"2\*\*63 - 1, not 9223372036854775808"),
        (lambda: F("a") == float("nan"), "not NaN"),
        (lambda: F("a") < True, "to order by, not True"),
        (lambda: F("a").isin("abc"), "not one string"),
        (lambda: F("a").startswith(3), "not 3"),  # type: ignore[arg-type]
        (lambda: F(), r"not \(\)"),
        (lambda: F("a", 3), r"not \('a', 3\)"),  # type: ignore[arg-type]
    ],
)
def test_values_that_no_filter_can_hold(mistake: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        mistake()
