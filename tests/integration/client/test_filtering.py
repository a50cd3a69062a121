"""Filters through the SDK, from the builder to the hits."""

from typing import Any

import numpy as np
import pytest
from eyebright_client import Client, F, Filter, InvalidArgument, NotFound

VECTORS = np.eye(6, dtype=np.float32) + 1
METADATA: list[dict[str, Any] | None] = [
    {"group": "food", "n": 2**53 + 1, "tags": ["red", "hot"]},
    {"group": "food", "n": 2.5, "camera": {"iso": 800}},
    {"group": "toys", "n": True},
    {"group": None},
    {},
    None,
]
IDS = ["a", "b", "c", "d", "e", "f"]


@pytest.fixture
def filled(client: Client) -> Client:
    client.create_collection(dimension=6, fingerprint="ab" * 32)
    client.upsert(IDS, VECTORS, metadata=METADATA, captions=["a dog", "a cat", "no", None, None, "a door"])
    return client


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (F("group") == "food", "ab"),
        (~(F("group") == "food"), "cdef"),
        (F("n") > 2**53, "a"),
        (F("n") == 2**53, ""),
        (F("n") == 1, ""),
        (F("n") == True, "c"),  # noqa: E712
        (F("camera", "iso") >= 800, "b"),
        (F("tags").isin(["hot", "cold"]), "a"),
        (F("group").exists() & ~F("group").is_null(), "abc"),
        (F.caption.startswith("a d") | (F("group") == "toys"), "acf"),
        (F("group").isin([]), ""),
    ],
)
def test_only_what_matches_is_found(filled: Client, where: Filter, expected: str) -> None:
    assert sorted(filled.search(vector=VECTORS[0], filter=where).ids) == list(expected)
    [one, other] = filled.search_many(likes=["a", "b"], filter=where)
    assert sorted(one.ids) == [own for own in expected if own != "a"]
    assert sorted(other.ids) == [own for own in expected if own != "b"]


def test_delete_by_filter(filled: Client) -> None:
    assert filled.delete(filter=F("group") == "food") == 2
    assert filled.delete(filter=F("group") == "food") == 0
    assert [record.id for record in filled.list()] == ["c", "d", "e", "f"]
    nothing_and_both: list[dict[str, Any]] = [{}, {"ids": "c", "filter": F("group").exists()}]
    for given in nothing_and_both:
        with pytest.raises(InvalidArgument, match="expected either ids or a filter"):
            filled.delete(**given)
    with pytest.raises(InvalidArgument, match="compare the field with something"):
        filled.delete(filter=F("group"))  # type: ignore[arg-type]
    assert filled.count() == 4


def test_list_by_filter(filled: Client) -> None:
    assert [record.id for record in filled.list(filter=~F("group").is_null(), page_size=2)] == ["a", "b", "c", "e", "f"]
    assert [record.id for record in filled.list(filter=F("group") == "none such")] == []


def test_faults(filled: Client) -> None:
    with pytest.raises(InvalidArgument, match="at most 16 levels, not 17 or more") as caught:
        filled.search(vector=VECTORS[0], filter=_deep(17))
    assert caught.value.field == "filter"
    with pytest.raises(NotFound):
        filled.delete(filter=F("a").exists(), collection="none-such")


def _deep(levels: int) -> Filter:
    where = F("a").exists()
    for level in range(levels - 1):
        where = (F("a") == 1) & where if level % 2 else (F("a") == 1) | where
    return where
