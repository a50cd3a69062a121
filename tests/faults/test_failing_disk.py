"""The disk refuses at every named point: the caller is told, nothing acknowledged is lost, and a repeat works."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service import fault_points
from index_service.catalog import Catalog
from index_service.collection import Collection, UpsertBatch
from index_service.compaction import Policy
from index_service.index_config import Modality
from index_service.metrics import IndexMetrics
from index_service.recipes import FASTSCAN
from index_service.records import Delete, Record
from index_service.search import QueryAnswer, SearchOptions
from index_service.shard import Shard
from index_service.snapshot_task import Task
from index_service.snapshots import Snapshots
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers
from service_runtime.errors import ResourceExhausted, ServiceError, Unavailable

DIMENSION = 8
SPACE = VectorSpace(DIMENSION, "ab" * 32, Metric.COSINE)
ROWS = 300
ERRORS = {"ENOSPC": ResourceExhausted, "EIO": Unavailable}


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
        [faults] = self.collection.upsert([UpsertBatch([Record(own, f"caption of {own}") for own in ids], vectors)])
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
            assert stored.record == Record(own, f"caption of {own}")
            assert (stored.vector == known[own]).all()
        nearest = SearchOptions(1, exact=True)
        results = self.catalog.get(name).search_vectors(np.stack([known[own] for own in ids]), nearest).results
        assert [found.ids for found in results if isinstance(found, QueryAnswer)] == [[own] for own in ids]

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


WORK: dict[str, tuple[list[Callable[[Pets], None]], Callable[[Pets], None]]] = {
    "write": ([], Pets.write),
    "seal": ([Pets.write], Pets.seal),
    "merge": ([Pets.seal, Pets.write, Pets.seal, Pets.write, Pets.seal], Pets.merge),
    "config": ([], Pets.configure),
    "queries": ([], Pets.save_queries),
    "create": ([], Pets.create),
    "delete": ([Pets.create], Pets.delete),
    "snapshot": ([], Pets.snapshot),
    "restore": ([Pets.snapshot], Pets.restore),
}
"""What leads to a kind of point, and the work that passes it."""


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    fault_points.arm("")


def fail(pets: Pets, work: Callable[[Pets], None], kind: str, error: str, caplog: pytest.LogCaptureFixture) -> None:
    """Do the work while its point is armed: it says what failed, in the words of its kind."""
    if kind == "queries":  # nobody waits for it
        with caplog.at_level(logging.WARNING):
            work(pets)
        assert any(record.message == "queries not saved" for record in caplog.records)
        return
    expected = OSError if kind in ("seal", "merge") else ERRORS[error]
    with pytest.raises(expected) as raised:
        work(pets)
    if isinstance(raised.value, ServiceError):
        assert any(name in raised.value.message for name in ("'pets'", "'copy'", "'more'", str(pets.folder)))


@pytest.mark.parametrize("error", ["ENOSPC", pytest.param("EIO", marks=pytest.mark.long)])
@pytest.mark.parametrize("point", fault_points.POINTS)
def test_a_disk_that_refuses_once_is_told_of_and_got_over(
    point: str, error: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind = point.partition(".")[0]
    before, work = WORK[kind]
    with opened(tmp_path) as pets:
        pets.catalog.create("pets", SPACE, 1)
        pets.write()
        pets.seal()
        pets.shard.write([Delete(["1/7"])])
        del pets.model["1/7"]
        for step in before:
            step(pets)
        fault_points.arm(f"{point}:1:{error}")
        fail(pets, work, kind, error, caplog)
        pets.check()
        assert pets.shard.read_only == (kind == "write")
        if point != "snapshot.after_manifest_rename":  # whole, and refused to be written over
            work(pets)
        assert not pets.shard.read_only
        pets.check()
        pets.write()
        pets.seal()
        pets.check()
        model, refused, names = pets.model, pets.refused, [one.spec.name for one in pets.catalog.by_name()]
    with opened(tmp_path) as pets:
        pets.model, pets.refused = model, refused
        assert [one.spec.name for one in pets.catalog.by_name()] == names
        pets.check()
        pets.check_no_leftovers()


@pytest.mark.parametrize("point", [point for point in fault_points.POINTS if point.startswith(("seal.", "merge."))])
def test_compaction_that_fails_again_and_again_fills_no_disk(point: str, tmp_path: Path) -> None:
    """Each try writes a segment before it finds out, and must not leave it."""
    before, work = WORK[point.partition(".")[0]]
    with opened(tmp_path) as pets:
        pets.catalog.create("pets", SPACE, 1)
        for step in [Pets.write, *before]:
            step(pets)
        sizes: list[int] = []
        fault_points.arm(f"{point}:1+:ENOSPC")
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                work(pets)
            sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("segments/*/*")))
            pets.check()
        assert sizes == sizes[:1] * 3
        fault_points.arm("")
        work(pets)
        pets.check()
