"""The service's recipes, written and searched over gRPC through the client SDK, the service in a process of its own.

Owns how a collection is brought under a recipe, and what that takes. Judging and timing are those of every index.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from eyebright_cli.evaluate.metrics import Estimate
from eyebright_client import Client, Timeouts, Tuning
from rich.progress import track

from benchmarks.dataset import BATCH_ROWS
from benchmarks.index_server import COLLECTION, IndexServer
from benchmarks.paper.results import Measured, Point, Results, Seconds
from benchmarks.paper.task import Kind, Task, timed, timed_at

_SHARDS = 2
_NAME = "Eyebright, {}"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to have the service search."""

    key: str
    recipe: Literal["auto", "exact", "fastscan", "ivf-fastscan", "hnsw"]
    setting: str = "default effort"
    target_recall: float | None = None
    """What it is tuned to, on captions and pictures that don't judge."""
    exact: bool = False


EXACT = Way("exact", "exact", "every vector in float16", exact=True)
FASTSCAN = Way("fastscan", "fastscan")
IVF_FASTSCAN = Way("ivf-fastscan", "ivf-fastscan")
HNSW = Way("hnsw", "hnsw")
TUNED = Way("tuned", "auto", "", target_recall=0.99)
WAYS = (EXACT, FASTSCAN, TUNED, IVF_FASTSCAN)
"""In the order of the least rebuilding: what is tuned begins as fastscan."""


class Hosted:
    """A collection of the dataset's pictures in a running service; a context manager, which stops and removes it."""

    def __init__(self, task: Task, folder: Path) -> None:
        self._task, self._folder = task, folder
        shutil.rmtree(folder, ignore_errors=True)
        self._server = IndexServer(folder)
        slow = Timeouts(search=600.0, read=600.0, write=600.0)
        self._client = Client(None, self._server.address, collection=COLLECTION, timeouts=slow)

    def __enter__(self) -> "Hosted":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def ingest(self) -> float:
        """Write all pictures, with no index but the vectors; the seconds until all was durable and in segments."""
        data = self._task.data
        self._server.create(data.dimension, _SHARDS)
        self._client.set_index("exact")
        began = time.perf_counter()
        acknowledged = self._server.stream(data.batches(np.arange(data.rows)))
        for _ in track(acknowledged, "writing pictures", total=-(-data.rows // BATCH_ROWS)):
            pass
        written = time.perf_counter() - began
        return written + self._server.wait_until_compacted()

    def measure(self, way: Way, hits: tuple[int, ...]) -> Measured:
        """Bring the collection under a recipe, judge it, and time it for each number of hits."""
        built, setting = self._build(way)
        recall = self._task.judge(self._find, prefixes=way.exact)
        modality: Any = "text" if self._task.images is None else "image"
        search = partial(self._search, modality=modality)
        latencies = timed_at(search, self._task.timing_queries, [k for k in hits if k <= self._task.data.rows])
        name = _NAME.format("tuned" if way.target_recall else way.recipe)
        return Measured(name, setting, built, recall, latencies, [self._point(setting, recall)])

    def tune(self, way: Way) -> tuple[str, Estimate]:
        """What was taken, and the ANN recall@10 of captions with it."""
        _, setting = self._build(way)
        return setting, self._task.ann(self._find(self._task.captions, 10, "captions"), "captions", 10)

    def latency(self) -> Seconds:
        """Of a caption's search for ten."""
        return timed(partial(self._search, k=10, modality="text"), self._task.captions)

    def _build(self, way: Way) -> tuple[float, str]:
        began = time.perf_counter()
        if way.target_recall is None:
            self._client.set_index(way.recipe, centred=False)
            return self._server.wait_until_compacted(), way.setting
        self._client.set_index("auto")
        queries: dict[Any, np.ndarray] = {"text": self._task.tuning_captions}
        if self._task.tuning_images is not None:
            queries["image"] = self._task.tuning_images
        found = self._client.optimize(target_recall=way.target_recall, k=10, queries=queries)
        seconds = time.perf_counter() - began
        return seconds + self._server.wait_until_compacted(), f"to {way.target_recall:g}: {_chosen(found)}"

    def _find(self, queries: np.ndarray, k: int, kind: Kind, **options: Any) -> np.ndarray:
        modality: Any = "text" if kind == "captions" else "image"
        results = self._client.search_many(vectors=queries, k=k, modality=modality, include=(), **options)
        rows = np.full((len(queries), k), -1)
        for own, result in zip(rows, results, strict=True):
            if result.error is not None:
                raise result.error
            own[: len(result.ids)] = [int(name.rpartition("-")[2]) for name in result.ids]
        return rows

    def _search(self, query: np.ndarray, **options: Any) -> None:
        self._client.search(vector=query[0], include=(), **options)

    def _point(self, setting: str, recall: dict[str, Any]) -> Point:
        images = recall["ANN@10 images"].value if "ANN@10 images" in recall else np.nan
        return Point(setting, recall["ANN@10 captions"].value, images, self.latency().median, usual=True)


def measure_missing(
    make_task: Callable[[], Task],
    results: Results,
    prefix: str,
    folder: Path,
    ways: Sequence[Way],
    hits: tuple[int, ...],
    kept: Callable[[], object],
) -> None:
    """What of these was not measured yet, in one collection; ``kept`` is called after each."""
    missing = [way for way in ways if not results.has(f"{prefix}-{way.key}")]
    if not missing:
        return
    task = make_task()
    task.let_go()
    with Hosted(task, folder) as hosted:
        results.keep_facts(f"{prefix}-ingest", {"seconds": hosted.ingest(), "rows": task.data.rows})
        for way in missing:
            results.keep(f"{prefix}-{way.key}", hosted.measure(way, hits))
            kept()


def _chosen(found: Tuning) -> str:
    if found.basis != "measured" or found.chosen.recipe == "exact":
        return "compares every vector"
    chosen, effort = found.chosen, found.chosen.effort
    parts = [chosen.recipe + " centred" * chosen.centred]
    if chosen.recipe.startswith("ivf"):
        parts.append(f"{effort.probed_share:.2%} of the cells")
    parts.append(f"ef_search {effort.ef_search}" if chosen.recipe == "hnsw" else f"k_factor {effort.k_factor:g}")
    return ", ".join(parts)
