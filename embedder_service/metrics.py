"""What the embedder counts, beside the calls.

Owns the names, labels and buckets. Knows nothing of who observes them.
"""

import math
import time
from collections.abc import Sequence
from threading import Lock
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from embedder_service.backends import Tower
from embedder_service.items import Item, Priority
from service_runtime.rpc_metrics import LATENCY_BUCKETS

BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 4096)
"""Upper bounds of the batch size, in items."""

BUSY_SECONDS = 10.0
"""Time constant of the busy ratio: what was 10 seconds ago counts 37 %, 30 seconds ago 5 %."""

Stage = Literal["decode", "queue", "forward"]
Reason = Literal["invalid", "items", "bytes", "deadline", "expired", "failed"]
Lookup = Literal["hit", "shared", "miss"]


class EmbedderMetrics:
    """Stages, batches, queues, rejections and the text cache, by tower ("text" or "image") where they have one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decode_seconds = Histogram(
            "eyebright_embedder_decode_seconds",
            "Seconds to decode one image.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.tokenise_seconds = Histogram(
            "eyebright_embedder_tokenise_seconds",
            "Seconds to tokenise the captions of one request that were not in the cache.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._queue_seconds = Histogram(
            "eyebright_embedder_queue_seconds",
            "Seconds that an item waited for the device.",
            ("tower", "priority"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._forward_seconds = Histogram(
            "eyebright_embedder_forward_seconds",
            "Seconds of one forward pass. The label batch is its size, rounded up to a power of two.",
            ("tower", "batch"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "eyebright_embedder_batch_size",
            "Items that shared one forward pass.",
            ("tower",),
            buckets=BATCH_SIZE_BUCKETS,
            registry=registry,
        )
        self._items = Counter(
            "eyebright_embedder_items",
            "Items that went through a forward pass; what the text cache answered is not among them.",
            ("tower", "priority"),
            registry=registry,
        )
        self._rejected_items = Counter(
            "eyebright_embedder_rejected_items",
            "Items not embedded, by reason: invalid (the item's own fault), items (the limit of items inside), bytes "
            "(the limit of bytes held), deadline (they could not have been answered in time), expired (their deadline "
            "passed while they waited), failed (the forward pass failed, or gave no vector of length 1).",
            ("tower", "reason"),
            registry=registry,
        )
        self._cancelled_items = Counter(
            "eyebright_embedder_cancelled_items",
            "Items for which nobody waited any more, by the stage that they got to: decode (or tokenising; not queued "
            "yet), queue (for the device), forward (embedded in vain).",
            ("tower", "stage"),
            registry=registry,
        )
        self.queue_items = Gauge(
            "eyebright_embedder_queue_items",
            "Items that wait for the device, those of the pass under way not counted.",
            ("tower", "priority"),
            registry=registry,
        )
        self.queue_cost_seconds = Gauge(
            "eyebright_embedder_queue_cost_seconds",
            "Expected time of the device for the items that wait for it, from measured passes.",
            ("tower", "priority"),
            registry=registry,
        )
        self.decode_queue_items = Gauge(
            "eyebright_embedder_decode_queue_items",
            "Images that wait to be decoded.",
            ("priority",),
            registry=registry,
        )
        self.admitted_items = Gauge(
            "eyebright_embedder_admitted_items",
            "Items taken in and not yet answered, from decoding to reply.",
            ("tower",),
            registry=registry,
        )
        self.admitted_bytes = Gauge(
            "eyebright_embedder_admitted_bytes",
            "Bytes held for them: as they came, and as the tower takes them.",
            ("tower",),
            registry=registry,
        )
        self.batch_limit = Gauge(
            "eyebright_embedder_batch_limit",
            "Most items of one forward pass; for a while less than at the start after one ran out of memory.",
            ("tower",),
            registry=registry,
        )
        self._device_busy_seconds = Counter(
            "eyebright_embedder_device_busy_seconds",
            "Seconds spent on forward passes; passes side by side count each.",
            ("tower",),
            registry=registry,
        )
        self.busy = BusyRatio()
        Gauge(
            "eyebright_embedder_device_busy_ratio",
            "Share of the time of late (about the last 10 seconds) that the device spent on forward passes, 0 to 1.",
            registry=registry,
        ).set_function(self.busy.now)
        self._text_cache_lookups = Counter(
            "eyebright_embedder_text_cache_lookups",
            "Captions looked up: hit (answered from the cache), shared (the same caption was under way), miss.",
            ("result",),
            registry=registry,
        )
        self.text_cache_bytes = Gauge(
            "eyebright_embedder_text_cache_bytes", "Bytes that the text cache holds.", registry=registry
        )
        self.canary_cosine = Gauge(
            "eyebright_embedder_canary_cosine",
            "Cosine of the canary's latest vector to its golden one; 0 when it could not be embedded, or while it is "
            "late because the device finishes no pass.",
            ("tower",),
            registry=registry,
        )
        self.canary_least_cosine = Gauge(
            "eyebright_embedder_canary_least_cosine",
            "The least cosine that keeps the service ready; by the precision that it computes in.",
            registry=registry,
        )
        self.model = Info("eyebright_embedder_model", "The checkpoint served.", registry=registry)
        # Looking a child up costs more than counting, and a series that is there from the start can be watched.
        self._queue = {
            (priority, tower): self._queue_seconds.labels(tower, priority) for priority in Priority for tower in Tower
        }
        self._embedded = {
            (priority, tower): self._items.labels(tower, priority) for priority in Priority for tower in Tower
        }
        self._batches = {tower: self._batch_size.labels(tower) for tower in Tower}
        self._busy_seconds = {tower: self._device_busy_seconds.labels(tower) for tower in Tower}
        self._lookups = {result: self._text_cache_lookups.labels(result) for result in get_args(Lookup)}
        reasons, stages = get_args(Reason), get_args(Stage)
        self._rejected = {
            (tower, reason): self._rejected_items.labels(tower, reason) for tower in Tower for reason in reasons
        }
        self._cancelled = {
            (tower, stage): self._cancelled_items.labels(tower, stage) for tower in Tower for stage in stages
        }
        self._passes: dict[tuple[Tower, int], Histogram] = {}

    def rejected(self, tower: Tower, reason: Reason, count: int = 1) -> None:
        """Items that get no vector."""
        self._rejected[tower, reason].inc(count)

    def cancelled(self, tower: Tower, stage: Stage, count: int = 1) -> None:
        """Items for which nobody waits any more."""
        self._cancelled[tower, stage].inc(count)

    def looked_up(self, result: Lookup, count: int) -> None:
        """Captions of one request."""
        if count:
            self._lookups[result].inc(count)

    def begin_batch(self, batch: Sequence[Item], began: float) -> None:
        """A batch goes to the device, at ``began`` on time.monotonic()'s scale."""
        self.busy.begin(began)
        for item in batch:
            self._queue[item.priority, item.tower].observe(began - item.queued)
            self._embedded[item.priority, item.tower].inc()

    def observe_pass(self, tower: Tower, size: int, seconds: float) -> None:
        """A forward pass that went well."""
        bucket = 1 << (size - 1).bit_length()
        observed = self._passes.get((tower, bucket))
        if observed is None:
            observed = self._passes[tower, bucket] = self._forward_seconds.labels(tower, str(bucket))
        observed.observe(seconds)
        self._batches[tower].observe(size)

    def end_batch(self, tower: Tower, began: float, ended: float) -> None:
        """The batch is done, in one pass or several."""
        self.busy.end(ended)
        self._busy_seconds[tower].inc(ended - began)


class BusyRatio:
    """Share of the time that a device was at work which computes ``at_once`` passes at a time, weighted by how long ago
    it was: the weight of a moment falls to 1/e in BUSY_SECONDS.
    """

    def __init__(self) -> None:
        self.at_once = 1
        self._lock = Lock()
        self._state = 0.0, time.monotonic(), 0
        """The ratio, when that was, and how many have been at work since."""

    def begin(self, now: float) -> None:
        """One begins, at ``now`` on time.monotonic()'s scale."""
        self._change(now, 1)

    def end(self, now: float) -> None:
        """One ends."""
        self._change(now, -1)

    def now(self) -> float:
        """The ratio at this moment, 0 to 1."""
        return self._at(time.monotonic())

    def _change(self, now: float, by: int) -> None:
        with self._lock:
            self._state = self._at(now), now, self._state[2] + by

    def _at(self, now: float) -> float:
        ratio, since, working = self._state
        kept = math.exp(-max(now - since, 0.0) / BUSY_SECONDS)
        return ratio * kept + (1 - kept) * min(working / self.at_once, 1.0)
