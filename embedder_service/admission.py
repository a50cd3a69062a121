"""How many items of a tower may be inside at once.

Owns the count, and who is refused or waits. Lives on the event loop; knows nothing of what is done with the items.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from embedder_service.backends import Tower
from embedder_service.metrics import EmbedderMetrics
from service_runtime.errors import ResourceExhausted


class Admission:
    """Bounds the items of one tower between arrival and answer."""

    def __init__(self, tower: Tower, limit: int, metrics: EmbedderMetrics) -> None:
        self._tower = tower
        self._limit = limit
        self._inside = 0
        self._left = asyncio.Event()
        self._admitted = metrics.admitted_items.labels(tower)
        self._refused = metrics.rejected_items.labels(tower, "overload")

    @contextmanager
    def admit(self, count: int) -> Iterator[None]:
        """Take ``count`` items in for the length of the block. Raises ResourceExhausted when they pass the limit."""
        if self._inside + count > self._limit:
            self._refused.inc(count)
            raise ResourceExhausted(
                f"{self._inside} items are inside the {self._tower} tower; {count} more would pass its limit of "
                f"{self._limit}"
            )
        self._change(count)
        try:
            yield
        finally:
            self._change(-count)
            self._left.set()

    async def wait_for_room(self, count: int) -> None:
        """Wait until ``count`` items fit into half of the limit; the other half is for calls that can't wait."""
        while self._inside and self._inside + count > self._limit // 2:
            self._left.clear()
            await self._left.wait()

    def _change(self, count: int) -> None:
        self._inside += count
        self._admitted.set(self._inside)
