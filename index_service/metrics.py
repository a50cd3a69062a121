"""Metrics of the index service.

Owns their names and help texts. A leaf: it is told what happened and asks nobody.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service_runtime.rpc_metrics import LATENCY_BUCKETS

RECALL_BUCKETS = (0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
"""Shares of the exact hits, close together where an objective is likely to lie."""


@dataclass(slots=True)
class Stopwatch:
    """How long something took, in seconds; 0 until it has ended."""

    seconds: float = 0.0


class IndexMetrics:
    """What is counted inside the service, over all collections."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._stage_seconds = Histogram(
            "eyebright_index_stage_latency_seconds",
            "Time of one stage, in seconds: filter (preparing all shards for one, columns that are built included), "
            "shard_search (all shards, for queries that are searched together), "
            "merge (the ids of the hits, and their vectors), read_records (what else include asks for), "
            "commit (one durable commit of one shard), "
            "rebuild (a shard's memory from its disk), seal (a memtable into a segment), "
            "merge_segments (several segments into one).",
            ("stage",),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._stages: dict[str, Histogram] = {}
        """The histogram of each stage: looking it up costs more than counting."""
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
        self._probe_recall = Histogram(
            "eyebright_index_probe_recall",
            "Share of the exact best min(k, 100) hits that an approximate answer held, for live queries that "
            "were sampled and answered again exactly; _count is the number of them.",
            ("collection", "modality", "recipe"),
            buckets=RECALL_BUCKETS,
            registry=registry,
        )
        self.probes_dropped = Counter(
            "eyebright_index_probes_dropped",
            "Sampled queries that were not answered again: queue_full (as many waited as may), too_old (not done in a "
            "minute), outdated (the collection was closed, or came to be searched otherwise), failed.",
            ("reason",),
            registry=registry,
        )
        self._probes_waiting = Gauge(
            "eyebright_index_probes_waiting",
            "Sampled queries that wait to be answered again, the one under way included.",
            registry=registry,
        )
        self._probe_lag_seconds = Gauge(
            "eyebright_index_probe_lag_seconds",
            "Age of the oldest of them, in seconds; 0 without any.",
            registry=registry,
        )

    def watch(
        self, records: Callable[[], int], collections: Callable[[], int], read_only_shards: Callable[[], int]
    ) -> None:
        """Ask these functions whenever the gauges are read."""
        self._records.set_function(records)
        self._collections.set_function(collections)
        self._read_only_shards.set_function(read_only_shards)

    def watch_probes(self, waiting: Callable[[], float], lag_seconds: Callable[[], float]) -> None:
        """Ask these functions whenever the gauges are read."""
        self._probes_waiting.set_function(waiting)
        self._probe_lag_seconds.set_function(lag_seconds)

    def observe_recall(self, collection: str, modality: str, recipe: str, recall: float) -> None:
        """Count one query that was answered again exactly."""
        self._probe_recall.labels(collection, modality, recipe).observe(recall)

    def forget_recall(self, collection: str, modality: str, recipe: str) -> None:
        """Say no more of what was observed."""
        self._probe_recall.remove(collection, modality, recipe)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stopwatch]:
        """Time a block as one stage."""
        stopwatch = Stopwatch()
        began = time.perf_counter()
        try:
            yield stopwatch
        finally:
            stopwatch.seconds = time.perf_counter() - began
            observed = self._stages.get(name)
            if observed is None:
                observed = self._stages[name] = self._stage_seconds.labels(name)
            observed.observe(stopwatch.seconds)
