"""What a search goes through: blocks of memtables and segments, as they stood at one moment.

Owns addresses, which say in which part a hit lies and where. Knows no query and no file.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from index_service.memtable import BlockView, View
from index_service.segment import SegmentView

Part = BlockView | SegmentView

_PART_BITS = 32
_FEW = 64
"""Addresses up to which each is looked up by itself, which is quicker than sorting them by their parts."""


class Parts:
    """Parts that are searched together; immutable."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.rows = sum(part.rows for part in self.parts)
        """Vectors in all parts, dead ones included."""
        self.live_count = sum(part.live_count for part in self.parts)
        """Vectors that can be found."""

    def vectors_at(self, addresses: np.ndarray) -> np.ndarray:
        """The vectors (n, dimension) float32 at addresses (n,), as hits carry them; n is at least 1."""
        found = list(self._gathered(addresses, [part.vectors_of for part in self.parts]))
        return np.concatenate([vectors for _, vectors in found])[np.argsort(np.concatenate([own for own, _ in found]))]

    def ids_at(self, addresses: np.ndarray) -> np.ndarray:
        """The ids (n,) str objects at addresses (n,)."""
        ids = np.empty(len(addresses), dtype=object)
        if len(addresses) <= _FEW:
            ids[:] = [self.parts[own >> _PART_BITS].id_of(own & ((1 << _PART_BITS) - 1)) for own in addresses.tolist()]
            return ids
        for own, found in self._gathered(addresses, [part.ids_of for part in self.parts]):
            ids[own] = found
        return ids

    @staticmethod
    def _gathered(
        addresses: np.ndarray, readers: Sequence[Callable[[np.ndarray], np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What each part's reader makes of its rows, with their places among the addresses."""
        part_of, rows = addresses >> _PART_BITS, addresses & ((1 << _PART_BITS) - 1)
        for part in np.unique(part_of).tolist():
            own = np.flatnonzero(part_of == part)
            yield own, readers[part](rows[own])


class ShardView(Parts):
    """All that a search needs of one shard; immutable."""

    def __init__(self, memtable: View, segments: tuple[SegmentView, ...]) -> None:
        super().__init__((*memtable.blocks, *segments))
        self.memtable = memtable
        self.segments = segments


def address(part: int, rows: np.ndarray) -> np.ndarray:
    """The addresses (n,) int64 of rows of the part with this place among all."""
    return rows + (part << _PART_BITS)
