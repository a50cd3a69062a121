"""Metrics of what there is in the index service: records, segments, memory, disk.

Owns their names, and that one look at the collections serves them all. Knows shards by their stats alone.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from index_service.collection_labels import CollectionLabels
from index_service.shard_stats import ShardStats


@dataclass(frozen=True, slots=True)
class CollectionState:
    """What there is of one collection."""

    name: str
    shards: Sequence[ShardStats]
    recall_target: float | None
    """What it was tuned for; None before the first tuning."""


class StateMetrics(Collector):
    """Looked at whenever the metrics are read; silent until there is something to look at."""

    def __init__(self, registry: CollectorRegistry, data_folder: Path, labels: CollectionLabels) -> None:
        """``data_folder`` need not exist yet."""
        self._data_folder = data_folder
        self._labels = labels
        self._look: Callable[[], Iterable[CollectionState]] | None = None
        registry.register(self)

    def watch(self, look: Callable[[], Iterable[CollectionState]]) -> None:
        """Ask this function whenever the metrics are read."""
        self._look = look

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The metrics without their values."""
        yield from _Families().all()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics as they are now."""
        families = _Families()
        if self._look is not None:
            states = list(self._look())
            families.add_collections(states, self._labels)
            families.add_shards([shard for state in states for shard in state.shards])
            with suppress(OSError):
                families.add_disk(self._data_folder)
        yield from families.all()


class _Families:
    """The metrics of one look."""

    def __init__(self) -> None:
        self._collections = GaugeMetricFamily("eyebright_index_collections", "Collections that there are.")
        self._records = GaugeMetricFamily(
            "eyebright_index_records", "Records that can be found.", labels=["collection"]
        )
        self._recall_target = GaugeMetricFamily(
            "eyebright_index_recall_target",
            "Recall that a collection was tuned for, 0 to 1. None of those that never were, or are not named.",
            labels=["collection"],
        )
        self._segments = GaugeMetricFamily(
            "eyebright_index_segments", "Segments, by the recipe that they are searched by.", labels=["recipe"]
        )
        self._segment_rows = GaugeMetricFamily(
            "eyebright_index_segment_rows", "Vectors in segments, tombstones included.", labels=["recipe"]
        )
        self._tombstones = GaugeMetricFamily(
            "eyebright_index_tombstones", "Deleted or replaced vectors still held, in memory or in segments."
        )
        self._memtable_rows = GaugeMetricFamily(
            "eyebright_index_memtable_rows", "Vectors in memory that no segment holds yet, tombstones included."
        )
        self._memtable_bytes = GaugeMetricFamily("eyebright_index_memtable_bytes", "Bytes of the vectors in memory.")
        self._read_only_shards = GaugeMetricFamily(
            "eyebright_index_read_only_shards",
            "Shards whose last write failed for want of disk space or a fault of the disk.",
        )
        self._disk = GaugeMetricFamily(
            "eyebright_index_disk_bytes",
            "Bytes on disk by kind: store (SQLite), wal (its write-ahead logs), segments, columns (for filters).",
            labels=["kind"],
        )
        self._disk_free = GaugeMetricFamily(
            "eyebright_index_disk_free_bytes", "Bytes that can still be written to the file system of the data folder."
        )
        self._disk_size = GaugeMetricFamily(
            "eyebright_index_disk_size_bytes", "Bytes of the file system of the data folder."
        )

    def all(self) -> Iterator[GaugeMetricFamily]:
        """Every one."""
        yield from vars(self).values()

    def add_collections(self, states: Sequence[CollectionState], labels: CollectionLabels) -> None:
        """What is told by collection."""
        records: Counter[str] = Counter()
        for state in states:
            label = labels.label(state.name)
            records[label] += sum(shard.record_count for shard in state.shards)
            if label == state.name and state.recall_target is not None:
                self._recall_target.add_metric([label], state.recall_target)
        self._collections.add_metric([], len(states))
        _add_each(self._records, records)

    def add_shards(self, shards: Sequence[ShardStats]) -> None:
        """What is told of all shards together."""
        segments = [segment for shard in shards for segment in shard.segments]
        rows: Counter[str] = Counter()
        for segment in segments:
            rows[segment.recipe] += segment.rows
        _add_each(self._segments, Counter(segment.recipe for segment in segments))
        _add_each(self._segment_rows, rows)
        self._tombstones.add_metric([], sum(shard.tombstone_count for shard in shards))
        self._memtable_rows.add_metric([], sum(shard.memtable_rows for shard in shards))
        self._memtable_bytes.add_metric([], sum(shard.vector_bytes for shard in shards))
        self._read_only_shards.add_metric([], sum(shard.read_only for shard in shards))
        self._disk.add_metric(["store"], sum(shard.store_bytes for shard in shards))
        self._disk.add_metric(["wal"], sum(shard.log_bytes for shard in shards))
        self._disk.add_metric(["segments"], sum(shard.segment_bytes for shard in shards))
        self._disk.add_metric(["columns"], sum(shard.column_bytes for shard in shards))

    def add_disk(self, data_folder: Path) -> None:
        """What is told of the file system. Raises OSError."""
        usage = shutil.disk_usage(data_folder)
        self._disk_free.add_metric([], usage.free)
        self._disk_size.add_metric([], usage.total)


def _add_each(family: GaugeMetricFamily, counts: Counter[str]) -> None:
    for label, count in sorted(counts.items()):
        family.add_metric([label], count)
