"""A backend that waits to be let go on, and calls without a service around them."""

import asyncio
from queue import Queue
from threading import Semaphore, current_thread

import numpy as np

from embedder_service.backends import DeviceLost, OutOfMemory, Precision, Tower
from embedder_service.items import Answer, Item, Priority

FOREVER = float("inf")

BROKEN, TOO_LARGE, FATAL, NOT_A_NUMBER, TOO_LONG, LOSS = -1.0, -2.0, -3.0, -4.0, -5.0, -6.0
"""Rows that make a pass raise, or come back as what is no unit vector."""


class GatedBackend:
    """A row of x becomes (cos x, sin x); each pass announces its batch and waits for a permit."""

    device = "test"
    towers = tuple(Tower)
    precision = Precision.FP32

    def __init__(self, memory: int = 1000, *, serial: bool = False) -> None:
        self.serial = serial
        self.memory = memory
        """Largest batch that does not run out of memory."""
        self.passes: Queue[tuple[Tower, list[float]]] = Queue()
        self.permits = Semaphore(0)
        self.threads: list[str] = []
        """Who asked for each pass, by name."""

    def forward(self, tower: Tower, batch: np.ndarray) -> np.ndarray:
        rows = batch[:, 0]
        self.threads.append(current_thread().name)
        self.passes.put((tower, rows.tolist()))
        assert self.permits.acquire(timeout=20)
        if FATAL in rows:
            raise SystemExit("killed")
        if LOSS in rows:
            raise DeviceLost("an illegal memory access")
        if len(rows) > self.memory or TOO_LARGE in rows:
            raise OutOfMemory(f"no room for {len(rows)}")
        if BROKEN in rows:
            raise FloatingPointError("the device broke")
        vectors = np.stack([np.cos(rows), np.sin(rows)], axis=1).astype(np.float32)
        vectors[rows == NOT_A_NUMBER] = np.nan
        vectors[rows == TOO_LONG] *= 1.01
        return vectors

    async def next_pass(self) -> tuple[Tower, list[float]]:
        return await asyncio.to_thread(self.passes.get, True, 20)

    async def rows_of(self, count: int) -> list[list[float]]:
        """The batches of the next passes."""
        return [(await self.next_pass())[1] for _ in range(count)]


class Call:
    """A call for some rows."""

    def __init__(
        self,
        *values: float,
        tower: Tower = Tower.TEXT,
        priority: Priority = Priority.INTERACTIVE,
        deadline: float = FOREVER,
    ) -> None:
        self.answer = Answer(len(values), 2, "texts")
        self.items = [Item(tower, priority, deadline, row=np.array([value, 0.0])) for value in values]
        for position, item in enumerate(self.items):
            self.answer.expect(item, position)

    async def angles(self) -> list[float | None]:
        """What came back, as the values that were given; None for an item that failed."""
        await asyncio.wait_for(self.answer.whole(), 20)
        angles = np.arctan2(self.answer.vectors[:, 1], self.answer.vectors[:, 0]) % (2 * np.pi)
        return [None if i in self.answer.faults else round(float(angle), 4) for i, angle in enumerate(angles)]
