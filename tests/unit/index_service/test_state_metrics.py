"""What metrics say of collections that are really there."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service.catalog import Catalog
from index_service.collection import UpsertBatch
from index_service.collection_labels import MOST_NAMED, OTHERS
from index_service.compaction import Policy
from index_service.index_config import Basis, Goal, Measured, Tuning
from index_service.metrics import IndexMetrics
from index_service.recipes import FASTSCAN, Effort
from index_service.records import Record
from index_service.state_metrics import CollectionState, StateMetrics
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers

SPACE = VectorSpace(8, "ab" * 32, Metric.COSINE)
POLICY = Policy(index_from_rows=5_000, seal_rows=256)


class Service:
    """A catalog, and the registry that tells of it."""

    def __init__(self, folder: Path, catalog: Catalog, metrics: IndexMetrics) -> None:
        self.catalog = catalog
        self.registry = CollectorRegistry()
        self.labels = metrics.collections
        self.state_metrics = StateMetrics(self.registry, folder, self.labels)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"eyebright_index_{name}", labels)

    def fill(self, name: str, count: int) -> None:
        items = [Record(f"{number}") for number in range(count)]
        vectors = np.random.default_rng(1).standard_normal((count, SPACE.dimension))
        self.catalog.get(name).upsert([UpsertBatch(items, vectors)])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    metrics = IndexMetrics(CollectorRegistry())
    with closing(Workers(1)) as workers, closing(Catalog(tmp_path, workers, metrics, POLICY)) as catalog:
        yield Service(tmp_path, catalog, metrics)


def test_nothing_is_said_before_there_is_anything_to_look_at(service: Service) -> None:
    assert [family.samples for family in service.registry.collect() if family.samples] == []


def test_records_are_told_by_collection_until_it_is_deleted(service: Service) -> None:
    service.state_metrics.watch(service.catalog.states)
    assert service.value("collections") == 0
    service.catalog.create("pets", SPACE, 2)
    service.catalog.create("birds", SPACE, 1)
    service.fill("pets", 20)
    assert service.value("collections") == 2
    assert service.value("records", collection="pets") == 20
    assert service.value("records", collection="birds") == 0
    service.catalog.delete("pets")
    assert service.value("records", collection="pets") is None


def test_memory_segments_and_disk_are_told_over_all(service: Service) -> None:
    service.state_metrics.watch(service.catalog.states)
    service.catalog.create("pets", SPACE, 1)
    [shard] = service.catalog.shards()
    service.fill("pets", 300)
    assert (service.value("memtable_rows"), service.value("memtable_bytes")) == (300, 300 * 8 * 2)
    assert service.value("segments", recipe="exact") is None
    assert shard.seal(idle=False)
    service.catalog.get("pets").delete(["0", "299"])
    assert (service.value("segments", recipe="exact"), service.value("segment_rows", recipe="exact")) == (1, 256)
    assert (service.value("memtable_rows"), service.value("tombstones")) == (44, 2)
    assert service.value("read_only_shards") == 0
    for kind in ("store", "wal", "segments"):
        assert (service.value("disk_bytes", kind=kind) or 0) > 4_000, kind
    assert service.value("disk_bytes", kind="columns") == 0
    told = sum(service.value("disk_bytes", kind=kind) or 0 for kind in ("store", "wal", "segments", "columns"))
    assert told == shard.stats().disk_bytes


def test_the_file_system_is_told_as_the_system_knows_it(service: Service, tmp_path: Path) -> None:
    service.state_metrics.watch(service.catalog.states)
    known = shutil.disk_usage(tmp_path)
    assert service.value("disk_size_bytes") == known.total
    assert service.value("disk_free_bytes") == pytest.approx(known.free, rel=0.2)


def test_a_target_is_told_once_a_collection_was_tuned(service: Service) -> None:
    service.state_metrics.watch(service.catalog.states)
    collection = service.catalog.create("pets", SPACE, 1)
    assert service.value("recall_target", collection="pets") is None
    chosen = Measured(FASTSCAN, Effort(), {}, None, None)
    tuning = Tuning(Goal(0.97), Basis.FEW_QUERIES, chosen, (), target_met=True, time_ns=1)
    collection.configure(lambda config: replace(config, tuning=tuning))
    assert service.value("recall_target", collection="pets") == 0.97


def test_however_many_collections_there_are_few_bear_their_names(service: Service) -> None:
    names = [f"pets-{number}" for number in range(MOST_NAMED + 5)]
    for name in names:
        service.labels.add(name)
    service.catalog.create("pets", SPACE, 1)
    service.fill("pets", 3)
    [state] = service.catalog.states()
    service.state_metrics.watch(lambda: [CollectionState(name, state.shards, 0.9) for name in names])
    assert service.value("collections") == MOST_NAMED + 5
    assert service.value("records", collection="pets-0") == 3
    assert service.value("records", collection=OTHERS) == 15
    assert service.value("recall_target", collection=OTHERS) is None
    series = [sample for family in service.registry.collect() for sample in family.samples]
    assert len(series) < 2 * MOST_NAMED + 20
