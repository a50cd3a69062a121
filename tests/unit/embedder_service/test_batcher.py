"""Queues and the device thread, with a backend that waits to be let go on."""

import asyncio
import time
from collections.abc import AsyncIterator
from queue import Queue
from threading import Semaphore

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from embedder_service.admission import Admission
from embedder_service.backends import Tower
from embedder_service.batcher import Batcher, DeadlineExpired
from embedder_service.metrics import EmbedderMetrics
from service_runtime.errors import ResourceExhausted, ServiceError, Unavailable

FOREVER = float("inf")


class GatedBackend:
    """Doubles its rows; each pass announces its batch and waits for a permit. A row of -1 makes the pass raise."""

    device = "test"
    towers = tuple(Tower)

    def __init__(self) -> None:
        self.passes: Queue[tuple[Tower, list[float]]] = Queue()
        self.permits = Semaphore(0)

    def forward(self, tower: Tower, batch: np.ndarray) -> np.ndarray:
        self.passes.put((tower, batch[:, 0].tolist()))
        assert self.permits.acquire(timeout=20)
        if (batch == -1).any():
            raise FloatingPointError("the device broke")
        return (batch * 2).astype(np.float32)

    async def next_pass(self) -> tuple[Tower, list[float]]:
        return await asyncio.to_thread(self.passes.get, True, 20)


class Bench:
    """A batcher with a gated backend and its metrics."""

    def __init__(self, batch_limit: int) -> None:
        self.registry = CollectorRegistry()
        self.backend = GatedBackend()
        self.batcher = Batcher(self.backend, batch_limit, EmbedderMetrics(self.registry))

    def submit(self, *values: float, tower: Tower = Tower.TEXT, deadline: float = FOREVER) -> list[asyncio.Future]:  # type: ignore[type-arg]
        return self.batcher.submit(tower, [np.array([value, 0.0]) for value in values], deadline)

    def rejected(self, reason: str) -> float:
        labels = {"tower": "text", "reason": reason}
        return self.registry.get_sample_value("eyebright_embedder_rejected_items_total", labels) or 0.0


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(batch_limit=4)
    yield bench
    bench.backend.permits.release(100)
    await bench.batcher.stop()


async def test_what_waits_together_shares_a_pass_up_to_the_limit(bench: Bench) -> None:
    first = bench.submit(1)
    assert await bench.backend.next_pass() == (Tower.TEXT, [1.0])
    rest = [future for value in range(2, 8) for future in bench.submit(value)]
    bench.backend.permits.release(3)
    results = await asyncio.gather(*first, *rest)
    assert [result.vector[0] for result in results] == [2.0 * value for value in range(1, 8)]
    assert await bench.backend.next_pass() == (Tower.TEXT, [2.0, 3.0, 4.0, 5.0])
    assert await bench.backend.next_pass() == (Tower.TEXT, [6.0, 7.0])
    assert bench.registry.get_sample_value("eyebright_embedder_batch_size_count", {"tower": "text"}) == 3
    assert bench.registry.get_sample_value("eyebright_embedder_batch_size_sum", {"tower": "text"}) == 7
    assert results[1].queue_seconds > 0
    assert results[1].forward_seconds == results[4].forward_seconds


async def test_the_depth_of_the_queue_is_what_waits_now(bench: Bench) -> None:
    def depth() -> float | None:
        return bench.registry.get_sample_value("eyebright_embedder_queue_depth", {"tower": "text"})

    first = bench.submit(1)
    await bench.backend.next_pass()
    assert depth() == 0
    rest = bench.submit(2, 3) + bench.submit(4)
    assert depth() == 3
    bench.backend.permits.release(2)
    await asyncio.gather(*first, *rest)
    assert depth() == 0


async def test_the_tower_that_has_waited_longest_goes_first(bench: Bench) -> None:
    futures = bench.submit(1, tower=Tower.IMAGE)
    await bench.backend.next_pass()
    futures += bench.submit(*range(10, 15), tower=Tower.IMAGE)
    futures += bench.submit(2)
    futures += bench.submit(20, tower=Tower.IMAGE)
    bench.backend.permits.release(10)
    await asyncio.gather(*futures)
    order = [await bench.backend.next_pass() for _ in range(3)]
    assert order == [
        (Tower.IMAGE, [10.0, 11.0, 12.0, 13.0]),
        (Tower.IMAGE, [14.0, 20.0]),
        (Tower.TEXT, [2.0]),
    ]


async def test_cancelled_and_expired_items_never_reach_the_device(bench: Bench) -> None:
    first = bench.submit(1)
    await bench.backend.next_pass()
    (cancelled,) = bench.submit(2)
    (expired,) = bench.submit(3, deadline=time.monotonic())
    (kept,) = bench.submit(4)
    cancelled.cancel()
    bench.backend.permits.release(2)
    await asyncio.gather(*first, kept)
    with pytest.raises(DeadlineExpired):
        await expired
    assert await bench.backend.next_pass() == (Tower.TEXT, [4.0])
    assert (bench.rejected("cancelled"), bench.rejected("expired")) == (1, 1)


async def test_a_queue_of_nothing_but_expired_items_does_not_stop_the_thread(bench: Bench) -> None:
    (expired,) = bench.submit(1, deadline=time.monotonic())
    with pytest.raises(DeadlineExpired):
        await expired
    bench.backend.permits.release()
    (alive,) = bench.submit(2)
    assert (await alive).vector[0] == 4.0


async def test_a_pass_that_fails_fails_its_own_items_only(bench: Bench) -> None:
    first = bench.submit(1)
    await bench.backend.next_pass()
    broken = bench.submit(-1, 2, 3, 4)
    after = bench.submit(5)
    bench.backend.permits.release(3)
    outcomes = await asyncio.gather(*first, *broken, *after, return_exceptions=True)
    assert [isinstance(outcome, ServiceError) for outcome in outcomes] == [False, True, True, True, True, False]
    assert "the device broke" not in str(outcomes[1])
    assert bench.rejected("failed") == 4


async def test_stopping_answers_what_still_waits() -> None:
    bench = Bench(batch_limit=4)
    running = bench.submit(1)
    await bench.backend.next_pass()
    waiting = bench.submit(2)
    stopping = asyncio.create_task(bench.batcher.stop())
    await asyncio.sleep(0)
    bench.backend.permits.release()
    await stopping
    assert (await running[0]).vector[0] == 2.0
    with pytest.raises(Unavailable):
        await waiting[0]


async def test_admission_refuses_past_the_limit_with_both_values() -> None:
    admission = Admission(Tower.TEXT, 10, EmbedderMetrics(CollectorRegistry()))
    with admission.admit(6):
        with (
            pytest.raises(
                ResourceExhausted, match="6 items are inside the text tower; 5 more would pass its limit of 10"
            ),
            admission.admit(5),
        ):
            pytest.fail("admitted")
        with admission.admit(4):
            pass
    with admission.admit(10):
        pass


async def test_streams_wait_for_half_of_the_limit() -> None:
    admission = Admission(Tower.TEXT, 10, EmbedderMetrics(CollectorRegistry()))
    await admission.wait_for_room(8)  # nothing is inside, so that a large batch gets through at all
    with admission.admit(3):
        await admission.wait_for_room(2)
        waiting = asyncio.create_task(admission.wait_for_room(3))
        await asyncio.sleep(0)
        with admission.admit(1):
            pass
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 5)
