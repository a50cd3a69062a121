"""From items that arrive one by one to forward passes that carry many.

Owns the device threads, each of which takes what the schedule hands out as soon as it is free: no timer, so a lone item
never waits for company. Also what becomes of a batch that fails, and of vectors that are none. Knows nothing of
pictures, words or gRPC.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from threading import Condition, Lock, Thread

import numpy as np

from embedder_service.backends import Backend, DeviceLost, OutOfMemory, Tower
from embedder_service.items import Item, Priority
from embedder_service.metrics import EmbedderMetrics, Stage
from embedder_service.schedule import Schedule, Turn
from embedder_service.tower_cost import TowerCost
from service_runtime.errors import DeadlineExceeded, ServiceError, Unavailable

_logger = logging.getLogger("eyebright.embedder.batcher")

_LENGTH_TOLERANCE = 1e-3
"""How far from 1 the squared length of a vector may be."""

_HEARTBEAT_SECONDS = 1.0
"""How often an idle device thread gives a sign of life."""


class _Worker:
    """What a device thread is at. Changed by it alone, under the lock."""

    def __init__(self, lock: Lock) -> None:
        self.woken = Condition(lock)
        self.batch: list[Item] = []
        """Empty while it waits."""
        self.ends = 0.0
        """When its pass is expected to end, on time.monotonic()'s scale."""
        self.heartbeat = time.monotonic()


