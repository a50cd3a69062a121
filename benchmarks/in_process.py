"""The engine without a service around it, and exact search beside it: a stopped service's data folder, searched here.

Owns opening and closing it.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import faiss
import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.dataset import Dataset
from benchmarks.index_server import COLLECTION
from index_service.catalog import Catalog
from index_service.collection import Collection
from index_service.metrics import IndexMetrics
from index_service.search import SearchOptions
from index_service.workers import Workers

_WARM_UP = 50
_TURNS = 5
_EXACT_QUERIES_A_TURN = 4


class Exact:
    """IndexFlatIP over all pictures of a dataset, on one thread."""

    def __init__(self, data: Dataset) -> None:
        self._index = faiss.IndexFlatIP(data.dimension)
        for piece in data.float32():
            self._index.add(piece)

    def search(self, query: np.ndarray, k: int) -> None:
        """Look for the k nearest to one query (1, dimension)."""
        faiss.omp_set_num_threads(1)
        self._index.search(query, k)


class InProcess:
    """An open data folder; a context manager, which closes it."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        """``threads`` search side by side; 0 means one per core."""
        self._workers = Workers(threads)
        self._catalog = Catalog(folder, self._workers, IndexMetrics(CollectorRegistry()))
        self.collection: Collection = self._catalog.get(COLLECTION)

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._catalog.close()
        self._workers.close()

    def beside(
        self, exact: Exact, queries: Sequence[np.ndarray], k: int, target_recall: float | None = None
    ) -> tuple[float, float]:
        """The medians of one query (1, dimension) after another, here and by exact search, in seconds; in turns."""
        options = SearchOptions(k, target_recall=target_recall)
        here: list[float] = []
        there: list[float] = []
        for turn in range(_TURNS):
            self._search(queries[:_WARM_UP], options)
            here += _seconds(lambda query: self.collection.search_vectors(query, options), queries)
            few = queries[_EXACT_QUERIES_A_TURN * turn : _EXACT_QUERIES_A_TURN * (turn + 1)]
            there += _seconds(lambda query: exact.search(query, k), few)
        return statistics.median(here), statistics.median(there)

    def cpu_seconds(self, queries: Sequence[np.ndarray], k: int) -> float:
        """CPU time of the whole process for one query, on average."""
        options = SearchOptions(k)
        self._search(queries[:_WARM_UP], options)
        began = time.process_time()
        for _ in range(_TURNS):
            self._search(queries, options)
        return (time.process_time() - began) / len(queries) / _TURNS

    def _search(self, queries: Sequence[np.ndarray], options: SearchOptions) -> None:
        for query in queries:
            self.collection.search_vectors(query, options)


def _seconds(search: Callable[[np.ndarray], object], queries: Sequence[np.ndarray]) -> list[float]:
    seconds = []
    for query in queries:
        began = time.perf_counter()
        search(query)
        seconds.append(time.perf_counter() - began)
    return seconds
