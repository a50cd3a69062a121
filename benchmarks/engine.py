"""The index engine against exact search in the same run: ``python -m benchmarks.engine --help``.

Owns what is measured and how it is written down. Every figure stands beside its reference; nothing else should run.
"""

import os
import platform
import shutil
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import faiss
import numpy as np
import typer
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.cross_modal import CrossModalSpace
from benchmarks.index_server import COLLECTION, IndexServer
from index_service.catalog import Catalog
from index_service.metrics import IndexMetrics
from index_service.search import SearchOptions
from index_service.workers import Workers

QUERIES = 500
K = 10
_BATCH_ROWS = 2_000
_TRUTH_ROWS = 50_000
_REFERENCE_QUERIES = 15
_CALLERS = 8


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    what: str
    measured: str
    reference: str = ""
    target: str = ""


class Dataset:
    """Pictures on disk as float16, and captions of ``QUERIES`` of them, spread evenly."""

    def __init__(self, work: Path, rows: int, dimension: int, seed: int) -> None:
        self.rows, self.dimension = rows, dimension
        work.mkdir(parents=True, exist_ok=True)
        pictures = work / f"pictures-{rows}-{dimension}-{seed}.f16"
        captions = work / f"captions-{rows}-{dimension}-{seed}.npy"
        if not captions.exists():
            self._make(pictures, captions, seed)
        self.pictures: np.ndarray = np.memmap(pictures, dtype="<f2", mode="r", shape=(rows, dimension))
        self.captions: np.ndarray = np.load(captions)

    def _make(self, pictures: Path, captions: Path, seed: int) -> None:
        source = CrossModalSpace(self.dimension, seed)
        asked = np.linspace(0, self.rows - 1, QUERIES).astype(int)
        kept: list[np.ndarray] = []
        out = np.memmap(pictures, dtype="<f2", mode="w+", shape=(self.rows, self.dimension))
        for chunk in track(source.chunks(self.rows), "making vectors", total=-(-self.rows // 10_000)):
            end = chunk.begin + len(chunk.pictures)
            out[chunk.begin : end] = chunk.pictures
            kept.append(chunk.captions[asked[(asked >= chunk.begin) & (asked < end)] - chunk.begin])
        out.flush()
        np.save(captions, np.concatenate(kept))

    def batches(self, rows: np.ndarray) -> Iterator[tuple[list[str], np.ndarray]]:
        """Ids and vectors of these rows, in batches to write."""
        for begin in range(0, len(rows), _BATCH_ROWS):
            piece = rows[begin : begin + _BATCH_ROWS]
            yield [name(row) for row in piece.tolist()], np.asarray(self.pictures[piece])

    def truth(self, rows: np.ndarray, k: int) -> list[set[str]]:
        """The k nearest among these rows to each caption, by comparing all, in float32 of the stored float16."""
        best = faiss.ResultHeap(len(self.captions), k, keep_max=True)
        for begin in range(0, len(rows), _TRUTH_ROWS):
            piece = rows[begin : begin + _TRUTH_ROWS]
            vectors = np.asarray(self.pictures[piece]).astype(np.float32)
            scores, found = faiss.knn(self.captions, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
            best.add_result(scores, piece[found])
        best.finalize()
        return [{name(row) for row in own} for own in best.I.tolist()]


def name(row: int) -> str:
    """The id of a row."""
    return f"picture-{row:08d}"


def recall(server: IndexServer, data: Dataset, truth: list[set[str]]) -> float:
    """The share of the exact K nearest that searches found."""
    shared = 0
    for begin in range(0, len(truth), 50):
        results = server.search(data.captions[begin : begin + 50], K).results
        shared += sum(len(own & set(result.ids)) for own, result in zip(truth[begin:], results, strict=False))
    return shared / (K * len(truth))


def reference_seconds(data: Dataset) -> float:
    """Median of one caption against IndexFlatIP over all pictures, on one thread."""
    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(data.dimension)
    for begin in range(0, data.rows, _TRUTH_ROWS):
        flat.add(np.asarray(data.pictures[begin : begin + _TRUTH_ROWS]).astype(np.float32))
    return statistics.median(
        timed(lambda q=data.captions[number : number + 1]: flat.search(q, K)) for number in range(_REFERENCE_QUERIES)
    )


def timed(work: object) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


def in_process_seconds(folder: Path, data: Dataset) -> float:
    """Median of one caption, searched in this process in the data folder of a service that is stopped."""
    workers, metrics = Workers(0), IndexMetrics(CollectorRegistry())
    catalog = Catalog(folder, workers, metrics)
    collection = catalog.get(COLLECTION)
    queries = [data.captions[number : number + 1] for number in range(len(data.captions))]
    for query in queries[:50]:
        collection.search_vectors(query, SearchOptions(K))
    median = statistics.median(
        timed(lambda q=query: collection.search_vectors(q, SearchOptions(K))) for query in queries
    )
    catalog.close()
    workers.close()
    return median


def search_figures(server: IndexServer, data: Dataset, reference: float) -> list[Figure]:
    """Latency of one caller, throughput of several, and a very large k."""
    singles = [data.captions[number : number + 1] for number in range(len(data.captions))]
    for query in singles[:50]:
        server.search(query, K)
    inside: list[float] = []
    whole: list[float] = []
    for query in singles:
        began = time.perf_counter()
        evidence = server.search(query, K).evidence
        whole.append(time.perf_counter() - began)
        inside.append(evidence.shard_search_seconds + evidence.merge_seconds)
    with ThreadPoolExecutor(_CALLERS) as callers:
        began = time.perf_counter()
        answered = len(list(callers.map(lambda query: server.search(query, K), singles * 2)))
        together = time.perf_counter() - began
    large = statistics.median(timed(lambda q=query: server.search(q, min(100_000, data.rows))) for query in singles[:7])
    p50 = statistics.median(whole)
    return [
        Figure("search p50 over gRPC, one caller", f"{1e3 * p50:.2f} ms", f"{1e3 * reference:.0f} ms IndexFlatIP"),
        Figure("search p99 over gRPC, one caller", f"{1e3 * np.quantile(whole, 0.99):.2f} ms"),
        Figure("slowest shard + merge, p50", f"{1e3 * statistics.median(inside):.2f} ms"),
        Figure(f"queries/s over gRPC, {_CALLERS} callers", f"{answered / together:.0f}"),
        Figure("k = 100,000 over gRPC, p50", f"{1e3 * large:.0f} ms", "", "250 ms, aim 120 ms"),
    ]


@contextmanager
def quiet(server: IndexServer, figures: list[Figure], what: str) -> Iterator[None]:
    """Do something, then wait for compaction, and write down how long that took."""
    yield
    figures.append(Figure(f"compaction after {what}", f"{server.wait_until_compacted():.0f} s", "", "180 s, aim 60 s"))


def measure(data: Dataset, server: IndexServer, shards: int) -> list[Figure]:
    """Everything, in the order in which a collection lives."""
    figures: list[Figure] = []
    every = np.arange(data.rows)
    server.create(data.dimension, shards)
    with quiet(server, figures, "ingest"):
        began = time.perf_counter()
        written = sum(track(server.stream(data.batches(every)), "ingest", total=-(-data.rows // _BATCH_ROWS)))
        figures.append(
            Figure(
                "durable ingest over one stream",
                f"{written / (time.perf_counter() - began):,.0f} vectors/s",
                "",
                "10,000, aim 25,000",
            )
        )
    truth = data.truth(every, K)
    figures.append(
        Figure(f"ANN recall@{K} of captions", f"{recall(server, data, truth):.4f}", "1.0000 exact", ">= 0.99")
    )
    figures.append(
        Figure("resident memory, RssAnon", f"{server.anonymous_bytes() / 1e9:.2f} GB", "", "1.2 GB, aim 0.4 GB")
    )
    reference = reference_seconds(data)
    figures += search_figures(server, data, reference)
    one = data.pictures[:1].astype(np.float32)
    writes = [timed(lambda: server.upsert([name(0)], one)) for _ in range(200)]
    figures.append(
        Figure(
            "one upsert, durable and searchable, p50", f"{1e3 * statistics.median(writes):.2f} ms", "", "5 ms, aim 2 ms"
        )
    )
    server.stop()
    inside = in_process_seconds(server.data_folder, data)
    figures.append(
        Figure("search p50 in process, all shards", f"{1e3 * inside:.2f} ms", f"{1e3 * reference:.0f} ms IndexFlatIP")
    )
    figures.append(
        Figure("the same, times faster than the reference", f"{reference / inside:.1f}x", "1x", "15x, aim 60x")
    )
    ready = server.start()
    first = timed(lambda: server.search(data.captions[:1], K))
    figures.append(Figure("restart to the first answer", f"{ready + first:.2f} s", "", "10 s, aim 2 s"))
    random = np.random.default_rng(1)
    gone, again = np.split(random.permutation(data.rows)[: data.rows // 5 * 2], 2)
    with quiet(server, figures, "20 % deletes and 20 % upserts"):
        for begin in range(0, len(gone), 10_000):
            server.delete([name(row) for row in gone[begin : begin + 10_000].tolist()])
        list(server.stream(data.batches(np.sort(again))))
        left = data.truth(np.setdiff1d(every, gone), K)
        figures.append(
            Figure("recall after both, before compaction", f"{recall(server, data, left):.4f}", "1.0000", ">= 0.99")
        )
    figures.append(
        Figure("recall after both, after compaction", f"{recall(server, data, left):.4f}", "1.0000", ">= 0.99")
    )
    return figures


def report(figures: list[Figure], title: str, path: Path | None) -> None:
    """Print the table, and write it as Markdown."""
    table = Table("what", "measured", "reference", "target", title=title)
    for figure in figures:
        table.add_row(figure.what, figure.measured, figure.reference, figure.target)
    Console(width=140).print(table)
    if path is not None:
        lines = [f"| {figure.what} | {figure.measured} | {figure.reference} | {figure.target} |" for figure in figures]
        path.parent.mkdir(parents=True, exist_ok=True)
        head = "| what | measured | reference in the same run | at least |\n|---|---|---|---|"
        path.write_text(f"# The index engine, measured\n\n{title}.\n\n{head}\n" + "\n".join(lines) + "\n", "utf-8")


def main(
    work: Annotated[Path, typer.Option(help="Folder for the vectors (kept) and the service's data (removed before).")],
    rows: Annotated[int, typer.Option(help="Pictures to index.")] = 1_000_000,
    dimension: Annotated[int, typer.Option(help="Numbers in a vector.")] = 768,
    shards: Annotated[int, typer.Option(help="Shards of the collection.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the vectors.")] = 1,
    output: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
) -> None:
    """Measure ingest, search, recall, restart and churn of one collection, beside IndexFlatIP in the same run."""
    data = Dataset(work, rows, dimension, seed)
    shutil.rmtree(work / "service", ignore_errors=True)
    with IndexServer(work / "service") as server:
        figures = measure(data, server, shards)
    title = (
        f"{rows:,} x {dimension}, {shards} shards, {os.cpu_count()} cores ({platform.machine()}), "
        f"FAISS {faiss.__version__}, seed {seed}"
    )
    report(figures, title, output)


if __name__ == "__main__":
    typer.run(main)
