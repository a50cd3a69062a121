"""Metrics of the index service.

Owns their names and help texts. A leaf: it is told what happened and asks nobody.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service_runtime.rpc_metrics import LATENCY_BUCKETS


@dataclass(slots=True)
class Stopwatch:
    """How long something took, in seconds; 0 until it has ended."""

    seconds: float = 0.0


class IndexMetrics:
    """What is counted inside the service, over all collections."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._stage_seconds = Histogram(
            "eyebright_index_stage_latency_seconds",
            "Time of one stage, in seconds: shard_search (one shard, queries of a request that are searched together), "
            "merge (the shards' hits), read_records (what include asks for), commit (one durable commit of one shard), "
            "rebuild (a shard's memory from its disk), seal (a memtable into a segment), "
            "merge_segments (several segments into one).",
            ("stage",),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.rows_scanned = Counter(
            "eyebright_index_rows_scanned",
            "Vectors compared with queries, counted once for each query.",
            registry=registry,
        )
        self.write_batches = Counter(
            "eyebright_index_write_batches",
            "Write batches applied by shards; batches that waited together share one commit.",
            registry=registry,
        )
        self._records = Gauge(
            "eyebright_index_records", "Records that can be found, over all collections.", registry=registry
        )
        self._collections = Gauge("eyebright_index_collections", "Collections.", registry=registry)
        self._read_only_shards = Gauge(
            "eyebright_index_read_only_shards",
            "Shards whose last write failed for want of disk space or a fault of the disk.",
            registry=registry,
        )

    def watch(
        self, records: Callable[[], int], collections: Callable[[], int], read_only_shards: Callable[[], int]
    ) -> None:
        """Ask these functions whenever the gauges are read."""
        self._records.set_function(records)
        self._collections.set_function(collections)
        self._read_only_shards.set_function(read_only_shards)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stopwatch]:
        """Time a block as one stage."""
        stopwatch = Stopwatch()
        began = time.perf_counter()
        try:
            yield stopwatch
        finally:
            stopwatch.seconds = time.perf_counter() - began
            self._stage_seconds.labels(name).observe(stopwatch.seconds)
