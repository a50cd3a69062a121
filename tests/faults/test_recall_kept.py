"""Recall before and after a restart, a crash, a snapshot, a loss of segments and compaction: what is not built anew
answers to the bit as before, what is built anew about as well.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service.catalog import Catalog
from index_service.collection import Collection, UpsertBatch
from index_service.compaction import Policy
from index_service.metrics import IndexMetrics
from index_service.recipes import Build, Effort, Recipe
from index_service.records import Record
from index_service.search import QueryAnswer, SearchOptions
from index_service.snapshot_task import Task
from index_service.snapshots import Snapshots
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers

DIMENSION = 32
SPACE = VectorSpace(DIMENSION, "ab" * 32, Metric.COSINE)
ROWS = 6_000
K = 10
EFFORT = Effort(k_factor=6.0, probed_share=0.2, ef_search=60)
"""Little, so that some of the nearest are missed."""

Answers = list[tuple[list[str], list[float]]]


@contextmanager
def opened(folder: Path) -> Iterator[Catalog]:
    policy = Policy(index_from_rows=1_000, seal_rows=1_000)
    with (
        closing(Workers(2)) as workers,
        closing(Catalog(folder, workers, IndexMetrics(CollectorRegistry()), policy)) as catalog,
    ):
        yield catalog


def vectors(seed: int, count: int) -> np.ndarray:
    """Some clusters and much noise, as images have."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((50, DIMENSION))
    found: np.ndarray = centres[random.integers(0, 50, count)] + random.standard_normal((count, DIMENSION))
    return found.astype(np.float32)


def answers(collection: Collection, *, exact: bool) -> Answers:
    results = collection.search_vectors(vectors(9, 200), SearchOptions(K, exact=exact)).results
    return [(found.ids, found.scores.tolist()) for found in results if isinstance(found, QueryAnswer)]


def recall(collection: Collection) -> float:
    """ANN recall@10 of 200 queries."""
    pairs = zip(answers(collection, exact=False), answers(collection, exact=True), strict=True)
    return float(np.mean([len(set(one) & set(best)) / K for (one, _), (best, _) in pairs]))


def compact(collection: Collection, *, idle: bool) -> None:
    for shard in collection.shards:
        while shard.compact(idle=idle):
            pass


def write(collection: Collection, rows: range) -> None:
    for first in range(rows.start, rows.stop, 1_000):
        records = [Record(f"{row:05d}") for row in range(first, min(first + 1_000, rows.stop))]
        [faults] = collection.upsert([UpsertBatch(records, vectors(first, 1_000)[: len(records)])])
        assert not any(faults)
        compact(collection, idle=False)


@pytest.mark.parametrize("recipe", [Recipe.FASTSCAN, Recipe.IVF_FASTSCAN, Recipe.HNSW], ids=lambda recipe: recipe.value)
def test_recall_is_the_same_before_and_after(recipe: Recipe, tmp_path: Path) -> None:
    place, copy = tmp_path / "snapshot", tmp_path / "crashed"
    with opened(tmp_path / "data") as catalog:
        collection = catalog.create("pets", SPACE, 2)
        collection.configure(lambda config: config.chosen(Build(recipe), EFFORT))
        write(collection, range(ROWS))
        compact(collection, idle=True)
        write(collection, range(ROWS, ROWS + 100))
        quick, exact, before = answers(collection, exact=False), answers(collection, exact=True), recall(collection)
        assert 0.5 < before < 1.0 or recipe is Recipe.HNSW, "nothing was missed: this would tell no difference"
        shutil.copytree(tmp_path / "data", copy)
        snapshots = Snapshots(catalog, tmp_path / "data", [str(place)])
        snapshots.create("pets", str(place), Task())
        restored, _ = snapshots.restore(str(place), "restored", "", Task())
        assert answers(restored, exact=False) == quick
        assert answers(restored, exact=True) == exact
    for folder in (tmp_path / "data", copy):
        with opened(folder) as catalog:
            collection = catalog.get("pets")
            assert answers(collection, exact=False) == quick
            assert answers(collection, exact=True) == exact
    for vectors_file in copy.rglob("vectors.faiss"):
        vectors_file.unlink()
    with opened(copy) as catalog:
        collection = catalog.get("pets")
        assert answers(collection, exact=False) == answers(collection, exact=True) == exact, "all is in memory"
        compact(collection, idle=True)
        assert answers(collection, exact=True) == exact
        assert abs(recall(collection) - before) < 0.04
    with opened(tmp_path / "data") as catalog:
        collection = catalog.get("pets")
        collection.upsert([UpsertBatch([Record("00000")], vectors(0, 1_000)[:1])])  # as it is
        for shard in collection.shards:
            compact(collection, idle=True)
            assert len(shard.view.segments) == 1
        assert answers(collection, exact=True) == exact
        assert abs(recall(collection) - before) < 0.04
