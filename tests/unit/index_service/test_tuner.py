"""What the tuner measures is what the live collection then does."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service import tuner as tuner_module
from index_service.catalog import Catalog
from index_service.collection import Collection, UpsertBatch
from index_service.compaction import Policy
from index_service.index_config import IndexConfig, Modality
from index_service.metrics import IndexMetrics
from index_service.recipes import EXACT, FASTSCAN, Build, Recipe
from index_service.records import Record
from index_service.search import QueryAnswer, SearchOptions
from index_service.segment import Interrupted
from index_service.tuner import Tuner
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers
from tests.cross_modal import pictures_and_captions

DIMENSION = 32
ROWS = 9_000
POLICY = Policy(index_from_rows=2_000, codes_from_rows=250, seal_rows=256)
"""Small segments get codes too."""
K = 10
PICTURES, CAPTIONS = pictures_and_captions(ROWS, DIMENSION)
BUILDS = [FASTSCAN, Build(Recipe.FASTSCAN, centred=True), Build(Recipe.IVF_FASTSCAN), Build(Recipe.HNSW)]


class Told(Exception):
    """Raised where a tuning looks whether it is to end."""


def go_on() -> None:
    """Nobody wants it to end."""


@pytest.fixture(scope="module", params=[Metric.COSINE, Metric.L2], ids=lambda metric: metric.value)
def collection(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """Two shards; in each a segment that gets an index, a small one, vectors in memory, and dead ones in both."""
    with (
        closing(Workers(2)) as workers,
        closing(
            Catalog(tmp_path_factory.mktemp("tuner"), workers, IndexMetrics(CollectorRegistry()), POLICY)
        ) as catalog,
    ):
        made = catalog.create("pets", VectorSpace(DIMENSION, "ab" * 32, request.param), 2)
        for begin, end, idle in ((0, 8_000, True), (8_000, 8_600, False), (8_600, ROWS, None)):
            records = [Record(f"{row}") for row in range(begin, end)]
            made.upsert([UpsertBatch(records, PICTURES[begin:end])])
            for shard in made.shards:
                while idle is not None and shard.compact(idle=idle):
                    pass
        made.delete([f"{row}" for row in range(8_000, ROWS, 7)])
        yield made


def tuner_of(collection: Collection, folder: Path) -> Tuner:
    views = [shard.view for shard in collection.shards]
    return Tuner(views, collection.spec.space, POLICY, 1, folder, lambda: False, go_on)


def queries() -> dict[Modality, np.ndarray]:
    return {Modality.TEXT: CAPTIONS[:80], Modality.IMAGE: PICTURES[300:340]}


def live_recall(collection: Collection, asked: np.ndarray) -> float:
    """The share of the exact hits that searches find."""
    found = []
    for exact in (False, True):
        answer = collection.search_vectors(asked, SearchOptions(K, exact=exact, modality=Modality.RECORD))
        found.append([set(result.ids) for result in answer.results if isinstance(result, QueryAnswer)])
    return sum(len(one & other) for one, other in zip(*found, strict=True)) / (K * len(asked))


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: f"{build.recipe.value}{'-centred' * build.centred}")
def test_recall_is_that_of_live_searches(collection: Collection, tmp_path: Path, build: Build) -> None:
    if build.centred and collection.spec.space.metric is Metric.L2:
        pytest.skip("centring is for inner products")
    tuner = tuner_of(collection, tmp_path)
    steps = list(tuner.answer(queries(), K))
    assert steps[0][0] == 0
    assert steps[-1][0] == steps[-1][1]
    front = tuner.measure(build, most_seconds=60.0)
    assert not list(tmp_path.iterdir()), "nothing is left of what was measured"
    if build.recipe is Recipe.FASTSCAN:
        assert front[0].judged.least_recall <= front[-1].judged.least_recall, "what takes longer finds more"

    collection.configure(lambda _: IndexConfig(build))
    for shard in collection.shards:
        while shard.compact(idle=False):
            pass
    for one in (front[0], front[-1]):
        found = IndexConfig(build, one.judged.effort)
        collection.configure(lambda _, found=found: found)  # type: ignore[misc]
        for modality, asked in queries().items():
            for number, half in enumerate((one.choosing, one.judged)):
                measured = half.recall[modality.value]
                assert measured.query_count == len(asked) // 2
                assert live_recall(collection, asked[number::2]) == pytest.approx(measured.mean, abs=1e-9)
                assert measured.lower < measured.mean < measured.upper or measured.mean in (0.0, 1.0)
    size = sum(
        path.stat().st_size for shard in collection.folder.glob("shard-*") for path in shard.rglob("codes.faiss")
    )
    assert front[0].judged.index_bytes == pytest.approx(size, rel=0.25)


def test_an_exact_search_is_a_point_too(collection: Collection, tmp_path: Path) -> None:
    tuner = tuner_of(collection, tmp_path)
    list(tuner.answer(queries(), K))
    exact = tuner.exact().judged
    assert (exact.build, exact.index_bytes, exact.least_recall) == (EXACT, 0, 1.0)
    assert exact.latency_seconds is not None
    assert exact.latency_seconds > 0


def test_a_part_of_the_shards_stands_for_all(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, one = tuner_of(collection, tmp_path), None
    monkeypatch.setattr(tuner_module, "SAMPLE_ROWS", 1_000)
    one = tuner_of(collection, tmp_path)
    assert one.sample_rows < 0.6 * both.sample_rows
    fronts = []
    for tuner in (both, one):
        list(tuner.answer(queries(), K))
        fronts.append(tuner.measure(FASTSCAN, most_seconds=60.0))
    by_effort = {point.judged.effort: point.judged for point in fronts[1]}
    compared = 0
    for point in (tried.judged for tried in fronts[0]):
        other = by_effort.get(point.effort)
        if other is not None:
            compared += 1
            assert other.recall["TEXT"].mean == pytest.approx(point.recall["TEXT"].mean, abs=0.12)
            assert other.index_bytes == pytest.approx(point.index_bytes, rel=0.1)
    assert compared


def test_it_ends_when_told(collection: Collection, tmp_path: Path) -> None:
    views, space = [shard.view for shard in collection.shards], collection.spec.space
    wanted = [True]

    def check() -> None:
        if not wanted[0]:
            raise Told

    tuner = Tuner(views, space, POLICY, 1, tmp_path, lambda: not wanted[0], check)
    list(tuner.answer(queries(), K))
    wanted[0] = False
    for work in (lambda: list(tuner.answer(queries(), K)), tuner.exact):
        with pytest.raises(Told):
            work()
    with pytest.raises(Interrupted):
        tuner.measure(FASTSCAN, most_seconds=60.0)
