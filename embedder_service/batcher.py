"""From items that arrive one by one to forward passes that carry many.

Owns a queue per tower and the device thread, which takes all that waits in a queue, up to the batch limit, as soon as
the device is free: no timer, so a lone item never waits for company. Knows nothing of pictures, words or gRPC.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Condition, Thread
from typing import ClassVar

import grpc
import numpy as np

from embedder_service.backends import Backend, Tower
from embedder_service.metrics import EmbedderMetrics
from service_runtime.errors import ServiceError, Unavailable

_logger = logging.getLogger("eyebright.embedder.batcher")


class DeadlineExpired(ServiceError):
    """The caller's deadline passed before the item's turn came."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.DEADLINE_EXCEEDED


@dataclass(frozen=True, slots=True)
class Forwarded:
    """An item's vector, and how it came about."""

    vector: np.ndarray
    """(dimension,) float32 of Euclidean length 1."""
    queue_seconds: float
    forward_seconds: float
    """Of the whole pass that carried it."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    row: np.ndarray
    future: asyncio.Future[Forwarded]
    since: float
    deadline: float


class Batcher:
    """Runs a backend in a thread of its own for callers on one event loop."""

    def __init__(self, backend: Backend, batch_limit: int, metrics: EmbedderMetrics) -> None:
        self._backend = backend
        self._batch_limit = batch_limit
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._queues: dict[Tower, deque[_Waiting]] = {tower: deque() for tower in Tower}
        self._changed = Condition()
        self._stopping = False
        self._thread = Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(self, tower: Tower, rows: Sequence[np.ndarray], deadline: float) -> list[asyncio.Future[Forwarded]]:
        """Queue rows (of the shape Backend.forward takes, without its first axis); one future each, in order.

        ``deadline`` is on time.monotonic()'s scale. A future fails with DeadlineExpired when it passes first, with a
        ServiceError when the pass failed, with Unavailable when the service stops. A cancelled future frees its place.
        """
        now = time.monotonic()
        waiting = [_Waiting(row, self._loop.create_future(), now, deadline) for row in rows]
        with self._changed:
            self._queues[tower].extend(waiting)
            self._metrics.queue_depth.labels(tower).set(len(self._queues[tower]))
            self._changed.notify()
        return [item.future for item in waiting]

    async def stop(self) -> None:
        """End the device thread after the pass it is in; what still waits fails with Unavailable."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)
        for queue in self._queues.values():
            _fail(list(queue), Unavailable("the service is stopping"))

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            self._forward(*taken)

    def _take(self) -> tuple[Tower, list[_Waiting]] | None:
        """The next batch: from the tower whose first item has waited longest. None once stopped."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._stopping or any(self._queues.values()))
                if self._stopping:
                    return None
                tower = min((tower for tower in Tower if self._queues[tower]), key=lambda t: self._queues[t][0].since)
                if batch := self._drain(tower):
                    return tower, batch

    def _drain(self, tower: Tower) -> list[_Waiting]:
        """Up to the batch limit of items that somebody still waits for."""
        queue, now = self._queues[tower], time.monotonic()
        batch: list[_Waiting] = []
        while queue and len(batch) < self._batch_limit:
            item = queue.popleft()
            if item.future.cancelled():
                self._metrics.rejected_items.labels(tower, "cancelled").inc()
            elif item.deadline <= now:
                self._metrics.rejected_items.labels(tower, "expired").inc()
                late = DeadlineExpired(f"the deadline passed after {now - item.since:.3f} s in the queue")
                self._loop.call_soon_threadsafe(_fail, [item], late)
            else:
                batch.append(item)
        self._metrics.queue_depth.labels(tower).set(len(queue))
        return batch

    def _forward(self, tower: Tower, batch: list[_Waiting]) -> None:
        began = time.monotonic()
        try:
            vectors = self._backend.forward(tower, np.stack([item.row for item in batch]))
        except Exception:
            _logger.exception("a forward pass failed", extra={"tower": tower, "batch_size": len(batch)})
            self._metrics.rejected_items.labels(tower, "failed").inc(len(batch))
            self._loop.call_soon_threadsafe(_fail, batch, ServiceError("internal error: the forward pass failed"))
            return
        seconds = time.monotonic() - began
        self._metrics.stage_latency_seconds.labels("forward", tower).observe(seconds)
        self._metrics.batch_size.labels(tower).observe(len(batch))
        self._metrics.items.labels(tower).inc(len(batch))
        queue_latency = self._metrics.stage_latency_seconds.labels("queue", tower)
        for item in batch:
            queue_latency.observe(began - item.since)
        self._loop.call_soon_threadsafe(_deliver, batch, vectors, began, seconds)


def _deliver(batch: list[_Waiting], vectors: np.ndarray, began: float, seconds: float) -> None:
    for item, vector in zip(batch, vectors, strict=True):
        if not item.future.done():
            item.future.set_result(Forwarded(vector, began - item.since, seconds))


def _fail(batch: list[_Waiting], error: ServiceError) -> None:
    for item in batch:
        if not item.future.done():
            item.future.set_exception(error)
