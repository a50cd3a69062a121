"""The vectors that benchmarks search: made once, kept in a folder, and what is nearest to which by comparing all.

Owns their files. Knows nothing of a service.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path

import faiss
import numpy as np
from rich.progress import track

from benchmarks.cross_modal import CHUNK_ROWS, CrossModalSpace

QUERIES = 500
"""Captions of a dataset, and pictures that stand as queries."""

BATCH_ROWS = 2_000
"""Records written at a time."""

SCENES_A_CHUNK = 500
"""Scenes that ``benchmarks.scenes`` composes from one seed; captions are those of the first of each."""

_TRUTH_ROWS = 50_000


class Dataset:
    """Pictures on disk as float16, and captions of some of them, spread evenly."""

    def __init__(self, folder: Path, title: str, own: Callable[[int, int], np.ndarray] | None = None) -> None:
        """Map what ``generated``, ``scenes`` or ``gallery`` wrote.

        ``own`` says of which of so many rows so many captions are; spread evenly over them by default.
        """
        self.title = title
        self.captions: np.ndarray = np.load(folder / "captions.npy")
        """(queries, dimension) float32."""
        self.dimension = self.captions.shape[1]
        pictures = folder / "pictures.f16"
        self.rows = pictures.stat().st_size // (2 * self.dimension)
        self.own = (own or _spread)(self.rows, len(self.captions))
        """The row (queries,) that each caption is of."""
        self.pictures: np.ndarray = np.memmap(pictures, dtype="<f2", mode="r", shape=(self.rows, self.dimension))

    @classmethod
    def generated(cls, work: Path, rows: int, dimension: int, seed: int, queries: int = QUERIES) -> "Dataset":
        """Vectors with a modality gap, from the seeded generator."""
        folder = work / f"generated-{rows}-{dimension}-{seed}{_suffix(queries)}"
        if not (folder / "captions.npy").exists():
            folder.mkdir(parents=True, exist_ok=True)
            _generate(folder, rows, CrossModalSpace(dimension, seed), queries)
        return cls(folder, f"{rows:,} x {dimension} of the generator, seed {seed}")

    @classmethod
    def scenes(cls, work: Path, rows: int, seed: int, queries: int = QUERIES) -> "Dataset":
        """Scenes of the demo gallery's pictures, embedded by the demo checkpoint in a process of its own."""
        folder = work / f"scenes-{rows}-{seed}{_suffix(queries)}"
        _embedded(folder, "--rows", str(rows), "--queries", str(queries), "--seed", str(seed))
        title = f"{rows:,} scenes of the demo gallery, embedded by the demo checkpoint, seed {seed}"
        return cls(folder, title, _first_of_each_chunk)

    @classmethod
    def gallery(cls, work: Path) -> "Dataset":
        """The demo gallery itself, each picture with its label, embedded by the demo checkpoint in a process apart."""
        folder = work / "gallery"
        _embedded(folder, "--gallery")
        return cls(folder, "the demo gallery, embedded by the demo checkpoint", lambda rows, _: np.arange(rows))

    def first(self, rows: int) -> "Dataset":
        """The same with no more pictures than these; captions of the others stay."""
        fewer = copy(self)
        fewer.rows, fewer.pictures = rows, self.pictures[:rows]
        return fewer

    def set_aside(self, count: int) -> np.ndarray:
        """Take the last pictures out; (count, dimension) float32, to stand as queries."""
        taken = np.asarray(self.pictures[-count:]).astype(np.float32)
        self.pictures = self.pictures[:-count]
        self.rows -= count
        return taken

    def float32(self) -> Iterator[np.ndarray]:
        """The pictures, a piece at a time."""
        for begin in range(0, self.rows, _TRUTH_ROWS):
            yield np.asarray(self.pictures[begin : begin + _TRUTH_ROWS]).astype(np.float32)

    def batches(self, rows: np.ndarray) -> Iterator[tuple[list[str], np.ndarray]]:
        """Ids and vectors of these rows, in batches to write."""
        for begin in range(0, len(rows), BATCH_ROWS):
            piece = rows[begin : begin + BATCH_ROWS]
            yield [name(row) for row in piece.tolist()], np.asarray(self.pictures[piece])

    def nearest(self, queries: np.ndarray, k: int, rows: np.ndarray | None = None) -> np.ndarray:
        """The rows (n, k) nearest to each query, among some rows or all, by comparing all in float32."""
        among = np.arange(self.rows) if rows is None else rows
        best = faiss.ResultHeap(len(queries), k, keep_max=True)
        for begin in range(0, len(among), _TRUTH_ROWS):
            piece = among[begin : begin + _TRUTH_ROWS]
            vectors = np.asarray(self.pictures[piece]).astype(np.float32)
            scores, found = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
            best.add_result(scores, piece[found])
        best.finalize()
        nearest: np.ndarray = best.I
        return nearest

    def truth(self, queries: np.ndarray, k: int, rows: np.ndarray | None = None) -> list[set[str]]:
        """The ids of the nearest."""
        return [{name(row) for row in own} for own in self.nearest(queries, k, rows).tolist()]


def name(row: int) -> str:
    """The id of a row."""
    return f"picture-{row:08d}"


def shared(found: list[list[str]], truth: list[set[str]]) -> float:
    """ANN recall: the share of the nearest that was found."""
    return sum(len(own & set(ids)) for own, ids in zip(truth, found, strict=True)) / sum(len(own) for own in truth)


def _suffix(queries: int) -> str:
    return "" if queries == QUERIES else f"-{queries}-captions"


def _embedded(folder: Path, *options: str) -> None:
    """Have ``benchmarks.scenes`` write into the folder, unless it has: torch does not come into this process."""
    if not (folder / "captions.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.scenes", str(folder), *options]
        subprocess.run(command, check=True)  # noqa: S603 - our own module


def _spread(rows: int, queries: int) -> np.ndarray:
    return np.linspace(0, rows - 1, queries).astype(int)


def _first_of_each_chunk(rows: int, queries: int) -> np.ndarray:
    chunks = rows // SCENES_A_CHUNK
    each = -(-queries // chunks)
    of_chunk = np.arange(chunks)[:, None] * SCENES_A_CHUNK + np.arange(each)
    return of_chunk.ravel()[:queries]


def _generate(folder: Path, rows: int, source: CrossModalSpace, queries: int) -> None:
    asked = _spread(rows, queries)
    kept: list[np.ndarray] = []
    out = np.memmap(folder / "pictures.f16", dtype="<f2", mode="w+", shape=(rows, source.dimension))
    for chunk in track(source.chunks(rows), "making vectors", total=-(-rows // CHUNK_ROWS)):
        end = chunk.begin + len(chunk.pictures)
        out[chunk.begin : end] = chunk.pictures
        kept.append(chunk.captions[asked[(asked >= chunk.begin) & (asked < end)] - chunk.begin])
    out.flush()
    np.save(folder / "captions.npy", np.concatenate(kept))
