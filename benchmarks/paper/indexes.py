"""The paper's four indexes, verbatim and in this process: by L2, without scoring again, at FAISS's own settings.

Owns how each is built and what its effort is. The paper says 50 cells and names no other setting, so that FAISS's
defaults hold: one probe, 32 links with efConstruction 40 and efSearch 16; and two bits a dimension as in its examples.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np

from benchmarks.paper.published import FLAT, HNSW, IVF, LSH
from benchmarks.paper.results import Measured, Point
from benchmarks.paper.task import Kind, Task, timed, timed_at
from service_runtime.cores import usable_cores

CELLS = 50
_LINKS = 32
_BITS_A_DIMENSION = 2
_QUERIES_OF_A_POINT = 300


@dataclass(frozen=True, slots=True)
class PaperIndex:
    """One of them."""

    name: str
    setting: str
    make: Callable[[int], faiss.Index]
    prefixes: bool = True
    """Whether asking for more hits leaves the first ones as they were; HNSW looks further then."""
    efforts: tuple[int, ...] = ()
    effort: str = ""
    """The attribute that ``efforts`` are values of; the first is FAISS's default."""


def _inverted(dimension: int) -> faiss.Index:
    return faiss.IndexIVFFlat(faiss.IndexFlatL2(dimension), dimension, CELLS)


PAPER_INDEXES = (
    PaperIndex(FLAT, "exact", faiss.IndexFlatL2),
    PaperIndex(IVF, f"{CELLS} cells, nprobe 1", _inverted, efforts=(1, 2, 4, 8, 16, 32), effort="nprobe"),
    PaperIndex(
        LSH,
        f"{_BITS_A_DIMENSION} bits a dimension",
        lambda dimension: faiss.IndexLSH(dimension, _BITS_A_DIMENSION * dimension),
    ),
    PaperIndex(
        HNSW,
        f"{_LINKS} links, efConstruction 40, efSearch 16",
        lambda dimension: faiss.IndexHNSWFlat(dimension, _LINKS),
        prefixes=False,
        efforts=(16, 32, 64, 128, 256),
        effort="efSearch",
    ),
)


def measure(kind: PaperIndex, task: Task, hits: tuple[int, ...]) -> Measured:
    """Build one over a dataset, judge it, and time it with one thread for each number of hits."""
    index, seconds = build(kind, task.vectors)

    def find(queries: np.ndarray, k: int, _: Kind) -> np.ndarray:
        rows: np.ndarray = index.search(queries, min(k, index.ntotal))[1]
        return rows

    recall = task.judge(find, prefixes=kind.prefixes)
    faiss.omp_set_num_threads(1)
    latencies = timed_at(index.search, task.timing_queries, [k for k in hits if k <= task.data.rows])
    points = [_point(kind, index, task, effort) for effort in kind.efforts] or [_point(kind, index, task, None)]
    return Measured(kind.name, kind.setting, seconds, recall, latencies, points)


def with_all_threads(task: Task, hits: tuple[int, ...]) -> Measured:
    """IndexFlatL2 as it runs unless told otherwise: FAISS shares a single query out among all cores."""
    index, _ = build(PAPER_INDEXES[0], task.vectors)
    latencies = timed_at(index.search, task.timing_queries, [k for k in hits if k <= task.data.rows])
    return Measured(FLAT, "FAISS's own choice of threads", None, {}, latencies)


def build(kind: PaperIndex, vectors: np.ndarray) -> tuple[faiss.Index, float]:
    """An index over vectors (n, dimension), built with all cores, and the seconds that took."""
    faiss.omp_set_num_threads(usable_cores())
    index = kind.make(vectors.shape[1])
    began = time.perf_counter()
    index.train(vectors)
    index.add(vectors)
    return index, time.perf_counter() - began


def _point(kind: PaperIndex, index: faiss.Index, task: Task, effort: int | None) -> Point:
    setting = kind.setting
    if effort is not None:
        setting = f"{kind.effort} {effort}"
        setattr(index.hnsw if kind.effort == "efSearch" else index, kind.effort, effort)
    faiss.omp_set_num_threads(usable_cores())
    recall = {}
    sides: tuple[Kind, ...] = ("captions", "images") if task.images is not None else ("captions",)
    for side in sides:
        queries = task.queries(side)
        assert queries is not None
        found = index.search(queries[:_QUERIES_OF_A_POINT], 10)[1]
        recall[side] = task.ann(found, side, 10).value
    faiss.omp_set_num_threads(1)
    seconds = timed(lambda query: index.search(query, 10), task.captions).median
    usual = effort is None or effort == kind.efforts[0]
    return Point(setting, recall["captions"], recall.get("images", np.nan), seconds, usual)
