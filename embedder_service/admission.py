"""How much of a tower's work may be inside at once, and who is refused or waits.

Owns the room: items and bytes, half of it for unary interactive calls, half for streams and bulk. Also the refusal of
what could not be answered in time. Lives on the event loop; knows nothing of what is done with the items.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

from embedder_service.backends import Tower
from embedder_service.forecast import Expectation
from embedder_service.items import Priority
from embedder_service.metrics import EmbedderMetrics
from service_runtime.errors import ResourceExhausted


class Half(Enum):
    """Which half of the room."""

    PROMPT = "unary interactive calls"
    PATIENT = "streams and bulk"


class Room:
    """Room that a call has. ``with room:`` gives it back at the end; giving back twice is harmless."""

    def __init__(self, admission: "Admission", half: Half, items: int, held_bytes: int) -> None:
        self._admission: Admission | None = admission
        self._half = half
        self._items = items
        self._bytes = held_bytes

    def release(self, _: object = None) -> None:
        """Give it back."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.give_back(self._half, self._items, self._bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


@dataclass(slots=True)
class _Held:
    items: int = 0
    bytes: int = 0


class Admission:
    """Bounds what is inside one tower between arrival and answer, to ``item_limit`` and ``byte_limit``.

    Each half has half of both. A call that is alone in its half is let in whatever its size, which other limits bound.
    """

    def __init__(self, tower: Tower, item_limit: int, byte_limit: int, metrics: EmbedderMetrics) -> None:
        self._tower = tower
        self._item_limit = item_limit // 2
        self._byte_limit = byte_limit // 2
        self._metrics = metrics
        self._held = {half: _Held() for half in Half}
        self._queue: deque[tuple[asyncio.Future[Room], int, int]] = deque()
        metrics.admitted_items.labels(tower).set_function(lambda: sum(held.items for held in self._held.values()))
        metrics.admitted_bytes.labels(tower).set_function(lambda: sum(held.bytes for held in self._held.values()))

    def admit(
        self, priority: Priority, items: int, held_bytes: int, remaining_seconds: float, expected: Expectation
    ) -> Room:
        """Let a unary call in, whose caller waits for ``remaining_seconds``.

        Raises ResourceExhausted, which says when to come again, when there is no room or it would not be answered in
        time.
        """
        half = Half.PROMPT if priority is Priority.INTERACTIVE else Half.PATIENT
        if not self._fits(half, items, held_bytes):
            raise self._refused_for_room(half, items, held_bytes, expected)
        if expected.is_late(remaining_seconds):
            self._metrics.rejected(self._tower, "deadline", items)
            raise ResourceExhausted(
                f"an answer of the {self._tower} tower is expected in {expected.seconds:.3g} s; the caller waits for "
                f"{remaining_seconds:.3g} s",
                retry_after_seconds=expected.retry_seconds(remaining_seconds),
            )
        return self._take(half, items, held_bytes)

    def _refused_for_room(self, half: Half, items: int, held_bytes: int, expected: Expectation) -> ResourceExhausted:
        held = self._held[half]
        too_many = held.items + items > self._item_limit
        has, more, limit, unit = (
            (held.items, items, self._item_limit, "items")
            if too_many
            else (held.bytes, held_bytes, self._byte_limit, "bytes")
        )
        self._metrics.rejected(self._tower, "items" if too_many else "bytes", items)
        return ResourceExhausted(
            f"{has} {unit} of {half.value} are inside the {self._tower} tower; {more} more would pass its limit of "
            f"{limit}",
            retry_after_seconds=expected.retry_seconds(float("inf")),
        )

    async def wait(self, items: int, held_bytes: int) -> Room:
        """Room for a batch of a stream, as soon as there is some; first come, first served."""
        if self._fits(Half.PATIENT, items, held_bytes):
            return self._take(Half.PATIENT, items, held_bytes)
        turn: asyncio.Future[Room] = asyncio.get_running_loop().create_future()
        self._queue.append((turn, items, held_bytes))
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                turn.result().release()
            self._let_in()  # whoever stood behind may fit
            raise

    def give_back(self, half: Half, items: int, held_bytes: int) -> None:
        """Take note that a call has left; Room does it."""
        held = self._held[half]
        held.items -= items
        held.bytes -= held_bytes
        self._let_in()

    def _let_in(self) -> None:
        """Give room to those at the head of the queue."""
        while self._queue:
            turn, waiting_items, waiting_bytes = self._queue[0]
            if not turn.done():
                if not self._has_room(Half.PATIENT, waiting_items, waiting_bytes):
                    break
                turn.set_result(self._take(Half.PATIENT, waiting_items, waiting_bytes))
            self._queue.popleft()

    def _fits(self, half: Half, items: int, held_bytes: int) -> bool:
        """Whether there is room that nobody else waits for."""
        return self._has_room(half, items, held_bytes) and (half is Half.PROMPT or not self._queue)

    def _has_room(self, half: Half, items: int, held_bytes: int) -> bool:
        held = self._held[half]
        return not held.items or (
            held.items + items <= self._item_limit and held.bytes + held_bytes <= self._byte_limit
        )

    def _take(self, half: Half, items: int, held_bytes: int) -> Room:
        held = self._held[half]
        held.items += items
        held.bytes += held_bytes
        return Room(self, half, items, held_bytes)
