"""What the embedder counts, beside the calls.

Owns the names, labels and buckets. Knows nothing of who observes them.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from service_runtime.rpc_metrics import LATENCY_BUCKETS

BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 4096)
"""Upper bounds of the batch size, in items."""


class EmbedderMetrics:
    """Stage latencies, batches, queues and rejections, each by tower ("text" or "image")."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stage_latency_seconds = Histogram(
            "eyebright_embedder_stage_latency_seconds",
            "Seconds in one stage: decode (one image), tokenise (the captions of one request), queue (one item's wait "
            "for the device), forward (one pass of a tower, whatever its batch size).",
            ("stage", "tower"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "eyebright_embedder_batch_size",
            "Items that shared one forward pass.",
            ("tower",),
            buckets=BATCH_SIZE_BUCKETS,
            registry=registry,
        )
        self.items = Counter("eyebright_embedder_items", "Items embedded.", ("tower",), registry=registry)
        self.rejected_items = Counter(
            "eyebright_embedder_rejected_items",
            "Items not embedded, by reason: invalid (the item's own fault), overload (the queue limit), expired (their "
            "deadline passed), cancelled (nobody waits), failed (the forward pass raised).",
            ("tower", "reason"),
            registry=registry,
        )
        self.queue_depth = Gauge(
            "eyebright_embedder_queue_depth", "Items that wait for the device.", ("tower",), registry=registry
        )
        self.admitted_items = Gauge(
            "eyebright_embedder_admitted_items",
            "Items taken in and not yet answered, from decoding to reply.",
            ("tower",),
            registry=registry,
        )
        self.model = Info("eyebright_embedder_model", "The checkpoint served.", registry=registry)
