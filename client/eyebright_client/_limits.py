"""Sizes of what goes over the wire.

Owns the numbers that the services' contracts state and the shares of them that this client takes.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message sent or taken; the services' default."""

REQUEST_BYTES = 32 * 1024 * 1024
"""Where a request with many items is closed and the next one begun. Half of a message: what surrounds the items, and
the answer, must fit too."""

RECORD_BYTES = 128 * 1024
"""A record larger than this without its vector breaks at least one limit of record.proto, which add up to 101 KiB, and
is refused before it is sent."""

IDS_PER_READ = 1_000
"""Most ids in one GetRecords when only presence is asked."""

RECORDS_PER_READ = 500
"""Records in one answer: 500 of the largest are 54 MiB."""

ITEMS_PER_WRITE = 10_000
"""Most items in one Upsert, UpdateRecords, or Delete."""

QUERIES_PER_SEARCH = 1_000
"""Most queries in one Search."""

HITS_PER_SEARCH = 100_000
"""Most hits in one answer of ``search_many``: with ids of the longest kind they are 52 MB."""

HITS_WITH_RECORDS_PER_SEARCH = 10_000
"""The same when hits carry captions and metadata."""

MAX_K_WITH_INCLUDE = 1_000
"""Largest k for which hits may carry more than id and score."""


def batched(
    items: Iterable[Item], size_bytes: Callable[[Item], int], *, max_items: int, max_bytes: int
) -> Iterator[list[Item]]:
    """Batches of at most ``max_items`` items and ``max_bytes``, in order; an item past ``max_bytes`` stands alone.

    Reads at most one item ahead.
    """
    batch: list[Item] = []
    total = 0
    for item in items:
        size = size_bytes(item)
        if batch and (len(batch) == max_items or total + size > max_bytes):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch
