"""The way of a request, with a backend that waits to be let go on and captions that are numbers."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from embedder_service.backends import Tower
from embedder_service.embedder import Embedder, Embeddings
from embedder_service.images import ImageDecoder
from embedder_service.items import Priority
from embedder_service.metrics import EmbedderMetrics
from embedder_service.settings import EmbedderSettings
from embedder_service.texts import CaptionTokenizer, TokenisedCaption
from embedder_service.tower_cost import TowerCost
from service_runtime.errors import InvalidArgument, ResourceExhausted
from tests.unit.embedder_service.gated import BROKEN, FOREVER, GatedBackend

BULK = Priority.BULK


class Numbers:
    """A tokenizer of captions like "0.5"; spaces at the ends don't count, "long 0.5" is cut, "odd" is none."""

    layout = SimpleNamespace(length=2)

    def check(self, captions: Sequence[str]) -> list[str | InvalidArgument]:
        return [caption.strip() or InvalidArgument("expected a caption") for caption in captions]

    def encode(self, texts: Sequence[str]) -> list[TokenisedCaption | InvalidArgument]:
        return [
            InvalidArgument("expected a number")
            if text == "odd"
            else TokenisedCaption(np.array([float(text.split()[-1]), 0.0]), text.startswith("long"))
            for text in texts
        ]


class Pictures:
    """A decoder of images like b"0.5"."""

    row_bytes = 16

    def decode(self, encoded: bytes, field: str) -> np.ndarray:
        return np.array([float(encoded), 0.0])


class Bench:
    """An embedder that answers with unit vectors at the angles that its captions and images state."""

    def __init__(self, **settings: Any) -> None:
        self.registry = CollectorRegistry()
        self.backend = GatedBackend()
        self.costs = {tower: TowerCost(4, {1: 1.0}) for tower in Tower}
        self.embedder = Embedder(
            cast("CaptionTokenizer", Numbers()),
            cast("ImageDecoder", Pictures()),
            self.backend,
            2,
            self.costs,
            EmbedderSettings(decode_threads=1, **settings),
            EmbedderMetrics(self.registry),
        )

    def texts(
        self, *texts: str, priority: Priority = Priority.INTERACTIVE, recompute: bool = False
    ) -> "asyncio.Task[Embeddings]":
        call = self.embedder.embed_texts(texts, FOREVER, priority, recompute=recompute)
        return asyncio.ensure_future(call)

    def images(self, *images: bytes) -> "asyncio.Task[Embeddings]":
        return asyncio.ensure_future(self.embedder.embed_images(images, FOREVER))

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"eyebright_embedder_{name}", labels) or 0.0

    def lookups(self) -> list[float]:
        return [self.sample("text_cache_lookups_total", result=result) for result in ("hit", "shared", "miss")]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.backend.permits.release(100)
    await bench.embedder.stop()


async def angles(call: "asyncio.Task[Embeddings]") -> list[float | None]:
    embeddings = await asyncio.wait_for(call, 20)
    found = np.arctan2(embeddings.vectors[:, 1], embeddings.vectors[:, 0]) % (2 * np.pi)
    return [None if i in embeddings.faults else round(float(angle), 4) for i, angle in enumerate(found)]


async def test_captions_and_images_come_back_in_their_places(bench: Bench) -> None:
    bench.backend.permits.release(10)
    assert await angles(bench.texts("0.1", "", "0.3", "odd", "long 0.4")) == [0.1, None, 0.3, None, 0.4]
    assert await angles(bench.images(b"0.1", b"0.2")) == [0.1, 0.2]
    embeddings = await bench.texts("", "odd", "long 0.4", "0.5", " long 0.4")
    assert {position: fault.message for position, fault in embeddings.faults.items()} == {
        0: "texts[0]: expected a caption",
        1: "texts[1]: expected a number",
    }
    assert embeddings.truncated == [2, 4]


@pytest.mark.parametrize("count", [0, 257])
async def test_too_few_or_too_many_items_are_refused(bench: Bench, count: int) -> None:
    with pytest.raises(InvalidArgument, match=f"expected 1 to 256 items, not {count}"):
        await bench.texts(*["1"] * count)
    with pytest.raises(InvalidArgument, match=f"expected 1 to 256 items, not {count}"):
        await bench.images(*[b"1"] * count)


async def test_a_caption_embedded_before_touches_no_device(bench: Bench) -> None:
    bench.backend.permits.release(1)
    assert await angles(bench.texts("0.1", "long 0.2")) == [0.1, 0.2]
    again = await bench.texts(" 0.1", "long 0.2")
    assert bench.backend.passes.qsize() == 1
    assert again.truncated == [1]
    assert (again.timings.queue_seconds, again.timings.forward_seconds) == (0, 0)
    assert bench.lookups() == [2, 0, 2]
    assert bench.sample("text_cache_bytes") > 0
    assert bench.sample("items_total", tower="text", priority="interactive") == 2


async def test_what_is_to_be_computed_anew_passes_the_cache_by(bench: Bench) -> None:
    bench.backend.permits.release(1)
    assert await angles(bench.texts("0.1")) == [0.1]
    under_way = bench.texts("0.2")
    anew = bench.texts("0.1", "0.2", "0.3", recompute=True)
    await asyncio.sleep(0)
    bench.backend.permits.release(3)
    assert await angles(anew) == [0.1, 0.2, 0.3]
    assert await angles(under_way) == [0.2]
    assert await angles(bench.texts("0.3")) == [0.3]  # not remembered
    computed = [row for rows in await bench.backend.rows_of(bench.backend.passes.qsize()) for row in rows]
    assert sorted(computed) == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


