"""A search without FAISS: the Euclidean distance to every picture, then a sort. In pure Python, and in NumPy.

Owns both loops. Python would take a minute a search, so that it measures a part of the distances and says what all of
them would take; the sort is measured in full.
"""

import math
import time

import numpy as np

from benchmarks.paper.results import Measured, Seconds
from benchmarks.paper.task import Task, timed_at

_ROWS_IN_PYTHON = 5_000
_TURNS = 3
_ROWS_AT_A_TIME = 50_000


def in_python(task: Task, hits: tuple[int, ...]) -> Measured:
    """A loop over lists of numbers."""
    queries = task.timing_queries
    rows = task.vectors[:_ROWS_IN_PYTHON].tolist()
    distances = [_seconds_of_distances(rows, queries[turn].tolist()) for turn in range(_TURNS)]
    each = [own * task.data.rows / len(rows) for own in distances]
    unsorted = np.random.default_rng(1).random(task.data.rows).tolist()
    seconds = {}
    for k in hits:
        if k <= task.data.rows:
            began = time.perf_counter()
            sorted(range(len(unsorted)), key=unsorted.__getitem__)[:k]
            sorting = time.perf_counter() - began
            seconds[k] = Seconds.of([own + sorting for own in each])
    note = f"distances to {len(rows):,} pictures measured, {task.data.rows / len(rows):,.0f} times that shown"
    return Measured("Without FAISS, pure Python", "loop and sort", None, {}, seconds, note=note)


def in_numpy(task: Task, hits: tuple[int, ...]) -> Measured:
    """All distances, some rows at a time, and a sort, in full."""

    def search(query: np.ndarray, k: int) -> np.ndarray:
        pieces = range(0, task.data.rows, _ROWS_AT_A_TIME)
        parts = (task.vectors[begin : begin + _ROWS_AT_A_TIME] - query for begin in pieces)
        distances = np.concatenate([np.sqrt((part * part).sum(axis=1)) for part in parts])
        nearest: np.ndarray = np.argsort(distances)[:k]
        return nearest

    seconds = timed_at(search, task.timing_queries, [k for k in hits if k <= task.data.rows])
    return Measured("Without FAISS, NumPy", "differences, norms, sort", None, {}, seconds)


def _seconds_of_distances(rows: list[list[float]], query: list[float]) -> float:
    began = time.perf_counter()
    for row in rows:
        total = 0.0
        for one, other in zip(row, query, strict=True):
            total += (one - other) ** 2
        math.sqrt(total)
    return time.perf_counter() - began
