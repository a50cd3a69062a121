"""What one search sees of a shard, and the rows of it that a filter lets through.

Owns that both are of one moment: a record is either what it was in the view or it is not there.
"""

from dataclasses import dataclass

import numpy as np

from index_service.filters import Filter, fields_of
from index_service.parts import ShardView
from index_service.segment_columns import SegmentMask, ShardColumns


@dataclass(frozen=True, slots=True)
class FilteredView:
    """A view and a filter, with all that is needed to tell quickly what it lets through."""

    view: ShardView
    where: Filter
    segments: tuple[SegmentMask, ...]

    @property
    def outdated(self) -> bool:
        """Whether the view shows records that were gone before anybody looked what was in them."""
        return any(
            found.gone.size and (segment.dead is None or not segment.dead[found.gone].all())
            for segment, found in zip(self.view.segments, self.segments, strict=True)
        )

    def masks(self) -> list[np.ndarray]:
        """For each part of the view the rows (rows,) bool that are let through, dead ones included."""
        blocks = [block.columns.mask(self.where, block.captions, block.metadata) for block in self.view.memtable.blocks]
        return blocks + [segment.mask for segment in self.segments]

    def numbers(self) -> np.ndarray:
        """The numbers (n,) int64 of the live rows that are let through."""
        kept = [
            mask if part.dead is None else mask & ~part.dead
            for part, mask in zip(self.view.parts, self.masks(), strict=True)
        ]
        numbers = [part.numbers[mask] for part, mask in zip(self.view.parts, kept, strict=True)]
        return np.concatenate([np.empty(0, np.int64), *numbers])


def filter_view(view: ShardView, columns: ShardColumns, where: Filter, deadline: float | None) -> FilteredView:
    """Prepare a view for a filter; takes seconds where columns must be built. Raises as ``ShardColumns.mask`` does."""
    fields = fields_of(where)
    for block in view.memtable.blocks:
        block.columns.grown(fields, block.captions, block.metadata)
    return FilteredView(view, where, tuple(columns.mask(part.segment, where, deadline) for part in view.segments))
