"""The decoding threads, with a decoder that waits to be let go on."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from queue import Queue
from threading import Semaphore
from typing import cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from embedder_service.backends import Tower
from embedder_service.decoding import DecodePool
from embedder_service.images import ImageDecoder
from embedder_service.items import Answer, Item, Priority
from embedder_service.metrics import EmbedderMetrics
from service_runtime.errors import DeadlineExceeded, InvalidArgument, Unavailable

FOREVER = float("inf")


class GatedDecoder:
    """Announces each image and waits for a permit; ``bad`` is no image, ``worse`` is a fault of the decoder."""

    def __init__(self) -> None:
        self.begun: Queue[bytes] = Queue()
        self.permits = Semaphore(0)

    def decode(self, encoded: bytes, field: str) -> np.ndarray:
        self.begun.put(encoded)
        assert self.permits.acquire(timeout=20)
        if encoded == b"bad":
            raise InvalidArgument("expected an image")
        if encoded == b"worse":
            raise ZeroDivisionError("a secret")
        return np.frombuffer(encoded, np.uint8)


class Bench:
    """One decoding thread."""

    def __init__(self) -> None:
        self.decoder = GatedDecoder()
        self.decoded: Queue[Item] = Queue()
        self.registry = CollectorRegistry()
        self.pool = DecodePool(cast("ImageDecoder", self.decoder), 1, 0.2, self.hand_on, EmbedderMetrics(self.registry))

    def hand_on(self, items: Sequence[Item]) -> None:
        for item in items:
            self.decoded.put(item)

    def put(
        self, *images: bytes, priority: Priority = Priority.INTERACTIVE, deadline: float = FOREVER
    ) -> tuple[Answer, list[Item]]:
        answer = Answer(len(images), 2, "images")
        items = [Item(Tower.IMAGE, priority, deadline, encoded) for encoded in images]
        for position, item in enumerate(items):
            answer.expect(item, position)
        self.pool.put(items)
        return answer, items

    async def next_decoded(self) -> Item:
        return await asyncio.to_thread(self.decoded.get, True, 20)

    async def next_begun(self) -> bytes:
        return await asyncio.to_thread(self.decoder.begun.get, True, 20)

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"eyebright_embedder_{name}", labels) or 0.0


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.decoder.permits.release(100)
    await bench.pool.stop()


async def test_a_decoded_item_has_its_row_and_not_its_bytes(bench: Bench) -> None:
    bench.decoder.permits.release()
    bench.put(b"ab")
    item = await bench.next_decoded()
    assert item.row is not None
    assert (item.row.tolist(), item.source) == ([97, 98], b"")
    assert item.prepared is not None
    assert item.prepared[0] < item.prepared[1]
    assert bench.sample("decode_seconds_count") == 1


async def test_interactive_images_pass_bulk_ones(bench: Bench) -> None:
    bench.put(b"1", b"2", b"3", priority=Priority.BULK)
    assert await bench.next_begun() == b"1"
    bench.put(b"now")
    assert bench.sample("decode_queue_items", priority="bulk") == 2
    assert bench.sample("decode_queue_items", priority="interactive") == 1
    bench.decoder.permits.release(4)
    assert [await bench.next_begun() for _ in range(3)] == [b"now", b"2", b"3"]


async def test_bulk_keeps_a_share_while_interactive_images_wait(bench: Bench) -> None:
    bench.put(b"first")
    await bench.next_begun()
    bench.put(*[b"i"] * 100)
    bench.put(*[b"b"] * 100, priority=Priority.BULK)
    bench.decoder.permits.release(201)
    order = [(await bench.next_begun()) for _ in range(200)]
    assert order[:100].count(b"b") > 0
    assert order.count(b"b") == 100


async def test_withdrawn_and_expired_images_are_never_decoded(bench: Bench) -> None:
    bench.put(b"first")
    await bench.next_begun()
    answer, items = bench.put(b"gone", b"gone too")
    late, _ = bench.put(b"late", deadline=time.monotonic())
    bench.put(b"kept")
    for item in answer.leave():
        assert bench.pool.withdraw(item)
    assert bench.pool.waiting(Priority.INTERACTIVE) == 2
    assert all(item.ended for item in items)
    bench.decoder.permits.release(2)
    assert await bench.next_begun() == b"kept"
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(late.whole(), 20)
    assert bench.sample("cancelled_items_total", tower="image", stage="decode") == 2
    assert bench.sample("rejected_items_total", tower="image", reason="expired") == 1


async def test_an_image_at_work_cannot_be_withdrawn(bench: Bench) -> None:
    answer, _ = bench.put(b"first")
    await bench.next_begun()
    (item,) = answer.leave()
    assert not bench.pool.withdraw(item)


async def test_a_bad_image_fails_alone_and_names_its_place(bench: Bench) -> None:
    bench.decoder.permits.release(3)
    answer, items = bench.put(b"bad", b"worse", b"ok")
    good = await bench.next_decoded()
    assert good is items[2]
    good.finish(np.ones(2, np.float32), 0.0, 0.0, 1)
    await asyncio.wait_for(answer.whole(), 20)
    assert answer.faults[0].message == "images[0]: expected an image"
    assert answer.faults[1].message == "internal error: decoding failed"
    assert not answer.vectors[:2].any()
    assert bench.sample("rejected_items_total", tower="image", reason="invalid") == 1
    assert bench.sample("rejected_items_total", tower="image", reason="failed") == 1


async def test_the_time_of_an_image_is_learnt(bench: Bench) -> None:
    assert bench.pool.clearing_seconds(10) == 0
    bench.decoder.permits.release()
    bench.put(b"a")
    await bench.next_decoded()
    assert bench.pool.clearing_seconds(10) == pytest.approx(10 * bench.pool.clearing_seconds(1))
    assert bench.pool.clearing_seconds(1) == pytest.approx(bench.sample("decode_seconds_sum"))


async def test_stopping_answers_what_still_waits() -> None:
    bench = Bench()
    bench.put(b"first")
    await bench.next_begun()
    waiting, _ = bench.put(b"second")
    stopping = asyncio.create_task(bench.pool.stop())
    await asyncio.sleep(0)
    bench.decoder.permits.release()
    await stopping
    assert bench.decoded.qsize() == 1
    with pytest.raises(Unavailable):
        await waiting.whole()
