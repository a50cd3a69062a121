"""The threads that decode images.

Owns how many decode at a time and whose image is next. Knows nothing of what becomes of the pixels, and how they come
about only by ImageDecoder.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from threading import Condition, Thread

from embedder_service.backends import Tower
from embedder_service.images import ImageDecoder
from embedder_service.items import Item, Priority
from embedder_service.metrics import EmbedderMetrics
from embedder_service.schedule import BulkFloor
from service_runtime.errors import DeadlineExceeded, InvalidArgument, ServiceError, Unavailable
from service_runtime.memory import give_memory_back

_logger = logging.getLogger("eyebright.embedder.decoding")

_TIDY_SECONDS = 5.0
"""How often freed memory is given back while images come. Files and pictures of all sizes, in many threads, would keep
100 MB of it after a few thousand."""

_WEIGHT = 0.05
"""Of the newest image in the average time of one."""


class DecodePool:
    """Decodes items for callers on one event loop, interactive ones first, and hands them on from its threads.

    ``hand_on`` gets items whose row is made, and those for which nobody waits any more.
    """

    def __init__(
        self,
        decoder: ImageDecoder,
        threads: int,
        bulk_share: float,
        hand_on: Callable[[Sequence[Item]], None],
        metrics: EmbedderMetrics,
    ) -> None:
        self._decoder = decoder
        self._hand_on = hand_on
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[Priority, OrderedDict[Item, None]] = {priority: OrderedDict() for priority in Priority}
        self._floor = BulkFloor(bulk_share)
        self._changed = Condition()
        self._stopping = False
        self._image_seconds = 0.0
        self._tidied = time.monotonic()
        for priority, lane in self._lanes.items():
            metrics.decode_queue_items.labels(priority).set_function(lane.__len__)
        self._threads = [Thread(target=self._run, name=f"decode-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def put(self, items: Iterable[Item]) -> None:
        """Have encoded images decoded, in order."""
        with self._changed:
            count = 0
            for item in items:
                self._lanes[item.priority][item] = None
                count += 1
            self._changed.notify(count)

    def withdraw(self, item: Item) -> bool:
        """Take out an item for which nobody waits any more; whether its turn had not come yet."""
        with self._changed:
            lane = self._lanes[item.priority]
            if item not in lane:
                return False
            del lane[item]
        self._metrics.cancelled(Tower.IMAGE, "decode")
        item.drop()
        return True

    def waiting(self, priority: Priority) -> int:
        """Images whose turn has not come yet."""
        return len(self._lanes[priority])

    def clearing_seconds(self, count: int) -> float:
        """Expected time to decode so many images."""
        return self._image_seconds * count / len(self._threads)

    async def stop(self) -> None:
        """End the threads after the images they are at; those that wait fail with Unavailable."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        for lane in self._lanes.values():
            for item in lane:
                item.fail(Unavailable("the service is stopping"))
            lane.clear()

    def _run(self) -> None:
        while (item := self._take()) is not None:
            self._decode(item)
            self._tidy()

    def _tidy(self) -> None:
        now = time.monotonic()
        if now - self._tidied > _TIDY_SECONDS:
            self._tidied = now
            give_memory_back()

    def _take(self) -> Item | None:
        interactive, bulk = self._lanes[Priority.INTERACTIVE], self._lanes[Priority.BULK]
        with self._changed:
            while not self._stopping:
                if bulk and (not interactive or self._floor.is_due(self._image_seconds)):
                    return bulk.popitem(last=False)[0]
                if interactive:
                    return interactive.popitem(last=False)[0]
                self._changed.wait()
        return None

    def _decode(self, item: Item) -> None:
        began = time.monotonic()
        if item.deadline <= began:
            self._metrics.rejected(Tower.IMAGE, "expired")
            self._fail(item, DeadlineExceeded("the deadline passed before the image was decoded"))
            return
        assert isinstance(item.source, bytes)
        try:
            item.row = self._decoder.decode(item.source, "")
        except InvalidArgument as fault:
            self._metrics.rejected(Tower.IMAGE, "invalid")
            self._fail(item, fault)
        except Exception:
            _logger.exception("decoding failed", extra={"image_bytes": len(item.source)})
            self._metrics.rejected(Tower.IMAGE, "failed")
            self._fail(item, ServiceError("internal error: decoding failed"))
        item.source = b""
        ended = time.monotonic()
        item.prepared = began, ended
        self._count(item, ended - began)
        if item.row is not None:
            self._hand_on([item])

    def _fail(self, item: Item, error: ServiceError) -> None:
        self._loop.call_soon_threadsafe(item.fail, error)

    def _count(self, item: Item, seconds: float) -> None:
        self._metrics.decode_seconds.observe(seconds)
        is_bulk = item.priority is Priority.BULK
        with self._changed:
            self._image_seconds += (seconds - self._image_seconds) * (_WEIGHT if self._image_seconds else 1.0)
            self._floor.charge(
                0.0 if is_bulk else seconds, seconds if is_bulk else 0.0, bulk_waits=bool(self._lanes[Priority.BULK])
            )