class Batcher:
    """Runs a backend in ``workers`` threads of its own for callers on one event loop.

    Several are for passes that leave each other their speed, each on a core of its own: what waits is dealt out among
    those that are idle; what comes while all are idle always goes to the same one. Where the backend is serial they are
    for the passes in flight: one takes all that waits, and what it takes lasts from the end of the pass before.
    """

    def __init__(
        self,
        backend: Backend,
        costs: Mapping[Tower, TowerCost],
        bulk_share: float,
        metrics: EmbedderMetrics,
        workers: int = 1,
    ) -> None:
        self._backend = backend
        self._serial = backend.serial
        self._freed = 0.0
        """When a serial backend was done with a batch last, on time.monotonic()'s scale."""
        self._costs = costs
        self._metrics = metrics
        self._schedule = Schedule(costs, bulk_share)
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._stopping = False
        self.failed: asyncio.Future[BaseException] = self._loop.create_future()
        """Done when a device thread has died; its result is what it died of. Nothing is embedded from then on."""
        self._workers = [_Worker(self._lock) for _ in range(workers)]
        self._watch()
        self._threads = [
            Thread(target=self._run, args=[worker], name=f"device-{number}", daemon=True)
            for number, worker in enumerate(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def passes_at_once(self) -> int:
        """How many passes are computed side by side."""
        return 1 if self._serial else len(self._workers)

    def put(self, items: Iterable[Item]) -> None:
        """Queue items whose row is made, from any thread. Those for which nobody waits any more are dropped."""
        forsaken = []
        now = time.monotonic()
        with self._lock:
            for item in items:
                if item.waiters:
                    item.queued = now
                    self._schedule.add(item)
                else:
                    forsaken.append(item)
            self._wake_one()
        if forsaken:
            self._loop.call_soon_threadsafe(self._drop, forsaken, "decode")
        if self._stopping or self.failed.done():  # too late for the thread to take them
            reason = "the service is stopping" if self._stopping else "the device thread has died"
            self._loop.call_soon_threadsafe(self._empty, Unavailable(reason))

    def withdraw(self, item: Item) -> bool:
        """Take out an item for which nobody waits any more; whether it was in the queue."""
        with self._lock:
            if not self._schedule.discard(item):
                return False
        self._drop([item], "queue")
        return True

    def promote(self, item: Item) -> None:
        """Make a bulk item interactive, wherever it is."""
        with self._lock:
            queued = self._schedule.discard(item)
            item.priority = Priority.INTERACTIVE
            if queued:
                self._schedule.add(item)

    def waiting(self, tower: Tower, priority: Priority) -> int:
        """Items in the queue, those of the pass under way not counted; any thread may ask."""
        return self._schedule.waiting(tower, priority)

    def remaining_seconds(self) -> float:
        """When the device is expected to have time for another pass, in seconds from now; 0 when it has."""
        ends = [worker.ends if worker.batch else 0.0 for worker in self._workers]
        return max((max(ends) if self._serial else min(ends)) - time.monotonic(), 0.0)

    def stall(self, tolerated_seconds: float) -> str:
        """That the device stands still, in words; empty unless the next sign of life of one of its threads is overdue
        by more than is tolerated. That is the end of the pass that it is in, by what such passes take, or its next
        beat while idle. Any thread may ask.
        """
        expected = min(max(worker.heartbeat + _HEARTBEAT_SECONDS, worker.ends) for worker in self._workers)
        overdue = time.monotonic() - expected
        return f"the device is overdue by {overdue:.0f} s with its pass" if overdue > tolerated_seconds else ""

    async def stop(self) -> None:
        """End the device threads after the pass they are in; what still waits fails with Unavailable."""
        with self._lock:
            self._stopping = True
            for worker in self._workers:
                worker.woken.notify()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._empty(Unavailable("the service is stopping"))

    def _watch(self) -> None:
        self._metrics.busy.at_once = self.passes_at_once
        for tower, cost in self._costs.items():
            self._metrics.batch_limit.labels(tower).set_function(partial(getattr, cost, "batch_limit"))
            for priority in Priority:
                waiting = partial(self.waiting, tower, priority)
                self._metrics.queue_items.labels(tower, priority).set_function(waiting)
                self._metrics.queue_cost_seconds.labels(tower, priority).set_function(
                    partial(self._cost_seconds, tower, priority)
                )

    def _cost_seconds(self, tower: Tower, priority: Priority) -> float:
        return self._costs[tower].clearing_seconds(self.waiting(tower, priority))

    def _run(self, worker: _Worker) -> None:
        try:
            while (turn := self._take(worker)) is not None:
                if turn.expired:
                    self._loop.call_soon_threadsafe(self._expire, turn.expired)
                if turn.batch:
                    self._work(turn.tower, turn.batch)
        except BaseException as error:  # whatever it dies of, it must not do so in silence
            self._loop.call_soon_threadsafe(self._die, worker, error)

    def _take(self, worker: _Worker) -> Turn | None:
        """The next turn; None once stopped."""
        with self._lock:
            worker.batch = []
            while not self._stopping:
                worker.heartbeat = now = time.monotonic()
                idle = sum(not other.batch for other in self._workers)
                if (turn := self._schedule.next_turn(now, sharers=1 if self._serial else idle)) is not None:
                    begins = now + (self.remaining_seconds() if self._serial else 0.0)
                    worker.batch = turn.batch
                    worker.ends = begins + self._costs[turn.tower].seconds(len(turn.batch))
                    if self._schedule:
                        self._wake_one()
                    return turn
                worker.woken.wait(_HEARTBEAT_SECONDS)
        return None

    def _wake_one(self) -> None:
        """Have the first device thread that is idle, if any, look for a turn."""
        for worker in self._workers:
            if not worker.batch:
                worker.woken.notify()
                return

    def _work(self, tower: Tower, batch: list[Item]) -> None:
        """Embed a batch, in parts where that is what it takes."""
        began = time.monotonic()
        self._metrics.begin_batch(batch, began)
        causes: list[Exception] = []
        self._embed(tower, batch, began, causes)
        ended = time.monotonic()
        with self._lock:
            began = max(began, self._freed)
            if self._serial:
                self._freed = ended
            self._schedule.charge(batch, ended - began)
        self._metrics.end_batch(tower, began, ended)
        if causes:
            _logger.error(
                "a forward pass failed and was repeated in parts",
                exc_info=causes[0],
                extra={"tower": tower, "batch_size": len(batch), "failed_passes": len(causes)},
            )

    def _embed(self, tower: Tower, batch: list[Item], began: float, causes: list[Exception]) -> None:
        """One pass. When it fails, each half gets one of its own, so that in the end the culprits alone fail."""
        if len(batch) > self._costs[tower].batch_limit:  # it shrank since the batch was taken
            self._embed_parts(tower, batch, self._costs[tower].batch_limit, causes)
            return
        try:
            vectors = self._backend.forward(tower, np.stack([item.row for item in batch if item.row is not None]))
            sound = _are_unit_vectors(vectors, len(batch))
        except DeviceLost:
            raise
        except OutOfMemory as error:
            self._shrink(tower, len(batch), error)
            fault: ServiceError = ServiceError(f"internal error: no memory for a pass of {len(batch)}")
        except Exception as error:  # whatever a backend raises, the next batch may be well
            causes.append(error)
            fault = ServiceError("internal error: the forward pass failed")
        else:
            began, ended = max(began, self._freed), time.monotonic()
            self._costs[tower].observe(len(batch), ended - began)
            self._metrics.observe_pass(tower, len(batch), ended - began)
            self._loop.call_soon_threadsafe(self._deliver, batch, vectors, sound, (began, ended))
            return
        if len(batch) == 1:
            self._loop.call_soon_threadsafe(self._fail, batch, fault)
        else:
            self._embed_parts(tower, batch, (len(batch) + 1) // 2, causes)

    def _embed_parts(self, tower: Tower, batch: list[Item], size: int, causes: list[Exception]) -> None:
        for begin in range(0, len(batch), size):
            self._embed(tower, batch[begin : begin + size], time.monotonic(), causes)

    def _shrink(self, tower: Tower, size: int, error: OutOfMemory) -> None:
        cost = self._costs[tower]
        cost.shrink(size)
        _logger.warning(
            "out of memory: smaller batches for a while",
            extra={"tower": tower, "batch_size": size, "batch_limit": cost.batch_limit, "reason": str(error)},
        )

    # From here on in the event loop.

    def _deliver(
        self, batch: Sequence[Item], vectors: np.ndarray, sound: np.ndarray, computed: tuple[float, float]
    ) -> None:
        fault = ServiceError("internal error: the model gave no vector of length 1")
        unsound = 0
        for item, vector, is_sound in zip(batch, vectors, sound.tolist(), strict=True):
            if not item.waiters:
                self._metrics.cancelled(item.tower, "forward")
            if is_sound:
                item.finish(vector, *computed, len(batch))
            else:
                unsound += 1
                item.fail(fault)
        if unsound:
            self._metrics.rejected(batch[0].tower, "failed", unsound)
            _logger.error(
                "vectors that are not of length 1",
                extra={"tower": batch[0].tower, "batch_size": len(batch), "failed_items": unsound},
            )

    def _fail(self, batch: Sequence[Item], error: ServiceError) -> None:
        for item in batch:
            self._metrics.rejected(item.tower, "failed")
            item.fail(error)

    def _expire(self, items: Sequence[Item]) -> None:
        now = time.monotonic()
        for item in items:
            if item.waiters and item.deadline > now:  # somebody with more time joined meanwhile
                self.put([item])
            elif item.waiters:
                self._metrics.rejected(item.tower, "expired")
                item.fail(DeadlineExceeded(f"the deadline passed after {now - item.queued:.3f} s in the queue"))
            else:
                self._drop([item], "queue")

    def _drop(self, items: Sequence[Item], stage: Stage) -> None:
        for item in items:
            if item.waiters:  # somebody joined meanwhile
                self.put([item])
            else:
                self._metrics.cancelled(item.tower, stage)
                item.drop()

    def _die(self, worker: _Worker, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_result(error)
        self._empty(Unavailable("the device thread has died"), worker.batch)

    def _empty(self, error: ServiceError, at_work: Sequence[Item] = ()) -> None:
        with self._lock:
            left = [*at_work, *self._schedule.clear()]
        for item in left:
            if not item.ended:
                item.fail(error)


def _are_unit_vectors(vectors: np.ndarray, count: int) -> np.ndarray:
    """Which rows are of length 1, (count,) bool; NaN and infinity are not. Raises ValueError for another shape."""
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(f"expected {count} vectors, not an array of shape {vectors.shape}")
    sound: np.ndarray = np.abs(np.einsum("nd,nd->n", vectors, vectors) - 1) < _LENGTH_TOLERANCE
    return sound
