"""How a search is divided: no piece of it is large, and no answer grows past what can be sent."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service.catalog import Catalog
from index_service.collection import Collection, UpsertBatch
from index_service.metrics import IndexMetrics
from index_service.records import Include, Record
from index_service.search import _PIECE_HITS, _PIECE_QUERIES, QueryAnswer, SearchOptions
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Item, Result, Workers
from service_runtime.errors import ResourceExhausted

DIMENSION = 4


class InterruptedWorkers(Workers):
    """Workers that let another caller have its turn whenever a caller gives them work."""

    def __init__(self) -> None:
        super().__init__(2)
        self.between: Callable[[], None] = lambda: None

    def search(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        self.between()
        return super().search(function, items)


@pytest.fixture
def workers() -> Iterator[InterruptedWorkers]:
    with closing(InterruptedWorkers()) as opened:
        yield opened


@pytest.fixture
def collection(tmp_path: Path, workers: Workers) -> Iterator[Collection]:
    with closing(Catalog(tmp_path, workers, IndexMetrics(CollectorRegistry()))) as catalog:
        opened = catalog.create("pets", VectorSpace(DIMENSION, "ab" * 32, Metric.COSINE), 2)
        records = [Record(f"{number:03d}", caption="c" * 100, metadata_json=b"{}") for number in range(300)]
        opened.upsert([UpsertBatch(records, vectors(300))])
        yield opened


def vectors(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, DIMENSION)).astype(np.float32)


def hits(collection: Collection, asked: np.ndarray, options: SearchOptions) -> list[list[str]]:
    results = collection.search_vectors(asked, options).results
    return [result.ids for result in results if isinstance(result, QueryAnswer)]


@pytest.mark.parametrize(
    ("options", "pieces"),
    [
        (SearchOptions(k=5), -(-200 // _PIECE_QUERIES)),
        (SearchOptions(k=1, offset=_PIECE_HITS // 10 - 1), 200 // 10),
        (SearchOptions(k=_PIECE_HITS), 200),
    ],
    ids=["many queries", "large offset", "large k"],
)
def test_a_large_search_makes_way_for_others_again_and_again(
    collection: Collection, workers: InterruptedWorkers, options: SearchOptions, pieces: int
) -> None:
    asked = vectors(200)
    alone = [hits(collection, query[None, :], options)[0] for query in asked]
    turns = 0

    def between() -> None:
        nonlocal turns
        turns += 1

    workers.between = between
    assert hits(collection, asked, options) == alone
    assert turns == pieces


def test_queries_that_cannot_be_answered_keep_their_places_in_a_large_search(collection: Collection) -> None:
    asked = vectors(200)
    asked[[0, 70, 199]] = np.nan
    results = collection.search_vectors(asked, SearchOptions(3)).results
    assert [row for row, result in enumerate(results) if not isinstance(result, QueryAnswer)] == [0, 70, 199]
    for row in (1, 69, 71, 198):
        result = results[row]
        assert isinstance(result, QueryAnswer)
        assert [result.ids] == hits(collection, asked[row : row + 1], SearchOptions(3))


@pytest.mark.parametrize(
    ("include", "bytes_of_a_hit"),
    [
        (Include(), 3 + 4),
        (Include(vector=True), 3 + 4 + 2 * DIMENSION),
        (Include(caption=True), 3 + 4 + 100),
        (Include(metadata=True, vector=True), 3 + 4 + 2 * DIMENSION + 2),
    ],
    ids=["hits", "vectors", "captions", "metadata and vectors"],
)
def test_an_answer_is_given_up_once_it_is_sure_to_be_too_large(
    collection: Collection, workers: InterruptedWorkers, include: Include, bytes_of_a_hit: int
) -> None:
    turns = 0

    def between() -> None:
        nonlocal turns
        turns += 1

    workers.between = between
    most = 10 * 300 * bytes_of_a_hit
    assert len(hits(collection, vectors(10), SearchOptions(300, include=include, most_bytes=most))) == 10
    turns = 0
    with pytest.raises(ResourceExhausted, match=f"at most {most:,} are sent"):
        hits(collection, vectors(1_000), SearchOptions(300, include=include, most_bytes=most))
    assert turns == 1
