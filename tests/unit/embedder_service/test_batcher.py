"""The device thread, with a backend that waits to be let go on."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from embedder_service.backends import DeviceLost, Tower
from embedder_service.backends.torch_backend import TorchBackend
from embedder_service.batcher import _HEARTBEAT_SECONDS, Batcher
from embedder_service.checkpoint import load_checkpoint
from embedder_service.checkpoint_files import DEMO_FOLDER, read_folder
from embedder_service.items import Answer, Item, Priority
from embedder_service.metrics import BUSY_SECONDS, BusyRatio, EmbedderMetrics
from embedder_service.tower_cost import TowerCost
from service_runtime.errors import DeadlineExceeded, Unavailable
from tests.unit.embedder_service.gated import (
    BROKEN,
    FATAL,
    FOREVER,
    LOSS,
    NOT_A_NUMBER,
    TOO_LARGE,
    TOO_LONG,
    Call,
    GatedBackend,
)

BULK = Priority.BULK


class Bench:
    """A batcher with a gated backend and its metrics."""

    def __init__(
        self,
        batch_limit: int = 4,
        memory: int = 1000,
        seconds: float = 1.0,
        workers: int = 1,
        *,
        serial: bool = False,
    ) -> None:
        self.registry = CollectorRegistry()
        self.backend = GatedBackend(memory, serial=serial)
        self.costs = {tower: TowerCost(batch_limit, {1: seconds}) for tower in Tower}
        self.batcher = Batcher(self.backend, self.costs, 0.2, EmbedderMetrics(self.registry), workers)

    def put(self, call: Call) -> Call:
        self.batcher.put(call.items)
        return call

    async def running(self) -> Call:
        """A call whose pass has begun, so that what comes next waits."""
        call = self.put(Call(0.5))
        await self.backend.next_pass()
        return call

    def sample(self, name: str, **labels: str) -> float:
        labels = {"tower": "text"} | labels
        return self.registry.get_sample_value(f"eyebright_embedder_{name}", labels) or 0.0


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.backend.permits.release(100)
    await bench.batcher.stop()


async def test_what_waits_together_shares_a_pass_up_to_the_limit(bench: Bench) -> None:
    await bench.running()
    calls = [bench.put(Call(value / 10)) for value in range(1, 8)]
    bench.backend.permits.release(3)
    assert [await call.angles() for call in calls] == [[value / 10] for value in range(1, 8)]
    assert await bench.backend.rows_of(2) == [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7]]
    assert bench.sample("batch_size_count") == 3
    assert bench.sample("batch_size_sum") == 8
    assert bench.sample("forward_seconds_count", batch="4") == 2
    assert bench.sample("queue_seconds_count", priority="interactive") == 8
    assert calls[0].answer.queue_seconds > 0
    assert calls[0].answer.forward_seconds == calls[3].answer.forward_seconds > 0
    assert [call.answer.batch_size for call in calls] == [4, 4, 4, 4, 3, 3, 3]


async def test_gauges_say_what_waits_now_and_what_it_will_cost(bench: Bench) -> None:
    def waiting() -> tuple[float, ...]:
        names = ("queue_items", "queue_cost_seconds")
        return *(bench.sample(name, priority="interactive") for name in names), bench.sample(
            "queue_items", priority="bulk"
        )

    await bench.running()
    assert waiting() == (0, 0, 0)
    calls = [bench.put(Call(1.0, 1.1)), bench.put(Call(1.2)), bench.put(Call(1.3, priority=BULK))]
    assert waiting() == (3, 3, 1)
    assert (bench.registry.get_sample_value("eyebright_embedder_device_busy_ratio") or 0) > 0
    bench.backend.permits.release(3)
    for call in calls:
        await call.angles()
    assert waiting() == (0, 0, 0)
    assert bench.sample("items_total", priority="interactive") == 4
    assert bench.sample("device_busy_seconds_total") > 0


@pytest.mark.parametrize(("at_once", "ratio"), [(1, 1.0), (2, 1.0), (4, 0.5)])
def test_two_passes_in_flight_are_all_that_a_device_of_one_can_do(at_once: int, ratio: float) -> None:
    busy = BusyRatio()
    busy.at_once = at_once
    for _ in range(2):
        busy.begin(time.monotonic())
    assert busy._at(time.monotonic() + 20 * BUSY_SECONDS) == pytest.approx(ratio)


async def test_interactive_items_pass_bulk_ones_at_the_next_batch(bench: Bench) -> None:
    bulk = bench.put(Call(*(n / 10 for n in range(12)), priority=BULK))
    assert await bench.backend.rows_of(1) == [[0.0, 0.1, 0.2, 0.3]]
    interactive = bench.put(Call(2.0))
    bench.backend.permits.release(2)
    assert await interactive.angles() == [2.0]
    assert await bench.backend.rows_of(2) == [[2.0], [0.4, 0.5, 0.6, 0.7]]
    bench.backend.permits.release(2)
    assert None not in await bulk.angles()


async def test_a_promoted_item_goes_with_the_interactive_ones(bench: Bench) -> None:
    await bench.running()
    bulk = bench.put(Call(1.0, 1.1, priority=BULK))
    bench.batcher.promote(bulk.items[1])
    bench.backend.permits.release(3)
    await bulk.angles()
    assert await bench.backend.rows_of(2) == [[1.1], [1.0]]


async def test_withdrawn_and_expired_items_never_reach_the_device(bench: Bench) -> None:
    await bench.running()
    gone, late, kept = bench.put(Call(1.0, 1.1)), bench.put(Call(2.0, deadline=time.monotonic())), bench.put(Call(3.0))
    for item in gone.answer.leave():
        assert bench.batcher.withdraw(item)
    assert bench.sample("queue_items", priority="interactive") == 2  # its room is free at once
    bench.backend.permits.release(2)
    assert await kept.angles() == [3.0]
    with pytest.raises(DeadlineExceeded, match="the deadline passed after"):
        await late.angles()
    assert await bench.backend.rows_of(1) == [[3.0]]
    assert bench.sample("cancelled_items_total", stage="queue") == 2
    assert bench.sample("rejected_items_total", reason="expired") == 1


async def test_items_of_callers_that_left_earlier_or_later_are_counted_by_stage(bench: Bench) -> None:
    before = Call(1.0)
    before.answer.leave()
    bench.put(before)
    during = await bench.running()
    for item in during.answer.leave():
        assert not bench.batcher.withdraw(item)
    bench.backend.permits.release(2)
    await bench.put(Call(2.0)).angles()
    assert bench.sample("cancelled_items_total", stage="decode") == 1
    assert bench.sample("cancelled_items_total", stage="forward") == 1


async def test_a_queue_of_nothing_but_expired_items_does_not_stop_the_thread(bench: Bench) -> None:
    with pytest.raises(DeadlineExceeded):
        await bench.put(Call(1.0, deadline=time.monotonic())).angles()
    bench.backend.permits.release()
    assert await bench.put(Call(2.0)).angles() == [2.0]


async def test_an_expired_item_for_which_somebody_with_more_time_waits_is_queued_again(bench: Bench) -> None:
    await bench.running()
    first = bench.put(Call(1.0, deadline=time.monotonic()))
    bench.backend.permits.release()
    while bench.batcher.waiting(Tower.TEXT, Priority.INTERACTIVE):
        time.sleep(0.001)  # the loop must not run before the item is joined
    second = Answer(1, 2, "texts")
    second.expect(first.items[0], 0)
    first.items[0].deadline = FOREVER
    bench.backend.permits.release()
    await asyncio.wait_for(second.whole(), 20)
    assert second.vectors.any()


async def test_of_a_batch_that_fails_only_the_culprits_fail(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await bench.running()
    calls = [bench.put(Call(1.0, BROKEN)), bench.put(Call(2.0, 3.0)), bench.put(Call(4.0))]
    bench.backend.permits.release(7)
    with caplog.at_level(logging.WARNING):
        assert [await call.angles() for call in calls] == [[1.0, None], [2.0, 3.0], [4.0]]
    assert await bench.backend.rows_of(6) == [
        [1.0, BROKEN, 2.0, 3.0],
        [1.0, BROKEN],
        [1.0],
        [BROKEN],
        [2.0, 3.0],
        [4.0],
    ]
    fault = calls[0].answer.faults[1]
    assert (fault.code.name, fault.message) == ("INTERNAL", "internal error: the forward pass failed")
    assert bench.sample("rejected_items_total", reason="failed") == 1
    (record,) = caplog.records
    assert (record.tower, record.batch_size, record.failed_passes) == (Tower.TEXT, 4, 3)  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert "the device broke" in str(record.exc_info[1])


async def test_a_vector_that_is_none_fails_its_item_alone(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await bench.running()
    call = bench.put(Call(1.0, NOT_A_NUMBER, TOO_LONG, 2.0))
    bench.backend.permits.release(2)
    with caplog.at_level(logging.ERROR):
        assert await call.angles() == [1.0, None, None, 2.0]
    assert not call.answer.vectors[1:3].any()
    assert "no vector of length 1" in call.answer.faults[1].message
    assert bench.sample("rejected_items_total", reason="failed") == 2
    assert [record.failed_items for record in caplog.records] == [2]  # type: ignore[attr-defined]


async def test_out_of_memory_halves_the_batch_and_repeats(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(batch_limit=16, memory=3)
    bench.backend.permits.release(100)
    try:
        with caplog.at_level(logging.WARNING):
            values = [n / 10 for n in range(16)]
            assert await bench.put(Call(*values)).angles() == values
            assert await bench.put(Call(*values)).angles() == values
            assert await bench.put(Call(1.0, TOO_LARGE)).angles() == [1.0, None]
    finally:
        await bench.batcher.stop()
    sizes = [len(bench.backend.passes.get_nowait()[1]) for _ in range(bench.backend.passes.qsize())]
    assert sizes == [16, 8, 4, *[2] * 8, *[2] * 8, 2, 1, 1]
    assert bench.costs[Tower.TEXT].batch_limit == 1
    assert bench.costs[Tower.IMAGE].batch_limit == 16
    assert bench.sample("batch_limit") == 1
    assert bench.sample("batch_limit", tower="image") == 16
    assert {record.message for record in caplog.records} == {"out of memory: smaller batches for a while"}


async def test_a_device_thread_that_dies_is_noticed() -> None:
    bench = Bench()
    await bench.running()
    at_work, waiting = bench.put(Call(1.0, FATAL, 2.0, 3.0)), bench.put(Call(4.0))
    bench.backend.permits.release(2)
    died_of = await asyncio.wait_for(bench.batcher.failed, 20)
    assert isinstance(died_of, SystemExit)
    for call in (at_work, waiting, bench.put(Call(5.0))):
        with pytest.raises(Unavailable, match="the device thread has died"):
            await call.angles()
    await bench.batcher.stop()


async def test_an_idle_device_gives_signs_of_life(bench: Bench) -> None:
    assert bench.batcher.stall(1.0) == ""
    second_beat = time.monotonic() + 1.5 * _HEARTBEAT_SECONDS
    while time.monotonic() < second_beat or bench.batcher.stall(0.0):  # without that beat it would be so for ever
        await asyncio.sleep(0.01)
    assert not bench.batcher.failed.done()


async def test_a_pass_is_overdue_past_the_end_that_is_expected_of_it() -> None:
    quick, slow = Bench(seconds=0.001), Bench(seconds=1000.0)
    await slow.running()
    began = time.monotonic()
    await quick.running()
    while not (stall := quick.batcher.stall(0.1)):
        await asyncio.sleep(0.01)
    assert stall == "the device is overdue by 0 s with its pass"
    assert quick.batcher.stall(1000.0) == ""
    assert time.monotonic() - began > 1
    assert slow.batcher.stall(0.0) == ""
    for bench in (quick, slow):
        bench.backend.permits.release()
        await bench.batcher.stop()


async def test_a_device_that_is_lost_is_asked_for_nothing_more(bench: Bench) -> None:
    await bench.running()
    at_work = bench.put(Call(1.0, LOSS, 2.0))
    bench.backend.permits.release(100)
    assert isinstance(await asyncio.wait_for(bench.batcher.failed, 20), DeviceLost)
    with pytest.raises(Unavailable, match="the device thread has died"):
        await at_work.angles()
    assert await bench.backend.rows_of(1) == [[1.0, LOSS, 2.0]]
    assert bench.backend.passes.empty()  # the halves would fail as well


class TestSerialBackend:
    @pytest.fixture
    async def bench(self) -> AsyncIterator[Bench]:
        bench = Bench(workers=2, serial=True)
        yield bench
        bench.backend.permits.release(100)
        await bench.batcher.stop()

    async def test_two_batches_are_in_flight_and_the_rest_waits(self, bench: Bench) -> None:
        calls, passes = [], []
        for values in ([0.1], [0.2, 0.3, 0.4, 0.5]):
            calls.append(bench.put(Call(*values)))
            passes += await bench.backend.rows_of(1)
        calls += [bench.put(Call(value)) for value in (0.6, 0.7, 0.8)]
        assert passes == [[0.1], [0.2, 0.3, 0.4, 0.5]]
        assert bench.batcher.waiting(Tower.TEXT, Priority.INTERACTIVE) == 3
        bench.backend.permits.release()
        assert await bench.backend.rows_of(1) == [[0.6, 0.7, 0.8]]
        bench.backend.permits.release(2)
        assert [await call.angles() for call in calls] == [*passes, [0.6], [0.7], [0.8]]

    async def test_what_waits_is_not_dealt_out_among_threads_that_are_idle(self, bench: Bench) -> None:
        bench.put(Call(1.0, 1.1, 1.2, 1.3))
        assert await bench.backend.rows_of(1) == [[1.0, 1.1, 1.2, 1.3]]

    async def test_the_device_is_free_after_both_passes(self, bench: Bench) -> None:
        for value in (1.0, 2.0):
            bench.put(Call(value))
            await bench.backend.next_pass()
        assert 1.5 < bench.batcher.remaining_seconds() <= 2

    async def test_a_pass_lasts_from_the_end_of_the_one_before(self, bench: Bench) -> None:
        first = bench.put(Call(1.0))
        await bench.backend.next_pass()
        second = bench.put(Call(2.0))
        await bench.backend.next_pass()
        await asyncio.sleep(0.2)  # both are in flight for so long
        bench.backend.permits.release()
        await first.angles()
        bench.backend.permits.release()
        await second.angles()
        assert first.answer.forward_seconds >= 0.2
        assert second.answer.queue_seconds >= 0.15
        assert second.answer.forward_seconds < first.answer.forward_seconds


async def test_a_serial_backend_gives_the_same_vectors_with_two_in_flight_as_with_one() -> None:
    checkpoint = load_checkpoint(read_folder(DEMO_FOLDER, "demo"), 1 << 15)
    backend = TorchBackend(checkpoint.towers, checkpoint.preprocessing, "cpu", 1)
    backend.serial = True
    rows = np.random.default_rng(0).integers(2, 1000, (40, checkpoint.tokenizer.layout.length))
    costs = {tower: TowerCost(4, {1: 0.001}) for tower in Tower}
    found = []
    for workers in (1, 2):
        batcher = Batcher(backend, costs, 0.2, EmbedderMetrics(CollectorRegistry()), workers)
        answer = Answer(len(rows), checkpoint.dimension, "texts")
        items = [Item(Tower.TEXT, Priority.INTERACTIVE, FOREVER, row=row) for row in rows]
        for position, item in enumerate(items):
            answer.expect(item, position)
        batcher.put(items)
        await asyncio.wait_for(answer.whole(), 60)
        await batcher.stop()
        found.append(answer.vectors)
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    assert not np.allclose(found[0][0], found[0][1], atol=0.01)


async def test_stopping_answers_what_still_waits() -> None:
    bench = Bench()
    running = await bench.running()
    waiting = bench.put(Call(1.0))
    stopping = asyncio.create_task(bench.batcher.stop())
    await asyncio.sleep(0)
    bench.backend.permits.release()
    await stopping
    assert await running.angles() == [0.5]
    with pytest.raises(Unavailable):
        await waiting.angles()
    with pytest.raises(Unavailable):
        await bench.put(Call(2.0)).angles()


async def test_what_comes_while_all_are_idle_goes_to_the_same_thread_and_what_waits_is_dealt_out() -> None:
    bench = Bench(workers=3)
    bench.backend.permits.release(3)
    for value in (0.1, 0.2, 0.3):
        assert await bench.put(Call(value)).angles() == [value]
        while any(worker.batch for worker in bench.batcher._workers):  # it is answered a moment before it is idle
            await asyncio.sleep(0.001)
    assert bench.backend.threads == ["device-0"] * 3
    assert len(await bench.backend.rows_of(3)) == 3
    many = bench.put(Call(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    assert sorted(await bench.backend.rows_of(3)) == [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
    assert bench.backend.threads[3:] == ["device-0", "device-1", "device-2"]
    bench.backend.permits.release(3)
    assert await many.angles() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    await bench.batcher.stop()
