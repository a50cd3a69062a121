"""Both services under load: ``python -m benchmarks.load --help``.

Owns what is measured, and the tables. Nothing else should run meanwhile; the callers share the machine's cores with the
services, and what they take is missing there.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from benchmarks.dataset import Dataset
from benchmarks.index_server import IndexServer
from benchmarks.load.outcomes import Fate, Outcome, total
from benchmarks.load.runs import Callers, Mix, capacity
from benchmarks.load.traffic import K, Kind
from benchmarks.report import Figure, Goal, machine, put, report
from tests.operations.stopping import stop_under_load
from tests.processes import RunningService, running_service

_SHARDS = 2
_TIMES = (0.5, 0.8, 2.0)
_HEAD = ("load", "call", "offered/s", "answered in time/s", "refused", "late", "failed", "p50", "p99", "p99.9")


@dataclass(slots=True)
class Bench:
    """The figures so far."""

    figures: list[Figure] = field(default_factory=list)
    loads: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, figure: Figure) -> None:
        """Note a figure, and say it."""
        self.figures.append(figure)
        Console(width=170).print(" | ".join(cell for cell in figure.cells() if cell))

    def add_load(self, load: str, kind: Kind, outcome: Outcome, seconds: float) -> None:
        """Note what became of one kind of call, and say it."""
        fates = (f"{outcome.counts[fate]:,}" for fate in (Fate.REFUSED, Fate.LATE, Fate.FAILED))
        quantiles = (f"{1e3 * outcome.quantile_seconds(share):.1f} ms" for share in (0.5, 0.99, 0.999))
        offered, answered = outcome.calls / seconds, outcome.counts[Fate.ANSWERED] / seconds
        self.loads.append((load, kind, f"{offered:.0f}", f"{answered:.0f}", *fates, *quantiles))
        Console(width=170).print(" | ".join(self.loads[-1]))
        for fault, count in outcome.faults.items():
            Console(width=170).print(f"  {count} failed: {fault}")


@contextmanager
def services(
    work: Path, data_folder: Path, *, embedding: bool
) -> Iterator[tuple[RunningService, RunningService | None]]:
    """The index over a data folder, and an embedder with the demo checkpoint, each with a log line for every call."""
    logs = work / "load-logs"
    shutil.rmtree(logs, ignore_errors=True)
    with running_service("index_service", logs, "--data-folder", str(data_folder)) as index:
        if not embedding:
            yield index, None
            return
        with running_service("embedder_service", logs) as embedder:
            yield index, embedder


def filled(work: Path, data: Dataset, target_recall: float | None) -> Path:
    """The data folder of a service that holds the dataset, tuned to a recall or as it is before; made once."""
    tuned = "" if target_recall is None else f"-tuned-{target_recall:g}"
    folder = work / f"load-{data.rows}-{data.dimension}{tuned}"
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        with IndexServer(folder) as server:
            server.create(data.dimension, _SHARDS)
            for _ in server.stream(data.batches(np.arange(data.rows))):
                pass
            server.wait_until_compacted()
            if target_recall is not None:
                server.optimize(data.captions, target_recall, K)
                server.wait_until_compacted()
        complete.touch()
    return folder / "data"


def offer(
    bench: Bench, callers: Callers, what: str, mix: Mix, first: float, seconds: float, probe_seconds: float
) -> None:
    """Find the capacity for a mix, then measure under each share of it."""
    most = capacity(callers, mix, first, probe_seconds)
    bench.add(Figure(f"{what}: capacity", f"{most:.0f} calls/s"))
    for times in _TIMES:
        outcomes = callers.offer(mix, times * most, seconds)
        for kind, outcome in outcomes.items():
            bench.add_load(f"{what}, {times:g}x", kind, outcome, seconds)
    _overload(bench, what, total(outcomes.values()), most, min(mix.deadlines_seconds.values()), seconds)


def _overload(bench: Bench, what: str, outcome: Outcome, most: float, deadline: float, seconds: float) -> None:
    """Note how calls of all kinds fare at twice the capacity."""
    goodput = outcome.counts[Fate.ANSWERED] / seconds
    bench.add(
        Figure(
            f"{what}, {_TIMES[-1]:g}x: answered in time, of the capacity",
            f"{goodput:.0f} /s = {goodput / most:.0%}",
            f"{most:.0f} /s",
            Goal(90, unit=" %", lower=False),
            100 * goodput / most,
        )
    )
    p99 = outcome.quantile_seconds(0.99)
    bench.add(
        Figure(
            f"{what}, {_TIMES[-1]:g}x: p99 of what was not refused",
            f"{1e3 * p99:.0f} ms; {outcome.counts[Fate.LATE]} late",
            f"deadline {1e3 * deadline:.0f} ms",
            Goal(1e3 * deadline, unit=" ms"),
            1e3 * p99,
        )
    )


def restart(bench: Bench, work: Path, data_folder: Path, rows: int, times: int = 3) -> None:
    """How long the index takes from its start until it is ready; files are in the page cache."""
    seconds = []
    for _ in range(times):
        began = time.monotonic()
        with services(work, data_folder, embedding=False):
            seconds.append(time.monotonic() - began)
    bench.add(
        Figure(
            f"index restart with {rows:,} vectors: process start until ready, the longest of {times}",
            f"{max(seconds):.2f} s",
            "",
            Goal(10, unit=" s"),
            max(seconds),
        )
    )


def stop(bench: Bench, work: Path, data_folder: Path, data: Dataset, seconds: float) -> None:
    """SIGTERM while calls come."""
    with services(work, data_folder, embedding=True) as (index, embedder):
        assert embedder is not None
        for service, what in ((index, "index"), (embedder, "embedder")):
            stopped = stop_under_load(service, what, data.captions, seconds)
            bench.add(
                Figure(
                    f"SIGTERM to the {what} under load: calls failed of those accepted before",
                    f"{len(stopped.failed)}",
                    f"{stopped.accepted:,} accepted before, {stopped.under_way} of them under way, "
                    f"{stopped.later} sent later",
                    Goal(0),
                    len(stopped.failed),
                )
            )


def main(
    work: Annotated[Path, typer.Option(help="Folder for vectors and the index's data (4 GB at a million; kept).")],
    output: Annotated[Path | None, typer.Option(help="Markdown file to put the tables into.")] = None,
    rows: Annotated[int, typer.Option(help="Pictures in the index.")] = 1_000_000,
    dimension: Annotated[int, typer.Option(help="Numbers in a vector.")] = 768,
    seconds: Annotated[float, typer.Option(help="Length of each measured load.")] = 30.0,
    probe_seconds: Annotated[float, typer.Option(help="Length of each try while the capacity is looked for.")] = 5.0,
    first: Annotated[float, typer.Option(help="Calls a second to begin with, while the capacity is looked for.")] = 100,
    deadline: Annotated[float, typer.Option(help="How long a call is waited for, in seconds.")] = 0.5,
    callers: Annotated[int, typer.Option(help="Processes that call.")] = 1,
    seed: Annotated[int, typer.Option(help="Of arrivals and requests.")] = 1,
    target_recall: Annotated[
        float | None, typer.Option(help="Tune the index to this recall; then searches alone are measured.")
    ] = None,
    only_prepare: Annotated[bool, typer.Option("--only-prepare", help="Fill the index and stop.")] = False,
) -> None:
    """Offer the services more and more, and measure what becomes of it.

    Calls come at random moments (Poisson) whatever became of those before them ("open loop"), and latency counts from
    the moment at which a call was due, so that a slow answer hides nothing behind it. First the capacity is looked
    for: the most calls a second of which 99 % are answered before their deadline. Then half of it is offered, four
    fifths, and twice as much; once with searches alone, once with a mix of searches, upserts and captions to embed.
    Before and after, the index is restarted, and both services are told to stop while calls come.

    python -m benchmarks.load --work ~/.cache/eyebright/benchmarks --output docs/results/operations.md
    """
    data = Dataset.generated(work, rows, dimension, 1)
    data_folder = filled(work, data, target_recall)
    if only_prepare:
        return
    bench = Bench()
    tuned = target_recall is not None
    searches = Mix({Kind.SEARCH: 1.0}, dict.fromkeys(Kind, deadline))
    mixed = Mix({Kind.SEARCH: 0.6, Kind.UPSERT: 0.2, Kind.EMBED: 0.2}, dict.fromkeys(Kind, deadline))
    mixes = {"searches alone": searches} if tuned else {"searches alone": searches, "mix": mixed}
    if not tuned:
        restart(bench, work, data_folder, rows)
    with services(work, data_folder, embedding=True) as (index, embedder):
        dataset = work / f"generated-{rows}-{dimension}-1"
        with Callers(index.address, embedder.address if embedder else "", dataset, callers, seed) as calling:
            for what, mix in mixes.items():
                offer(bench, calling, what, mix, first, seconds, probe_seconds)
    if not tuned:
        stop(bench, work, data_folder, data, 2.0)
    how = f"tuned to {target_recall:g}" if tuned else "not tuned"
    caller = "1 caller process" if callers == 1 else f"{callers} caller processes"
    where = f"{data.title}, {how}, {_SHARDS} shards; demo checkpoint; {caller} beside the services; {machine()}"
    report(bench.figures, where, output, "load tuned" if tuned else "load")
    if output is not None:
        _put_loads(output, "loads tuned" if tuned else "loads", bench.loads, seconds)


def _put_loads(path: Path, mark: str, loads: Sequence[tuple[str, ...]], seconds: float) -> None:
    lines = (_HEAD, ("---",) * len(_HEAD), *loads)
    title = f"What became of the calls; each load lasted {seconds:g} s"
    put(path, mark, f"{title}.\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines))


if __name__ == "__main__":
    typer.run(main)
