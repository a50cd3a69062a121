"""The index engine against exact search in the same run: ``python -m benchmarks.engine --help``.

Owns what is measured, in which order, and what it is held against. Nothing else should run meanwhile.
"""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, takewhile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from eyebright.index.v1.filter_pb2 import Filter
from rich.progress import track

from benchmarks.dataset import BATCH_ROWS, QUERIES, Dataset, name, shared
from benchmarks.in_process import Exact, InProcess
from benchmarks.index_server import IndexServer, where
from benchmarks.report import Figure, Goal, machine, report

K = 10
LARGEST_K = 100_000
_TUNING = slice(0, QUERIES, 2)
"""Captions to tune on; the others measure."""

_JUDGING = slice(1, QUERIES, 2)
_ROWS_OF_GOALS = 1_000_000
"""Smaller collections are held to the goal for recall alone."""

_CALLERS = 8
_WARM_UP = 50
_BUSY_SECONDS = 60.0
_REBUILD_SECONDS = 15.0
_INGEST_PER_SECOND = 2_000
_SELECTIVITIES = {"half": 2, "tenth": 10, "hundredth": 100, "thousandth": 1_000}


class Engine:
    """One collection, measured over its life."""

    def __init__(self, data: Dataset, server: IndexServer) -> None:
        self.data, self.server = data, server
        self.figures: list[Figure] = []
        self.captions = data.captions[_JUDGING]
        self.singles = [self.captions[number : number + 1] for number in range(len(self.captions))]
        self.every = np.arange(data.rows)
        self.truth = data.truth(self.captions, K)

    def measure(self, shards: int) -> None:
        """Everything, in the order in which a collection lives."""
        self.server.create(self.data.dimension, shards)
        self._ingest()
        self._tune()
        self._search()
        self._filters()
        self._large()
        self._upserts()
        self._in_process()
        self._restart()
        self._busy()
        self._churn()

    def _add(self, what: str, measured: str, reference: str = "", goal: Goal | None = None, value: float = 0.0) -> None:
        if self.data.rows < _ROWS_OF_GOALS and goal is not _RECALL:
            goal = None
        self.figures.append(Figure(what, measured, reference, goal, value))

    def _recall(self, **options: Any) -> float:
        found: list[list[str]] = []
        for begin in range(0, len(self.captions), 50):
            results = self.server.search(self.captions[begin : begin + 50], K, **options).results
            found += [list(result.ids) for result in results]
        return shared(found, self.truth)

    def _latencies(self, seconds: float = 4.0, **options: Any) -> np.ndarray:
        """Of one caption after another over gRPC, in seconds."""
        for query in self.singles[:_WARM_UP]:
            self.server.search(query, K, **options)
        end = time.perf_counter() + seconds
        queries = takewhile(lambda _: time.perf_counter() < end, cycle(self.singles))
        return np.array(self._seconds_of(queries, K, **options))

    def _seconds_of(self, queries: Iterable[np.ndarray], k: int, **options: Any) -> list[float]:
        """How long the search for each query takes over gRPC."""
        seconds = []
        for query in queries:
            began = time.perf_counter()
            self.server.search(query, k, **options)
            seconds.append(time.perf_counter() - began)
        return seconds

    def _ingest(self) -> None:
        with self.server.peak_memory() as peak:
            began = time.perf_counter()
            acknowledged = self.server.stream(self.data.batches(self.every), metadata=_metadata)
            written = sum(track(acknowledged, "ingest", total=-(-self.data.rows // BATCH_ROWS)))
            rate = written / (time.perf_counter() - began)
            goal = Goal(10_000, 25_000, " /s", lower=False)
            self._add("streamed durable ingest, with metadata", f"{rate:,.0f} vectors/s", "", goal, rate)
            seconds = self.server.wait_until_compacted()
        self._add("compaction after ingest", f"{seconds:.0f} s", "", Goal(180, 60, " s"), seconds)
        self._add("resident memory (RssAnon) at most, while ingesting and compacting", _gb(peak[0]))
        before = self._recall()
        self._add("ANN recall@10 of captions before tuning", f"{before:.4f}", "1 exact", _RECALL, before)

    def _tune(self) -> None:
        began = time.perf_counter()
        chosen = self.server.optimize(self.data.captions[_TUNING], target_recall=0.99, k=K)
        seconds = time.perf_counter() - began
        self._add("tuning, and rebuilding to the tuned recipe", f"{seconds:.0f} s", "", Goal(180, 60, " s"), seconds)
        self._add("what the tuner took for a target of 0.99", str(chosen))
        self.server.wait_until_compacted()

    def _search(self) -> None:
        recall, lesser = self._recall(), self._recall(target_recall=0.95)
        self._add("ANN recall@10 of captions it was not tuned on", f"{recall:.4f}", "1 exact", _RECALL, recall)
        goal = Goal(0.95, lower=False)
        self._add("the same with target_recall 0.95", f"{lesser:.4f}", "1 exact", goal, lesser)
        resident = self.server.anonymous_bytes()
        self._add("resident memory (RssAnon) at rest", _gb(resident), "", Goal(1.2, 0.4, " GB"), resident / 1e9)
        latencies = self._latencies()
        self.p50, self.p99 = (float(np.quantile(latencies, share)) for share in (0.5, 0.99))
        self._add("search over gRPC, one caller: p50, p99", f"{_ms(self.p50)}, {_ms(self.p99)}")
        self.rate = self.server.queries_per_second(self.singles, K, _CALLERS)

    def _filters(self) -> None:
        for field, every in _SELECTIVITIES.items():
            condition = where(field, 0)
            self.server.search(self.captions[:1], K, filter=condition)  # the first use makes the column
            p50, unfiltered = self._side_by_side(condition)
            truth = self.data.truth(self.captions[:100], K, self.every[self.every % every == 0])
            results = self.server.search(self.captions[:100], K, filter=condition).results
            short = sum(len(result.ids) < K for result in results)
            recall = shared([list(result.ids) for result in results], truth)
            self._add(
                f"filter that keeps {100 / every:g} %: p50",
                f"{_ms(p50)} = {p50 / unfiltered:.2f}x",
                f"{_ms(unfiltered)} unfiltered",
                Goal(2, 1.3, "x"),
                p50 / unfiltered,
            )
            self._add(
                "its recall; answers short of k", f"{recall:.4f}; {short}", "1 exact; 0", _RECALL, recall * (not short)
            )

    def _side_by_side(self, condition: Filter) -> tuple[float, float]:
        """The p50 with a filter and without, in seconds, measured in turns."""
        with_it, without = [], []
        for _ in range(4):
            with_it.append(self._latencies(1.5, filter=condition))
            without.append(self._latencies(1.5))
        return float(np.median(np.concatenate(with_it))), float(np.median(np.concatenate(without)))

    def _large(self) -> None:
        k = min(LARGEST_K, self.data.rows)
        seconds = float(np.median(self._seconds_of(self.singles[:9], k)))
        self._add(f"k = {k:,} over gRPC, p50", _ms(seconds), "", Goal(250, 120, " ms"), 1e3 * seconds)
        with _meanwhile(lambda: self.server.search(self.singles[0], k)):
            beside = float(np.median(self._latencies(8.0)))
        more = beside - self.p50
        self._add(
            "k = 10 beside an unbroken row of those, p50: more than alone",
            f"{_ms(more)} more",
            f"{_ms(self.p50)} alone",
            Goal(20, unit=" ms"),
            1e3 * more,
        )

    def _upserts(self) -> None:
        one = np.asarray(self.data.pictures[:1])
        seconds = float(np.median([_timed(lambda: self.server.upsert([name(0)], one)) for _ in range(300)]))
        self._add("one upsert, durable and searchable, p50", _ms(seconds), "", Goal(5, 2, " ms"), 1e3 * seconds)
        self.server.wait_until_compacted()

    def _in_process(self) -> None:
        self.server.stop()
        exact = Exact(self.data)
        with InProcess(self.server.data_folder) as inside:
            tuned, flat = inside.beside(exact, self.singles, K)
            lesser, again = inside.beside(exact, self.singles, K, target_recall=0.95)
        with InProcess(self.server.data_folder, threads=1) as alone:
            cpu = alone.cpu_seconds(self.singles, K)
        self._faster("in process, tuned to 0.99: p50", tuned, flat, Goal(15, 60, "x", lower=False))
        self._faster("in process, target 0.95: p50", lesser, again, Goal(60, 150, "x", lower=False))
        more = 1e3 * (self.p50 - tuned)
        what = "p50 over gRPC less p50 in process"
        self._add(what, f"{more:.2f} ms", f"{_ms(tuned)} in process", Goal(1.2, 0.8, " ms"), more)
        share = 100 * self.rate * cpu / 2
        self._add(
            f"queries/s over gRPC, {_CALLERS} callers, of 2 cores / CPU seconds of one in process",
            f"{self.rate:.0f} /s = {share:.0f} %",
            f"{2 / cpu:.0f} /s ({_ms(cpu)} CPU)",
            Goal(60, 80, " %", lower=False),
            share,
        )

    def _faster(self, what: str, seconds: float, flat: float, goal: Goal) -> None:
        times = flat / seconds
        reference = f"{_ms(flat)} IndexFlatIP, 1 thread"
        self._add(what, f"{_ms(seconds)} = {times:.1f}x faster", reference, goal, times)

    def _restart(self) -> None:
        ready = self.server.start()
        seconds = ready + _timed(lambda: self.server.search(self.captions[:1], K))
        self._add("restart to the first correct answer", f"{seconds:.2f} s", "", Goal(10, 2, " s"), seconds)

    def _busy(self) -> None:
        """p99 while segments are rebuilt and records come in."""
        idle = float(np.quantile(self._latencies(10.0), 0.99))
        with _meanwhile(self._rebuilds()), _meanwhile(self._paced_ingest()):
            busy = float(np.quantile(self._latencies(_BUSY_SECONDS), 0.99))
        self._add(
            f"search p99 during rebuilds and ingest at {_INGEST_PER_SECOND:,} vectors/s",
            f"{_ms(busy)} = {busy / idle:.1f}x",
            f"{_ms(idle)} idle",
            Goal(4, 2, "x"),
            busy / idle,
        )
        self.server.index_automatically()
        self.server.wait_until_compacted()

    def _rebuilds(self) -> Callable[[], None]:
        """Has every segment built anew, centred and not centred in turn."""
        turns = cycle((True, False))

        def rebuild() -> None:
            self.server.rebuild(centred=next(turns))
            time.sleep(_REBUILD_SECONDS)

        return rebuild

    def _paced_ingest(self) -> Callable[[], None]:
        """Writes a tenth of a second's records again, and waits for the next tenth."""
        rows = cycle(np.array_split(self.every, max(1, 10 * self.data.rows // _INGEST_PER_SECOND)))
        due = time.perf_counter()

        def write() -> None:
            nonlocal due
            piece = next(rows)
            ids = [name(row) for row in piece.tolist()]
            self.server.upsert(ids, np.asarray(self.data.pictures[piece]), metadata=_metadata)
            due += 0.1
            time.sleep(max(0.0, due - time.perf_counter()))

        return write

    def _churn(self) -> None:
        gone, again = np.split(np.random.default_rng(1).permutation(self.data.rows)[: self.data.rows // 5 * 2], 2)
        for begin in range(0, len(gone), 10_000):
            self.server.delete([name(row) for row in gone[begin : begin + 10_000].tolist()])
        for _ in self.server.stream(self.data.batches(np.sort(again)), metadata=_metadata):
            pass
        self.truth = self.data.truth(self.captions, K, np.setdiff1d(self.every, gone))
        before = self._recall()
        seconds = self.server.wait_until_compacted()
        after = self._recall()
        what = "recall after 20 % deletes and 20 % upserts, before compaction"
        self._add(what, f"{before:.4f}", "1 exact", _RECALL, before)
        self._add("the same after compaction", f"{after:.4f}", "1 exact", _RECALL, after)
        self._add("that compaction", f"{seconds:.0f} s", "", Goal(180, 60, " s"), seconds)


_RECALL = Goal(0.99, lower=False)


@contextmanager
def _meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Do something again and again in another thread."""
    stopping = threading.Event()

    def loop() -> None:
        while not stopping.is_set():
            work()

    with ThreadPoolExecutor(1) as other:
        running = other.submit(loop)
        try:
            yield
        finally:
            stopping.set()
        running.result()


def _metadata(record_id: str) -> bytes:
    """Fields of which one value each keeps a half, a tenth, a hundredth and a thousandth of the records."""
    row = int(record_id.removeprefix("picture-"))
    return json.dumps({field: row % every for field, every in _SELECTIVITIES.items()}).encode()


def _timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds < 0.1 else f"{1e3 * seconds:.0f} ms"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def main(
    work: Annotated[Path, typer.Option(help="Folder for the vectors (kept) and the service's data (removed before).")],
    rows: Annotated[int, typer.Option(help="Pictures to index.")] = 1_000_000,
    dimension: Annotated[int, typer.Option(help="Numbers in a vector.")] = 768,
    shards: Annotated[int, typer.Option(help="Shards of the collection.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the vectors.")] = 1,
    scenes: Annotated[
        bool, typer.Option(help="Index scenes of the demo gallery instead of generated vectors.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Markdown file to put the table into.")] = None,
) -> None:
    """Measure ingest, tuning, search, filters, recall, restart and churn, beside IndexFlatIP in the same run."""
    data = Dataset.scenes(work, rows, seed) if scenes else Dataset.generated(work, rows, dimension, seed)
    shutil.rmtree(work / "service", ignore_errors=True)
    with IndexServer(work / "service") as server:
        engine = Engine(data, server)
        try:
            engine.measure(shards)
        finally:
            title = f"{data.title}; {shards} shards; {machine()}"
            report(engine.figures, title, output, "scenes" if scenes else "engine")


if __name__ == "__main__":
    typer.run(main)
