"""The cache of captions: what it keeps, and what is under way."""

import numpy as np
import pytest

from embedder_service.backends import Tower
from embedder_service.items import Item, Priority
from embedder_service.text_cache import TextCache

LARGE = 1_000_000


def vector(value: float) -> np.ndarray:
    return np.full(100, value, np.float32)


def embed(cache: TextCache, text: str, value: float | None, truncated: bool = False) -> Item:
    """Have a caption computed; without a value it fails."""
    item = Item(Tower.TEXT, Priority.INTERACTIVE, float("inf"), text, truncated=truncated)
    cache.begin(text, item)
    item.drop() if value is None else item.finish(vector(value), 0.0, 1.0, 1)
    return item


def test_what_was_computed_is_known() -> None:
    cache = TextCache(LARGE)
    embed(cache, "a dog", 1.0)
    embed(cache, "a long story", 2.0, truncated=True)
    dog, story = cache.get("a dog"), cache.get("a long story")
    assert dog is not None
    assert story is not None
    np.testing.assert_array_equal(dog.vector, vector(1.0))
    assert (dog.truncated, story.truncated) == (False, True)
    assert cache.get("a cat") is None


def test_the_captions_used_last_are_kept_within_the_bytes() -> None:
    cache = TextCache(3000)
    for text in "abc":
        embed(cache, text, 1.0)
    assert len(cache) == 3
    assert 3 * 400 < cache.held_bytes <= 3000
    cache.get("a")
    embed(cache, "d", 1.0)
    assert [text for text in "abcd" if cache.get(text)] == ["a", "c", "d"]
    assert cache.held_bytes <= 3000


def test_a_caption_larger_than_the_cache_is_not_kept() -> None:
    cache = TextCache(3000)
    embed(cache, "a", 1.0)
    embed(cache, "x" * 3000, 1.0)
    assert (len(cache), cache.get("a") is not None) == (1, True)


def test_nothing_is_kept_in_no_bytes() -> None:
    cache = TextCache(0)
    embed(cache, "a", 1.0)
    assert (len(cache), cache.held_bytes, cache.get("a")) == (0, 0, None)


def test_a_caption_computed_twice_is_counted_once() -> None:
    cache = TextCache(LARGE)
    embed(cache, "a", 1.0)
    held = cache.held_bytes
    embed(cache, "a", 2.0)
    assert (len(cache), cache.held_bytes) == (1, held)


@pytest.mark.parametrize("value", [1.0, None])
def test_a_caption_is_under_way_until_it_ends(value: float | None) -> None:
    cache = TextCache(LARGE)
    item = Item(Tower.TEXT, Priority.INTERACTIVE, float("inf"), "a")
    cache.begin("a", item)
    assert cache.under_way("a") is item
    assert cache.get("a") is None
    item.drop() if value is None else item.finish(vector(value), 0.0, 1.0, 1)
    assert cache.under_way("a") is None
    assert (cache.get("a") is None) is (value is None)


def test_an_entry_holds_no_more_than_its_own_vector() -> None:
    cache = TextCache(LARGE)
    batch = np.zeros((1000, 100), np.float32)
    item = Item(Tower.TEXT, Priority.INTERACTIVE, float("inf"), "a")
    cache.begin("a", item)
    item.finish(batch[7], 0.0, 1.0, 1)
    known = cache.get("a")
    assert known is not None
    assert known.vector.base is None
