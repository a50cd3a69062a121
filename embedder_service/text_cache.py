"""Vectors of captions embedded before, and the captions under way.

Owns which caption is answered without the model, and that equal captions are computed once. One cache serves one vector
space: it lives and dies with the embedder whose vectors it holds. Lives on the event loop.
"""

import sys
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from embedder_service.items import Item

_ENTRY_BYTES = 400
"""What an entry takes beside its caption and its numbers: the array's header, the entry, its place in the order."""


@dataclass(frozen=True, slots=True)
class CachedCaption:
    """What is known of a caption."""

    vector: np.ndarray
    """(dimension,) float32 of length 1; not to be written to."""
    truncated: bool


class TextCache:
    """The captions used last, by normalised text, in at most ``limit_bytes``; 0 keeps none."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[str, CachedCaption] = OrderedDict()
        self._under_way: dict[str, Item] = {}
        self.held_bytes = 0
        """What the entries take, about."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, text: str) -> CachedCaption | None:
        """What is known of a caption, which is thereby the one used last."""
        entry = self._entries.get(text)
        if entry is not None:
            self._entries.move_to_end(text)
        return entry

    def under_way(self, text: str) -> Item | None:
        """The item that will have the vector of this caption."""
        return self._under_way.get(text)

    def begin(self, text: str, item: Item) -> None:
        """The item will have the vector of this caption: others may wait for it until it ends."""
        self._under_way[text] = item
        item.on_end = self._end

    def _end(self, item: Item, vector: np.ndarray | None) -> None:
        text = str(item.source)
        if self._under_way.get(text) is item:
            del self._under_way[text]
        if vector is not None:
            self._keep(text, CachedCaption(vector.copy(), item.truncated))  # a row would keep its whole batch alive

    def _keep(self, text: str, entry: CachedCaption) -> None:
        size = _size_bytes(text, entry)
        if size > self._limit_bytes:
            return
        if (previous := self._entries.pop(text, None)) is not None:
            self.held_bytes -= _size_bytes(text, previous)
        self._entries[text] = entry
        self.held_bytes += size
        while self.held_bytes > self._limit_bytes:
            oldest, dropped = self._entries.popitem(last=False)
            self.held_bytes -= _size_bytes(oldest, dropped)


def _size_bytes(text: str, entry: CachedCaption) -> int:
    return sys.getsizeof(text) + entry.vector.nbytes + _ENTRY_BYTES
