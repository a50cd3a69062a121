"""Why cells lose captions: recall of the paper's index and of ours, by caption and by image, beside exact search.

``python -m benchmarks.accuracy --help``. Owns that experiment, in process and on one thread, and its picture.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Annotated

import faiss
import matplotlib
import numpy as np
import typer
from matplotlib.figure import Figure as Picture
from rich.progress import track

from benchmarks.cross_modal import CrossModalSpace
from benchmarks.dataset import QUERIES, Dataset
from benchmarks.report import machine, put
from index_service.parts import Parts
from index_service.recipes import Build, Effort, Recipe
from index_service.segment import Rows, Segment, SegmentView, prepare_worker, write_segment
from index_service.shard_search import Proposals, Wanted, search
from index_service.vector_space import Metric, VectorSpace

K = 10
_TIMED_QUERIES = 200
_PAPER_CELLS = 50
_CELLS = 1_024
_PROBES = (1, 2, 4, 8, 16, 32, 64, 128)
_K_FACTORS = (20.0, 50.0, 100.0, 200.0, 400.0)
_PROBED_SHARES = (0.03, 0.06, 0.12)
_REAL_CELLS = 316
_REAL_K_FACTORS = (5.0, 10.0, 20.0, 50.0)


@dataclass(frozen=True, slots=True)
class Point:
    """What one way of searching found, and how long it took."""

    line: str
    setting: str
    captions: float
    """ANN recall@10."""
    images: float
    milliseconds: float
    """Median of one caption, on one thread."""


Search = Callable[[np.ndarray], np.ndarray]
"""The rows (K,) found for one query (1, dimension)."""


class Experiment:
    """A dataset, queries of both kinds, and what is nearest to each."""

    def __init__(self, data: Dataset, images: np.ndarray, truth: dict[str, np.ndarray] | None = None) -> None:
        """``truth``: the rows (n, K) nearest to "captions" and "images", where they are known."""
        self.data, self.images = data, images
        self._truth = truth or {"captions": data.nearest(data.captions, K), "images": data.nearest(images, K)}
        self.points: list[Point] = []

    def cells_to_visit(self, cells: int) -> dict[str, np.ndarray]:
        """Share of the exact answers that lie in the 1, 2, ... cells nearest to the query; (cells,) for each kind."""
        index = self._inverted(cells)
        of_row = index.quantizer.search(self._all(), 1)[1].ravel()
        shares = {}
        for kind, queries in (("captions", self.data.captions), ("images", self.images)):
            order = index.quantizer.search(queries, cells)[1]
            rank = np.argsort(order, axis=1)
            at = np.take_along_axis(rank, of_row[self._truth[kind]], axis=1)
            shares[kind] = np.cumsum(np.bincount(at.ravel(), minlength=cells)) / at.size
        return shares

    def flat(self) -> None:
        """IndexFlatL2: exact, and the reference of all latencies."""
        index = faiss.IndexFlatL2(self.data.dimension)
        index.add(self._all())
        self._measure("IndexFlatL2", "exact", lambda query: index.search(query, K)[1][0], _TIMED_QUERIES // 10)

    def inverted(self, cells: int, line: str) -> None:
        """IndexIVFFlat as the paper built it, at more and more probes."""
        index = self._inverted(cells)
        index.add(self._all())
        for probes in _PROBES:
            if probes <= cells:
                index.nprobe = probes
                self._measure(line, f"nprobe {probes}", lambda query: index.search(query, K)[1][0])

    def ours(self, build: Build, efforts: Sequence[Effort]) -> None:
        """One of the service's recipes, over one segment."""
        space = VectorSpace(self.data.dimension, "ab" * 32, Metric.COSINE)
        rows = Rows(np.arange(self.data.rows), [str(row) for row in range(self.data.rows)], self.data.pictures)
        with TemporaryDirectory(dir=Path.cwd()) as folder:
            write_segment(Path(folder), rows, space, build, Event())
            parts = Parts([SegmentView.of(Segment("segment", Path(folder), space), None)])
            prepare_worker()
            for effort in efforts:
                wanted = Wanted(K, proposals=Proposals(K * effort.k_factor / self.data.rows, effort))

                def find(query: np.ndarray, wanted: Wanted = wanted) -> np.ndarray:
                    [hits] = search(parts, space, query, wanted).hits
                    return parts.ids_at(hits.addresses).astype(np.int64)

                cells = f"{effort.probed_share:.0%} of the cells, " if build.recipe is Recipe.IVF_FASTSCAN else ""
                name = build.recipe.value + ", centred" * build.centred
                self._measure(name, f"{cells}k_factor {effort.k_factor:g}", find)

    def _measure(self, line: str, setting: str, find: Search, timed: int = _TIMED_QUERIES) -> None:
        faiss.omp_set_num_threads(1)
        seconds, recall = [], {}
        for kind, queries in (("captions", self.data.captions), ("images", self.images)):
            found = []
            for number in range(len(queries) if timed == _TIMED_QUERIES else timed):
                began = time.perf_counter()
                found.append(find(queries[number : number + 1]))
                if kind == "captions" and number < timed:
                    seconds.append(time.perf_counter() - began)
            right = zip(found, self._truth[kind], strict=False)
            recall[kind] = float(np.mean([len(np.intersect1d(own, truth)) / K for own, truth in right]))
        point = Point(line, setting, recall["captions"], recall["images"], 1e3 * float(np.median(seconds)))
        self.points.append(point)

    def _inverted(self, cells: int) -> faiss.IndexIVFFlat:
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(self.data.dimension), self.data.dimension, cells)
        index.train(self._all())
        return index

    def _all(self) -> np.ndarray:
        return np.concatenate(list(self.data.float32()))


