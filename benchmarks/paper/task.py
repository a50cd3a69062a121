"""What is asked of every index over one dataset, and how its answers are judged.

Owns queries and truth. Of the captions a third is for tuning, the others judge; of the pictures that are not indexed
a half. Truth is the cosine of what the towers made, in float32, whatever an index rounds it to.
"""

import time
from collections.abc import Callable, Iterable
from copy import copy
from functools import partial
from itertools import cycle
from typing import Literal, TypeAlias

import faiss
import numpy as np
from eyebright_cli.evaluate.metrics import (
    Estimate,
    ann_recalls,
    first_ranks,
    found_within,
    mean,
    median,
    reciprocal,
)

from benchmarks.cross_modal import unit
from benchmarks.dataset import Dataset
from benchmarks.paper.results import Seconds
from service_runtime.cores import usable_cores

CAPTIONS = 1_500
"""Captions of a dataset: 500 to tune on, 1,000 that judge, as many as the paper asked."""

IMAGES = 1_000
TASK_DEPTHS = {1: 10, 5: 10, 10: 10, 50: 100, 100: 100}
"""Task recall at so many hits -> the hits that are asked for: what a caller gets who asks for ten."""

_DEPTH, _DEPTH_OF_MANY, _MANY = 1_000, 100, 200_000

ANN_DEPTHS = (10, 100)

Kind: TypeAlias = Literal["captions", "images"]
Find: TypeAlias = Callable[[np.ndarray, int, Kind], np.ndarray]
"""Rows (n, k) for queries (n, dimension) of a kind, best first; -1 where there is none."""

_MOST_SECONDS = 3.0
_FEWEST_SEARCHES, _MOST_SEARCHES = 5, 50


