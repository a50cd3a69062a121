"""How large a shard is, and in what state.

Owns the words for it. A leaf: whoever tells of shards needs to know no more of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SegmentStats:
    """The state of a segment."""

    recipe: str
    """How it is searched, as Evidence.recipe."""
    rows: int
    """Vectors in it, dead ones included."""


@dataclass(frozen=True, slots=True)
class ShardStats:
    """The state of a shard."""

    record_count: int
    tombstone_count: int
    """Deleted or replaced vectors that are still held."""
    applied_sequence: int
    """Write batches applied since it was made."""
    memtable_rows: int
    """Vectors in memory, tombstones included."""
    vector_bytes: int
    """Bytes of them."""
    segments: Sequence[SegmentStats]
    store_bytes: int
    """Bytes of the SQLite file."""
    log_bytes: int
    """Bytes of its write-ahead log."""
    segment_bytes: int
    """Bytes of the files of all segments."""
    column_bytes: int
    """Bytes of the columns that filters use."""
    read_only: bool
    """Whether the last write failed because of the disk."""

    @property
    def segment_count(self) -> int:
        """Segments that its searches read."""
        return len(self.segments)

    @property
    def disk_bytes(self) -> int:
        """Bytes of all its files that count."""
        return self.store_bytes + self.log_bytes + self.segment_bytes + self.column_bytes