async def test_without_a_cache_every_request_goes_to_the_device() -> None:
    bench = Bench(text_cache_bytes=0)
    bench.backend.permits.release(2)
    assert await angles(bench.texts("0.1", "0.1")) == [0.1, 0.1]  # equal captions still share
    assert await angles(bench.texts("0.1")) == [0.1]
    assert await bench.backend.rows_of(2) == [[0.1], [0.1]]
    await bench.embedder.stop()


async def test_equal_captions_under_way_are_computed_once(bench: Bench) -> None:
    first = bench.texts("0.1", "0.1", "0.2")
    await bench.backend.next_pass()
    second = bench.texts("0.2", "0.3")
    await asyncio.sleep(0)
    bench.backend.permits.release(2)
    assert await angles(first) == [0.1, 0.1, 0.2]
    assert await angles(second) == [0.2, 0.3]
    assert await bench.backend.rows_of(1) == [[0.3]]
    assert bench.lookups() == [0, 2, 3]


@pytest.mark.parametrize("stage", ["forward", "queue"])
async def test_a_caller_that_leaves_takes_no_caption_from_those_that_stay(bench: Bench, stage: str) -> None:
    if stage == "queue":
        bench.texts("2.0")
        await bench.backend.next_pass()
    leaving = bench.texts("0.1", "0.2")
    if stage == "forward":
        await bench.backend.next_pass()
    await asyncio.sleep(0)
    staying = bench.texts("0.2")
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    bench.backend.permits.release(2)
    assert await angles(staying) == [0.2]
    if stage == "queue":
        assert await bench.backend.rows_of(1) == [[0.2]]  # nobody computed 0.1
    assert bench.sample("cancelled_items_total", tower="text", stage=stage) == 1


async def test_a_caption_that_fails_fails_for_all_that_wait_and_is_tried_again_later(bench: Bench) -> None:
    first = bench.texts(f"{BROKEN}")
    await bench.backend.next_pass()
    second = bench.texts(f"{BROKEN}", "0.5")
    await asyncio.sleep(0)
    bench.backend.permits.release(2)
    assert await angles(first) == [None]
    assert await angles(second) == [None, 0.5]
    third = bench.texts(f"{BROKEN}")
    bench.backend.permits.release(1)
    assert await angles(third) == [None]
    assert await bench.backend.rows_of(2) == [[0.5], [BROKEN]]


async def test_an_interactive_caller_takes_a_bulk_caption_along(bench: Bench) -> None:
    bench.texts("2.0")
    await bench.backend.next_pass()
    bulk = bench.texts("0.1", "0.2", priority=BULK)
    await asyncio.sleep(0)
    interactive = bench.texts("0.2")
    await asyncio.sleep(0)
    bench.backend.permits.release(3)
    assert await angles(interactive) == [0.2]
    assert await angles(bulk) == [0.1, 0.2]
    assert await bench.backend.rows_of(2) == [[0.2], [0.1]]


async def test_long_captions_go_another_way_to_the_same_place(bench: Bench) -> None:
    bench.backend.permits.release(10)
    longest = " " * 2000 + "0.1"
    assert await angles(bench.texts(longest, "odd", "0.3")) == [0.1, None, 0.3]
    assert await angles(bench.texts(longest, "0.1")) == [0.1, 0.1]
    assert bench.lookups() == [2, 0, 3]


async def test_a_caller_that_leaves_frees_its_room_at_once(bench: Bench) -> None:
    running = bench.images(b"0.5")
    await bench.backend.next_pass()
    leaving = bench.images(*[b"0.1"] * 20)
    await asyncio.sleep(0)
    assert bench.sample("admitted_items", tower="image") == 21
    assert bench.sample("admitted_bytes", tower="image") == 21 * (3 + 16)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert bench.sample("admitted_items", tower="image") == 1
    bench.backend.permits.release(1)
    assert await angles(running) == [0.5]
    assert bench.backend.passes.empty()


async def test_what_could_not_be_answered_in_time_is_refused_at_once(bench: Bench) -> None:
    bench.texts("2.0")
    await bench.backend.next_pass()
    waiting = bench.texts(*(f"0.{n}" for n in range(1, 9)))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="an answer of the text tower is expected in") as caught:
        await bench.embedder.embed_texts(["1.0"], time.monotonic() + 5.0)  # about nine seconds' worth is ahead
    assert 4.5 <= (caught.value.retry_after_seconds or 0) < 9
    bench.backend.permits.release(4)
    assert None not in await angles(waiting)
    assert await angles(asyncio.ensure_future(bench.embedder.embed_texts(["0.1"], time.monotonic() + 0.5))) == [0.1]


async def test_a_stream_waits_for_room(bench: Bench) -> None:
    rooms = [await bench.embedder.wait_for_room(Tower.IMAGE, [b"0.1"] * 256) for _ in range(4)]
    waiting = asyncio.ensure_future(bench.embedder.wait_for_room(Tower.IMAGE, [b"0.1"]))
    bench.backend.permits.release(1)
    assert await angles(bench.images(b"0.2")) == [0.2]  # a unary call has its own half
    assert not waiting.done()
    rooms[0].release()
    with await asyncio.wait_for(waiting, 20):
        assert bench.sample("admitted_items", tower="image") == 3 * 256 + 1
    for room in rooms:
        room.release()
    assert bench.sample("admitted_items", tower="image") == 0
