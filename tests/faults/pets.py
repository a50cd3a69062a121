"""A data folder opened in this process, with a collection and a model of all that it must hold."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from index_service.catalog import Catalog
from index_service.collection import Collection, UpsertBatch
from index_service.compaction import Policy
from index_service.filters import Comparison, Field, Kind, Operator
from index_service.index_config import Goal, Modality
from index_service.metrics import IndexMetrics
from index_service.recipes import FASTSCAN
from index_service.records import Record
from index_service.search import QueryAnswer, SearchOptions
from index_service.shard import Shard
from index_service.snapshot_task import Task
from index_service.snapshots import Snapshots
from index_service.tuning_task import TuningRequest
from index_service.tunings import Tunings
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers

DIMENSION = 8
SPACE = VectorSpace(DIMENSION, "ab" * 32, Metric.COSINE)
ROWS = 300


def record_of(record_id: str) -> Record:
    """What is written beside the vector."""
    return Record(record_id, f"caption of {record_id}", None, b'{"digit": %d}' % int(record_id[-1]))


@dataclass
class Pets:
    """A data folder with one collection, and what it must hold."""

    folder: Path
    catalog: Catalog
    model: dict[str, np.ndarray] = field(default_factory=dict)
    refused: dict[str, np.ndarray] = field(default_factory=dict)
    """Written without an acknowledgement: there or not."""
    batches: int = 0

    @property
    def collection(self) -> Collection:
        return self.catalog.get("pets")

    @property
    def shard(self) -> Shard:
        [shard] = self.collection.shards
        return shard

    @property
    def snapshots(self) -> Snapshots:
        return Snapshots(self.catalog, self.folder / "data", [str(self.folder / "snapshots")])

    def write(self) -> None:
        """Write a batch of new records. Raises the error that they were refused with."""
        self.batches += 1
        ids = [f"{self.batches}/{number}" for number in range(ROWS)]
        vectors = np.random.default_rng(self.batches).standard_normal((ROWS, DIMENSION)).astype(np.float32)
        written = dict(zip(ids, SPACE.prepare(vectors)[0].astype(np.float16), strict=True))
        self.refused |= written
        [faults] = self.collection.upsert([UpsertBatch([record_of(own) for own in ids], vectors)])
        if faults[0] is not None:
            assert set(map(type, faults)) == {type(faults[0])}
            raise faults[0]
        self.model |= written
        self.refused = {own: vector for own, vector in self.refused.items() if own not in written}

    def seal(self) -> None:
        while self.shard.compact(idle=False):
            pass

    def merge(self) -> None:
        while self.shard.compact(idle=True):
            pass

    def configure(self) -> None:
        build = FASTSCAN if self.collection.config.build is None else None
        self.collection.configure(lambda config: config.chosen(build, None))

    def save_queries(self) -> None:
        self.search(self.batches)
        self.collection.queries.save()

    def filter(self) -> None:
        self._check_filter("pets", set(self.model))

    def tune(self) -> None:
        """Begin a tuning, which a restart would begin again."""
        with closing(Tunings(self.catalog, 1)) as tunings:
            tunings.join(self.collection, TuningRequest(Goal()))

    def create(self) -> None:
        self.catalog.create("more", SPACE, 2)

    def delete(self) -> None:
        self.catalog.delete("more")

    def snapshot(self) -> None:
        self.snapshots.create("pets", str(self.folder / "snapshots" / "one"), Task())

    def restore(self) -> None:
        self.snapshots.restore(str(self.folder / "snapshots" / "one"), "copy", "", Task())

    def search(self, seed: int, name: str = "pets") -> QueryAnswer:
        """All records, nearest first to some query."""
        query = np.random.default_rng(seed).standard_normal((1, DIMENSION)).astype(np.float32)
        options = SearchOptions(100_000, exact=True, modality=Modality.IMAGE)
        [found] = self.catalog.get(name).search_vectors(query, options).results
        assert isinstance(found, QueryAnswer)
        return found

    def check(self, name: str = "pets") -> None:
        """Search and reading agree with the model, to the last record."""
        found = set(self.search(7, name).ids)
        assert set(self.model) <= found <= set(self.model) | set(self.refused)
        ids = sorted(found)
        known = self.model | self.refused
        for own, stored in zip(ids, self.catalog.get(name).read(ids, with_vectors=True), strict=True):
            assert stored is not None
            assert stored.vector is not None
            assert stored.record == record_of(own)
            assert (stored.vector == known[own]).all()
        some = ids[::7]
        nearest = SearchOptions(1, exact=True)
        results = self.catalog.get(name).search_vectors(np.stack([known[own] for own in some]), nearest).results
        assert [found.ids for found in results if isinstance(found, QueryAnswer)] == [[own] for own in some]
        self._check_filter(name, found)

    def _check_filter(self, name: str, ids: set[str]) -> None:
        where = Comparison(Field(("digit",)), Operator.EQUAL, Kind.NUMBER, 3)
        everything = SearchOptions(100_000, exact=True, where=where)
        [found] = self.catalog.get(name).search_vectors(np.ones((1, DIMENSION), np.float32), everything).results
        assert isinstance(found, QueryAnswer)
        assert set(found.ids) == {own for own in ids if own.endswith("3")}

    def check_no_leftovers(self) -> None:
        """After a start nothing lies about that does not count."""
        collections = self.folder / "data" / "collections"
        assert {path.name for path in collections.iterdir()} == {one.spec.name for one in self.catalog.by_name()}
        assert not [*collections.rglob(".writing-*"), *(self.folder / "data").glob("snapshotting/*")]
        segments = {view.segment.name for view in self.shard.view.segments}
        assert {path.name for path in (collections / "pets" / "shard-000" / "segments").iterdir()} == segments
        assert not list(collections.rglob("quarantine"))


@contextmanager
def opened(folder: Path) -> Iterator[Pets]:
    policy = Policy(index_from_rows=1_000, seal_rows=256)
    with (
        closing(Workers(2)) as workers,
        closing(Catalog(folder / "data", workers, IndexMetrics(CollectorRegistry()), policy)) as catalog,
    ):
        yield Pets(folder, catalog)