class Task:
    """A dataset with its queries."""

    def __init__(
        self,
        data: Dataset,
        images: np.ndarray | None = None,
        captions: int = CAPTIONS,
        own_pictures: bool = True,
    ) -> None:
        """``images`` (n, dimension) stand in no index; None where there are none to ask.

        With ``own_pictures`` captions are left out whose picture is not in the dataset.
        """
        inside = np.flatnonzero(data.own < data.rows) if own_pictures else np.arange(len(data.own))
        asked = inside[np.linspace(0, len(inside) - 1, min(captions, len(inside))).astype(int)]
        tuning = np.arange(len(asked)) % 3 == 0
        self.data = data
        self.captions = data.captions[asked[~tuning]]
        self.own = data.own[asked[~tuning]]
        self.tuning_captions = data.captions[asked[tuning]]
        self.images = None if images is None else unit(images[1::2])
        self.tuning_images = None if images is None else unit(images[0::2])
        self._vectors: np.ndarray | None = None
        self._truth: dict[Kind, np.ndarray] = {}

    @property
    def vectors(self) -> np.ndarray:
        """All pictures as an in-process index takes them, (rows, dimension) float32 of length 1; gigabytes."""
        if self._vectors is None:
            whole = np.empty((self.data.rows, self.data.dimension), np.float32)
            begin = 0
            for piece in self.data.float32():
                whole[begin : begin + len(piece)] = unit(piece)
                begin += len(piece)
            self._vectors = whole
        return self._vectors

    def let_go(self) -> None:
        """Give the memory of the vectors back."""
        self._vectors = None

    def among(self, rows: int) -> "Task":
        """The same queries among the first pictures alone."""
        fewer = copy(self)
        fewer.data = self.data.first(min(rows, self.data.rows))
        fewer._vectors, fewer._truth = None, {}
        return fewer

    @property
    def depth(self) -> int:
        """Hits asked for to find the rank of a caption's picture; one further down counts as not found."""
        return _DEPTH if self.data.rows <= _MANY else _DEPTH_OF_MANY

    @property
    def timing_queries(self) -> np.ndarray:
        """Pictures as in the paper, (n, dimension); captions where there are none."""
        return self.captions if self.images is None else self.images

    def queries(self, kind: Kind) -> np.ndarray | None:
        """Of one kind, (n, dimension)."""
        return self.captions if kind == "captions" else self.images

    def truth(self, kind: Kind) -> np.ndarray:
        """The rows (n, 100) that are nearest."""
        if kind not in self._truth:
            queries = self.queries(kind)
            assert queries is not None
            self._truth[kind] = self.nearest(queries, max(ANN_DEPTHS))
        return self._truth[kind]

    def nearest(self, queries: np.ndarray, k: int) -> np.ndarray:
        """The rows (n, k) nearest to each query by cosine in float32."""
        faiss.omp_set_num_threads(usable_cores())
        best = faiss.ResultHeap(len(queries), min(k, self.data.rows), keep_max=True)
        begin = 0
        for piece in self.data.float32():
            scores, found = faiss.knn(queries, unit(piece), best.k, metric=faiss.METRIC_INNER_PRODUCT)
            best.add_result(scores, begin + found)
            begin += len(piece)
        best.finalize()
        found_rows: np.ndarray = best.I
        return found_rows

    def exact_ranks(self) -> np.ndarray:
        """Where each caption's picture stands among all, (n,)."""
        ranks = np.ones(len(self.captions))
        own = (self.captions * unit(np.asarray(self.data.pictures[self.own]).astype(np.float32))).sum(axis=1)
        begin = 0
        for piece in self.data.float32():
            scores = self.captions @ unit(piece).T
            mine = np.arange(begin, begin + len(piece)) == self.own[:, None]
            # The own one's product by another kernel may differ in the last bit: it is left out by its place.
            ranks += ((scores >= own[:, None]) & ~mine).sum(axis=1)
            begin += len(piece)
        return ranks

    def judge(self, find: Find, *, prefixes: bool) -> dict[str, Estimate]:
        """Every figure of Table 1. ``prefixes``: the best ten are the same whatever number is asked for."""
        depths = sorted({*TASK_DEPTHS.values(), self.depth})
        if prefixes:
            deepest = find(self.captions, self.depth, "captions")
            found = {depth: deepest[:, :depth] for depth in depths}
        else:
            found = {depth: find(self.captions, depth, "captions") for depth in depths}
        ranks = {depth: first_ranks(own.tolist(), [{row} for row in self.own.tolist()]) for depth, own in found.items()}
        recall = {f"task@{k}": mean(found_within(ranks[depth], k)) for k, depth in TASK_DEPTHS.items()}
        recall["MRR"] = mean(reciprocal(ranks[self.depth]))
        recall["median rank"] = median(ranks[self.depth])
        for k in ANN_DEPTHS:
            recall[f"ANN@{k} captions"] = self.ann(found[k], "captions", k)
        if self.images is not None:
            recall["ANN@10 images"] = self.ann(find(self.images, 10, "images"), "images", 10)
        return recall

    def ann(self, found: np.ndarray, kind: Kind, k: int) -> Estimate:
        """ANN recall@k of answers to the first queries of a kind."""
        return mean(ann_recalls(found.tolist(), self.truth(kind)[: len(found)].tolist(), k))


def exact_recall(task: Task) -> dict[str, Estimate]:
    """The same figures, of comparing everything, at any rank."""
    ranks = task.exact_ranks()
    recall = {f"task@{k}": mean(found_within(ranks, k)) for k in TASK_DEPTHS}
    return recall | {"MRR": mean(reciprocal(ranks)), "median rank": median(ranks)}


def timed(search: Callable[[np.ndarray], object], queries: np.ndarray) -> Seconds:
    """Single searches (1, dimension) one after another, after one that is not counted."""
    search(queries[:1])
    seconds: list[float] = []
    for query in _in_turn(queries):
        began = time.perf_counter()
        search(query)
        seconds.append(time.perf_counter() - began)
        enough = sum(seconds) > _MOST_SECONDS and len(seconds) >= _FEWEST_SEARCHES
        if enough or len(seconds) >= _MOST_SEARCHES:
            break
    return Seconds.of(seconds)


def timed_at(search: Callable[..., object], queries: np.ndarray, hits: Iterable[int]) -> dict[int, Seconds]:
    """The same for each number of hits."""
    return {k: timed(partial(search, k=k), queries) for k in hits}


def _in_turn(queries: np.ndarray) -> Iterable[np.ndarray]:
    return cycle([queries[number : number + 1] for number in range(len(queries))])