def draw(experiment: Experiment, shares: dict[str, np.ndarray], path: Path) -> None:
    """Recall against latency on the left, on the right how many cells hold the answers."""
    matplotlib.rcParams["svg.hashsalt"] = "eyebright"
    picture = Picture(figsize=(11.0, 4.6), layout="constrained")
    left, right = picture.subplots(1, 2)
    colours = {
        "IndexFlatL2": "#24292f",
        "IndexIVFFlat, 50 cells": "#cf222e",
        f"IndexIVFFlat, {_CELLS:,} cells": "#8250df",
    }
    ours = iter(("#0969da", "#1a7f37", "#9a6700"))
    for line in dict.fromkeys(point.line for point in experiment.points):
        points = _front([point for point in experiment.points if point.line == line])
        colour = colours.get(line) or next(ours)
        x = [point.milliseconds for point in points]
        left.plot(x, [_missed(point.captions) for point in points], "o-", color=colour, ms=4, label=line)
        if line in colours and len(points) > 1:
            left.plot(x, [_missed(point.images) for point in points], "o:", color=colour, ms=3, lw=1)
    first = next(point for point in experiment.points if point.line == "IndexIVFFlat, 50 cells")
    left.annotate("the paper", (first.milliseconds, _missed(first.captions)), (8, -5), textcoords="offset points")
    left.set_xscale("log")
    left.set_yscale("log")
    left.invert_yaxis()
    ticks = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
    left.set_yticks([_missed(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    left.minorticks_off()
    left.set_xlabel("one query, one thread, ms; dotted: queries by image")
    left.set_ylabel("ANN recall@10")
    left.legend(frameon=False, fontsize=8, loc="center", bbox_to_anchor=(0.74, 0.88))
    for kind, style in (("captions", "-"), ("images", ":")):
        right.plot(np.arange(1, len(shares[kind]) + 1), shares[kind], style, color="#cf222e", label=kind)
    right.set_xscale("log")
    right.set_xlabel(f"cells visited, of {_REAL_CELLS:,}, nearest first: scenes of the demo gallery")
    right.set_ylabel("share of the exact answers that lie in them")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(color="#d0d7de", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=120)


def _front(points: list[Point]) -> list[Point]:
    """Those that no quicker one beats at captions, quickest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: point.milliseconds):
        if not front or point.captions > front[-1].captions:
            front.append(point)
    return front


def _missed(recall: float) -> float:
    return max(1.0 - recall, 3e-4)


def _table(experiment: Experiment) -> Iterator[str]:
    flat = next(point.milliseconds for point in experiment.points if point.line == "IndexFlatL2")
    yield "| index | setting | recall@10, captions | recall@10, images | ms, one thread | times IndexFlatL2's speed |"
    yield "|---|---|---|---|---|---|"
    for point in experiment.points:
        recalls = f"{point.captions:.3f} | {point.images:.3f}"
        times = flat / point.milliseconds
        yield f"| {point.line} | {point.setting} | {recalls} | {point.milliseconds:.2f} | {times:.1f} |"


def generated(data: Dataset, images: np.ndarray) -> Experiment:
    """All ways of searching, where it matters how long they take."""
    experiment = Experiment(data, images)
    codes = [Effort(k_factor) for k_factor in _K_FACTORS]
    in_cells = [Effort(k_factor, share) for share in _PROBED_SHARES for k_factor in _K_FACTORS[:4]]
    steps: list[Callable[[], None]] = [
        experiment.flat,
        lambda: experiment.inverted(_PAPER_CELLS, f"IndexIVFFlat, {_PAPER_CELLS} cells"),
        lambda: experiment.inverted(_CELLS, f"IndexIVFFlat, {_CELLS:,} cells"),
        lambda: experiment.ours(Build(Recipe.FASTSCAN), codes),
        lambda: experiment.ours(Build(Recipe.IVF_FASTSCAN), in_cells),
    ]
    for step in track(steps, "measuring"):
        step()
    return experiment


def real(data: Dataset) -> Experiment:
    """Cells against codes, on vectors that two trained towers made."""
    experiment = Experiment(data, data.set_aside(QUERIES))
    experiment.flat()
    experiment.inverted(_PAPER_CELLS, f"IndexIVFFlat, {_PAPER_CELLS} cells")
    experiment.inverted(_REAL_CELLS, f"IndexIVFFlat, {_REAL_CELLS:,} cells")
    experiment.ours(Build(Recipe.FASTSCAN), [Effort(k_factor) for k_factor in _REAL_K_FACTORS])
    return experiment


def main(
    work: Annotated[Path, typer.Option(help="Folder for the vectors (kept).")],
    picture: Annotated[Path, typer.Option(help="PNG to draw.")],
    output: Annotated[Path, typer.Option(help="Markdown file to put the tables into.")],
    rows: Annotated[int, typer.Option(help="Generated vectors.")] = 1_000_000,
    dimension: Annotated[int, typer.Option(help="Numbers in a generated vector.")] = 768,
    scenes: Annotated[int, typer.Option(help="Scenes of the demo gallery.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of both.")] = 1,
) -> None:
    """Measure IndexFlatL2, IndexIVFFlat and the service's recipes on captions and on images that are not indexed."""
    real_one = real(Dataset.scenes(work, scenes, seed))
    shares = real_one.cells_to_visit(_REAL_CELLS)
    strangers = CrossModalSpace(dimension, seed).strangers(QUERIES)
    generated_one = generated(Dataset.generated(work, rows, dimension, seed), strangers)
    draw(generated_one, shares, picture)
    for mark, experiment in (("accuracy", generated_one), ("accuracy of scenes", real_one)):
        title = f"{experiment.data.title}; {machine()}; {QUERIES} captions, {QUERIES} images that are not indexed."
        put(output, mark, "\n".join([title, "", *_table(experiment)]))


if __name__ == "__main__":
    typer.run(main)
