"""Captions and encoded images in, vectors and faults out.

Owns the way of one request through admission, decoding or tokenising, the cache, the queue and the forward pass, and
what it took. Knows no protobuf and no torch.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from embedder_service.admission import Admission, Room
from embedder_service.backends import Backend, Tower
from embedder_service.batcher import Batcher
from embedder_service.decoding import DecodePool
from embedder_service.forecast import Expectation, Forecast
from embedder_service.images import ImageDecoder
from embedder_service.items import Answer, Item, Priority
from embedder_service.metrics import EmbedderMetrics
from embedder_service.settings import EmbedderSettings
from embedder_service.text_cache import TextCache
from embedder_service.texts import CaptionTokenizer, TokenisedCaption
from embedder_service.tower_cost import TowerCost
from service_runtime.cores import usable_cores
from service_runtime.errors import FailedPrecondition, InvalidArgument, ServiceError
from service_runtime.tracing import record_stage

_logger = logging.getLogger("eyebright.embedder")

_AT_ONCE_CHARACTERS = 1024
"""Captions of a request that are together no longer than this are normalised and tokenised in the event loop: that
takes less time than handing them to a thread and back."""

_NOTHING_EXPECTED = Expectation(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds by stage, as EmbedTimings states them."""

    decode_seconds: float
    queue_seconds: float
    forward_seconds: float


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The answer to one request of n items."""

    vectors: np.ndarray
    """(n, dimension) float32; the row of an item that failed is all zeros."""
    faults: dict[int, ServiceError]
    """What was wrong, by position."""
    timings: Timings
    truncated: list[int] = field(default_factory=list)
    """Positions of captions that were cut."""


class Embedder:
    """Embeds requests for callers on one event loop. ``stop()`` it at the end.

    Deadlines are on time.monotonic()'s scale.
    """

    def __init__(
        self,
        tokenizer: CaptionTokenizer,
        decoder: ImageDecoder,
        backend: Backend,
        dimension: int,
        costs: Mapping[Tower, TowerCost],
        settings: EmbedderSettings,
        metrics: EmbedderMetrics,
        workers: int = 1,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._tokenizer = tokenizer
        self._towers = backend.towers
        self._dimension = dimension
        self._max_items = settings.max_items
        self._metrics = metrics
        self.batcher = Batcher(backend, costs, settings.bulk_share, metrics, workers)
        threads = settings.decode_threads or usable_cores()
        self._decoding = DecodePool(decoder, threads, settings.bulk_share, self.batcher.put, metrics)
        # Captions have a thread of their own, so that none stands behind hundreds of images.
        self._tokenisers = ThreadPoolExecutor(1, "tokenise")
        self._cache = TextCache(settings.text_cache_bytes)
        metrics.text_cache_bytes.set_function(lambda: self._cache.held_bytes)
        self._forecast = Forecast(costs, settings.bulk_share, self.batcher, self._decoding, self.batcher.passes_at_once)
        self._admission = {
            tower: Admission(tower, settings.queue_limit, settings.queue_bytes, metrics) for tower in Tower
        }
        self._row_bytes = {Tower.TEXT: 8 * tokenizer.layout.length, Tower.IMAGE: decoder.row_bytes}

    async def stop(self) -> None:
        """End every thread; what still waits fails with Unavailable."""
        await self._decoding.stop()
        self._tokenisers.shutdown(cancel_futures=True)
        await self.batcher.stop()

    async def wait_for_room(self, tower: Tower, items: Sequence[str] | Sequence[bytes] | np.ndarray) -> Room:
        """Room for a request of a stream, as soon as there is some."""
        return await self._admission[tower].wait(len(items), self._held_bytes(tower, items))

    async def embed_texts(
        self,
        texts: Sequence[str],
        deadline: float,
        priority: Priority = Priority.INTERACTIVE,
        room: Room | None = None,
        recompute: bool = False,
    ) -> Embeddings:
        """Embed captions by ``deadline``. ``room`` is what a stream has waited for; ``recompute`` passes the cache by.

        Raises InvalidArgument for a wrong number of captions, FailedPrecondition without a text tower,
        ResourceExhausted when there is no room or no time for them, DeadlineExceeded, and Unavailable when the service
        stops.
        """
        self._check(Tower.TEXT, len(texts), "texts")
        answer = Answer(len(texts), self._dimension, "texts")
        cache = TextCache(0) if recompute else self._cache
        at_once = sum(map(len, texts)) <= _AT_ONCE_CHARACTERS
        if at_once:
            checked = self._tokenizer.check(texts)
        else:
            checked = await self._loop.run_in_executor(self._tokenisers, self._tokenizer.check, texts)
        wanted = self._look_up(cache, checked, answer)
        if wanted:
            fresh = sum(cache.under_way(text) is None for text in wanted)
            expected = self._forecast.expect(Tower.TEXT, priority, fresh) if fresh else _NOTHING_EXPECTED
            with room or self._admitted(Tower.TEXT, priority, wanted, deadline, expected):
                items = self._join(cache, wanted, answer, priority, deadline)
                if not at_once:
                    self._tokenisers.submit(self._tokenise, items)
                elif items:
                    self._tokenise(items)
                await self._collect(answer, expected, "tokenise")
        return _embeddings(answer)

    async def embed_images(
        self,
        images: Sequence[bytes] | np.ndarray,
        deadline: float,
        priority: Priority = Priority.INTERACTIVE,
        room: Room | None = None,
    ) -> Embeddings:
        """Embed encoded images, or pixels as ImageDecoder makes them, by ``deadline``. ``room`` is what a stream has
        waited for.

        Raises InvalidArgument for a wrong number of images, FailedPrecondition without an image tower,
        ResourceExhausted when there is no room or no time for them, DeadlineExceeded, and Unavailable when the service
        stops.
        """
        self._check(Tower.IMAGE, len(images), "images")
        expected = self._forecast.expect(Tower.IMAGE, priority, len(images))
        with room or self._admitted(Tower.IMAGE, priority, images, deadline, expected):
            answer = Answer(len(images), self._dimension, "images")
            if isinstance(images, np.ndarray):
                items = [Item(Tower.IMAGE, priority, deadline, row=pixels) for pixels in images]
                next_stage: Batcher | DecodePool = self.batcher
            else:
                items = [Item(Tower.IMAGE, priority, deadline, encoded) for encoded in images]
                next_stage = self._decoding
            for position, item in enumerate(items):
                answer.expect(item, position)
            next_stage.put(items)
            await self._collect(answer, expected, "decode")
            return _embeddings(answer)

    def _check(self, tower: Tower, count: int, field_name: str) -> None:
        if tower not in self._towers:
            raise FailedPrecondition(f"the {tower} tower is not loaded; loaded here: {', '.join(self._towers)}")
        if not 1 <= count <= self._max_items:
            raise InvalidArgument(f"expected 1 to {self._max_items} items, not {count}", field=field_name)

    def _held_bytes(self, tower: Tower, items: Iterable[str] | Iterable[bytes] | np.ndarray) -> int:
        """What a request holds until it is answered: its items as they came and as the tower takes them."""
        if isinstance(items, np.ndarray):  # these are both
            return items.nbytes
        return sum(len(item) + self._row_bytes[tower] for item in items)

    def _look_up(
        self, cache: TextCache, checked: Sequence[str | InvalidArgument], answer: Answer
    ) -> dict[str, list[int]]:
        """Answer what can be answered at once; the rest, as {normalised caption: positions}."""
        wanted: dict[str, list[int]] = {}
        hits = 0
        for position, text in enumerate(checked):
            if isinstance(text, InvalidArgument):
                self._metrics.rejected(Tower.TEXT, "invalid")
                answer.refuse(position, text)
            elif (known := cache.get(text)) is not None:
                answer.put(position, known.vector, known.truncated)
                hits += 1
            else:
                wanted.setdefault(text, []).append(position)
        self._metrics.looked_up("hit", hits)
        return wanted

    def _admitted(
        self,
        tower: Tower,
        priority: Priority,
        items: Collection[str] | Sequence[bytes] | np.ndarray,
        deadline: float,
        expected: Expectation,
    ) -> Room:
        return self._admission[tower].admit(
            priority, len(items), self._held_bytes(tower, items), deadline - time.monotonic(), expected
        )

    def _join(
        self, cache: TextCache, wanted: Mapping[str, list[int]], answer: Answer, priority: Priority, deadline: float
    ) -> list[Item]:
        """Have the answer wait for every caption, together with others where one is under way. The new items."""
        fresh = []
        for text, positions in wanted.items():
            item = cache.under_way(text)
            if item is None:
                item = Item(Tower.TEXT, priority, deadline, text)
                cache.begin(text, item)
                fresh.append(item)
            else:
                item.deadline = max(item.deadline, deadline)
                if priority is Priority.INTERACTIVE and item.priority is Priority.BULK:
                    self.batcher.promote(item)
            for position in positions:
                answer.expect(item, position)
        self._metrics.looked_up("miss", len(fresh))
        self._metrics.looked_up("shared", sum(map(len, wanted.values())) - len(fresh))
        return fresh

    def _tokenise(self, items: Sequence[Item]) -> None:
        """From a caption to a row and into the queue, in any thread."""
        began = time.monotonic()
        outcomes: Sequence[TokenisedCaption | ServiceError]
        try:
            outcomes = self._tokenizer.encode([str(item.source) for item in items])
        except Exception:
            _logger.exception("tokenising failed", extra={"captions": len(items)})
            outcomes = [ServiceError("internal error: tokenising failed")] * len(items)
        ended = time.monotonic()
        self._metrics.tokenise_seconds.observe(ended - began)
        ready = []
        for item, outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, ServiceError):
                self._metrics.rejected(Tower.TEXT, "invalid" if isinstance(outcome, InvalidArgument) else "failed")
                self._loop.call_soon_threadsafe(item.fail, outcome)
            else:
                item.row, item.truncated, item.prepared = outcome.token_ids, outcome.truncated, (began, ended)
                ready.append(item)
        self.batcher.put(ready)

    async def _collect(self, answer: Answer, expected: Expectation, preparation: str) -> None:
        """Wait for the answer; when the caller goes away first, take out what nobody else waits for."""
        began, answered = time.monotonic(), False
        try:
            await answer.whole()
            answered = True
        finally:
            self._forecast.observe(expected, time.monotonic() - began, answered=answered)
            _record_stages(answer, preparation)
            for item in answer.leave():
                if not self._decoding.withdraw(item):
                    self.batcher.withdraw(item)


def _record_stages(answer: Answer, preparation: str) -> None:
    """Put a request's stages into its trace: those that EmbedTimings states, of the same length.

    A pass that items of many requests shared stands in the trace of each, with its whole length and the number of items
    in it: each of them waited for all of it. There is no span of the pass itself to link to, for it would belong to
    nobody's trace.
    """
    if answer.decode_seconds:
        record_stage(preparation, answer.decode_seconds, answer.decode_ended)
    if answer.queue_seconds:
        record_stage("queue", answer.queue_seconds, answer.queue_ended)
    if answer.forward_seconds:
        record_stage("forward", answer.forward_seconds, answer.forward_ended, answer.batch_size)


def _embeddings(answer: Answer) -> Embeddings:
    timings = Timings(answer.decode_seconds, answer.queue_seconds, answer.forward_seconds)
    return Embeddings(answer.vectors, answer.faults, timings, sorted(answer.truncated))
