"""What passes through the stages of the embedder: an item, and the calls that wait for it.

Owns who goes first, what a call has got so far, and when it has got everything. Knows nothing of how a vector is made.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from embedder_service.backends import Tower
from service_runtime.errors import DeadlineExceeded, InvalidArgument, ServiceError, Unavailable

_FAILS_THE_CALL = (DeadlineExceeded, Unavailable)
"""No fault of the item: the whole call may be repeated, or nobody waits for it any more."""


class Priority(StrEnum):
    """Who goes first where items wait."""

    INTERACTIVE = "interactive"
    """Somebody waits for it: passes bulk."""
    BULK = "bulk"
    """Keeps a share however many interactive items there are."""


@dataclass(slots=True, eq=False)
class Item:
    """One caption or image on its way to a vector. Several calls may wait for the same one."""

    tower: Tower
    priority: Priority
    deadline: float
    """When the last of those who wait stops waiting, on time.monotonic()'s scale."""
    source: str | bytes = b""
    """The normalised caption, or the encoded image until it is decoded."""
    row: np.ndarray | None = None
    """What the tower takes, without its first axis; None before it is made."""
    truncated: bool = False
    """Whether it is a caption that was cut."""
    prepared: tuple[float, float] | None = None
    """When decoding or tokenising it began and ended, on time.monotonic()'s scale."""
    queued: float = 0.0
    """When it came to the device's queue, on the same scale."""
    ended: bool = False
    """Whether those who wait have been told."""
    waiters: "list[tuple[Answer, int]]" = field(default_factory=list)
    """The calls that wait, and where in their answers it belongs. Changed by the event loop alone; where nobody waits,
    the next stage drops the item."""
    on_end: "Callable[[Item, np.ndarray | None], None] | None" = None
    """Called once, in the event loop, with the vector, or None when there is none."""

    def finish(self, vector: np.ndarray, began: float, ended: float, batch_size: int) -> None:
        """Hand the vector (dimension,) of the pass of ``batch_size`` items between ``began`` and ``ended`` to all that
        wait.
        """
        self._end(vector)
        for answer, position in self.waiters:
            answer.take(position, vector, self, (began, ended), batch_size)

    def fail(self, error: ServiceError) -> None:
        """Tell all that wait."""
        self._end(None)
        for answer, position in self.waiters:
            answer.fail(position, error, self)

    def drop(self) -> None:
        """End it: nobody waits."""
        self._end(None)

    def _end(self, vector: np.ndarray | None) -> None:
        self.ended = True
        if self.on_end is not None:
            self.on_end(self, vector)


class Answer:
    """What one call of ``count`` items has got so far. Lives on the event loop.

    ``field_name`` is the request's field that holds the items, as their faults name it.
    """

    def __init__(self, count: int, dimension: int, field_name: str) -> None:
        self.vectors = np.zeros((count, dimension), np.float32)
        """(count, dimension); the row of an item that failed is all zeros."""
        self.faults: dict[int, ServiceError] = {}
        """What was wrong, by position."""
        self.truncated: list[int] = []
        """Positions of captions that were cut."""
        self.decode_seconds = 0.0
        """From the first item's decoding or tokenising to the last one's end."""
        self.queue_seconds = 0.0
        """Longest wait for the device."""
        self.queue_ended = 0.0
        """When that wait ended, on time.monotonic()'s scale."""
        self.forward_seconds = 0.0
        """Longest pass that carried an item."""
        self.forward_ended = 0.0
        """When that pass ended, on the same scale."""
        self.batch_size = 0
        """Items of that pass, those of other calls among them."""
        self._field_name = field_name
        self._began = time.monotonic()
        self._prepared_from = float("inf")
        self._expected: dict[Item, None] = {}
        self._missing = 0
        self._error: ServiceError | None = None
        self._whole = asyncio.Event()

    def expect(self, item: Item, position: int) -> None:
        """The item's outcome belongs at ``position``."""
        item.waiters.append((self, position))
        self._expected[item] = None
        self._missing += 1

    async def whole(self) -> None:
        """Wait for all that is expected. Raises what fails the call as a whole."""
        if self._missing and self._error is None:
            await self._whole.wait()
        if self._error is not None:
            raise self._error

    def put(self, position: int, vector: np.ndarray, truncated: bool) -> None:
        """A vector (dimension,) that was there already."""
        self.vectors[position] = vector
        if truncated:
            self.truncated.append(position)

    def refuse(self, position: int, error: ServiceError) -> None:
        """An item that is not even expected."""
        if isinstance(error, InvalidArgument) and not error.field:
            error = InvalidArgument(error.message, field=f"{self._field_name}[{position}]")
        self.faults[position] = error

    @property
    def decode_ended(self) -> float:
        """When the last item was decoded or tokenised, on the same scale."""
        return self._prepared_from + self.decode_seconds

    def take(
        self, position: int, vector: np.ndarray, item: Item, computed: tuple[float, float], batch_size: int
    ) -> None:
        """The outcome of an expected item. Time that it spent before this call waited for it does not count."""
        self.put(position, vector, item.truncated)
        began, ended = computed
        queue_seconds = began - max(item.queued, self._began)
        if queue_seconds > self.queue_seconds:
            self.queue_seconds, self.queue_ended = queue_seconds, began
        forward_seconds = ended - max(began, self._began)
        if forward_seconds > self.forward_seconds:
            self.forward_seconds, self.forward_ended, self.batch_size = forward_seconds, ended, batch_size
        self._arrived(item)

    def fail(self, position: int, error: ServiceError, item: Item) -> None:
        """The outcome of an expected item that has no vector."""
        if isinstance(error, _FAILS_THE_CALL):
            self._error = error
            self._whole.set()
            return
        self.refuse(position, error)
        self._arrived(item)

    def leave(self) -> list[Item]:
        """Wait for nothing any more. Returns the items for which nobody waits now."""
        forsaken = []
        if self._missing:
            for item in self._expected:
                if not item.ended:
                    item.waiters = [waiter for waiter in item.waiters if waiter[0] is not self]
                    if not item.waiters:
                        forsaken.append(item)
        return forsaken

    def _arrived(self, item: Item) -> None:
        if item.prepared is not None:
            began, ended = item.prepared
            self._prepared_from = min(self._prepared_from, max(began, self._began))
            self.decode_seconds = max(self.decode_seconds, ended - self._prepared_from)
        self._missing -= 1
        if not self._missing:
            self._whole.set()
