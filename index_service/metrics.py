"""Metrics of what happens in the index service.

Owns their names and help texts. A leaf: it is told what happened and asks nobody. What there is at a moment is in
``state_metrics``.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from index_service.collection_labels import CollectionLabels
from service_runtime.rpc_metrics import LATENCY_BUCKETS
from service_runtime.tracing import record_stage

RECALL_BUCKETS = (0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
"""Shares of the exact hits, close together where an objective is likely to lie."""

Stage = Literal[
    "queue", "filter", "shard_search", "merge", "read_records", "stall", "commit", "rebuild", "seal", "merge_segments"
]
Threads = Literal["small_search", "request"]
DropReason = Literal["queue_full", "too_old", "outdated", "failed"]
CompactionWork = Literal["seal", "merge"]


@dataclass(slots=True)
class Stopwatch:
    """How long something took, in seconds; 0 until it has ended."""

    seconds: float = 0.0


class IndexMetrics:
    """What is counted inside the service, over all collections."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._stage_seconds = Histogram(
            "eyebright_index_stage_latency_seconds",
            "Time of one stage, in seconds: queue (a request's wait for a thread), "
            "filter (preparing all shards for one, columns that are built included), "
            "shard_search (all shards, for queries that are searched together), "
            "merge (the ids of the hits, and their vectors), read_records (what else include asks for), "
            "stall (a write's wait while memory is full of what is not sealed yet), commit (one durable commit of one "
            "shard), "
            "rebuild (a shard's memory from its disk), seal (a memtable into a segment), "
            "merge_segments (several segments into one).",
            ("stage",),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        # A series that is there from the start can be watched, and looking it up costs more than counting.
        self._stages = {stage: self._stage_seconds.labels(stage) for stage in get_args(Stage)}
        self._queues: dict[Threads, set[object]] = {threads: set() for threads in get_args(Threads)}
        self._queued = Gauge(
            "eyebright_index_queued",
            "What waits: small_search (searches with few queries and hits, for a thread), request (others, the same), "
            "core (searches, for a core), commit (writes, for the commit before theirs).",
            ("queue",),
            registry=registry,
        )
        for threads, waiting in self._queues.items():
            self._queued.labels(threads).set_function(waiting.__len__)
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
        self._compaction_failures = Counter(
            "eyebright_index_compaction_failures",
            "Pieces of background work that failed and are tried again: seal, merge (of segments).",
            ("work",),
            registry=registry,
        )
        self._failures = {work: self._compaction_failures.labels(work) for work in get_args(CompactionWork)}
        self.collections = CollectionLabels()
        self._probe_recall = Histogram(
            "eyebright_index_probe_recall",
            "Share of the exact best min(k, 100) hits that an approximate answer held, for live queries that "
            "were sampled and answered again exactly; _count is the number of them.",
            ("collection", "modality", "recipe"),
            buckets=RECALL_BUCKETS,
            registry=registry,
        )
        self._probes_dropped = Counter(
            "eyebright_index_probes_dropped",
            "Sampled queries that were not answered again: queue_full (as many waited as may), too_old (not done in a "
            "minute), outdated (the collection was closed, or came to be searched otherwise), failed.",
            ("reason",),
            registry=registry,
        )
        self._dropped = {reason: self._probes_dropped.labels(reason) for reason in get_args(DropReason)}
        self._probes_waiting = Gauge(
            "eyebright_index_probes_waiting",
            "Sampled queries that wait to be answered again, the one under way included.",
            registry=registry,
        )
        self._probe_lag_seconds = Gauge(
            "eyebright_index_probe_lag_seconds",
            "Age of the oldest of these queries, in seconds; 0 without any.",
            registry=registry,
        )

    def watch_queues(self, searches: Callable[[], int], writes: Callable[[], int]) -> None:
        """Ask these functions whenever the gauges are read: searches that wait for a core, writes for a commit."""
        self._queued.labels("core").set_function(searches)
        self._queued.labels("commit").set_function(writes)

    def watch_probes(self, waiting: Callable[[], float], lag_seconds: Callable[[], float]) -> None:
        """Ask these functions whenever the gauges are read."""
        self._probes_waiting.set_function(waiting)
        self._probe_lag_seconds.set_function(lag_seconds)

    def observe_recall(self, collection: str, modality: str, recipe: str, recall: float) -> None:
        """Count one query that was answered again exactly."""
        self._probe_recall.labels(self.collections.label(collection), modality, recipe).observe(recall)

    def forget_collection(self, collection: str, observed: Iterable[tuple[str, str]]) -> None:
        """Say no more of a collection that was closed, and of its recall by these modalities and recipes."""
        if self.collections.remove(collection):
            for modality, recipe in observed:
                self._probe_recall.remove(collection, modality, recipe)

    def drop_probe(self, reason: DropReason) -> None:
        """Count one sampled query that is not answered again."""
        self._dropped[reason].inc()

    def compaction_failed(self, work: CompactionWork) -> None:
        """Count one piece of background work that failed."""
        self._failures[work].inc()

    @contextmanager
    def queued(self, threads: Threads) -> Iterator[Callable[[], None]]:
        """Count a request as waiting until the function is called that the block gets, or the block ends."""
        waiting, token, began = self._queues[threads], object(), time.monotonic()

        def begin() -> None:
            waiting.discard(token)
            self._observe("queue", began)

        waiting.add(token)
        try:
            yield begin
        finally:
            waiting.discard(token)

    @contextmanager
    def stage(self, name: Stage) -> Iterator[Stopwatch]:
        """Time a block as one stage."""
        stopwatch = Stopwatch()
        began = time.monotonic()
        try:
            yield stopwatch
        finally:
            stopwatch.seconds = self._observe(name, began)

    def _observe(self, name: Stage, began: float) -> float:
        """Count a stage that ends now, and tell the trace of the call that it belongs to, if any. Its seconds.

        A commit that several calls share stands in the trace of the one whose thread made it.
        """
        ended = time.monotonic()
        seconds = ended - began
        self._stages[name].observe(seconds)
        record_stage(name, seconds, ended)
        return seconds
