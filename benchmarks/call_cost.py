"""What service_runtime puts around a call costs: ``python -m benchmarks.call_cost --help``.

Owns the comparison of two echoes: on a bare grpc.aio server, and hosted as both services are, with interceptor, gate,
metrics and a log line for each call. One blocking caller asks them in turns, so that what else happens on the machine
falls on both.
"""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from benchmarks.report import Figure, Goal, machine, report

Call = Callable[[bytes], bytes]

_WARM_UP = 500
_CALLS_A_TURN = 500
_START_SECONDS = 60.0
_MESSAGE = b"a hundred bytes, as a small request has them" * 2


@contextmanager
def echo(module: str, folder: Path, *arguments: str) -> Iterator[Call]:
    """The Echo method of a server in a process of its own, its log in a file."""
    ready, log = folder / f"{module}.ready", folder / f"{module}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", module, str(ready), *arguments], stderr=output
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not (ready.exists() and ready.read_text("utf-8")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{module} did not become ready: {log.read_text('utf-8')}")
            time.sleep(0.01)
        with grpc.insecure_channel(f"127.0.0.1:{json.loads(ready.read_text('utf-8'))['grpc_port']}") as channel:
            call: Any = channel.unary_unary("/test.Echo/Echo")
            yield call
    finally:
        process.terminate()
        process.wait(10)


def seconds_of(call: Call, count: int) -> list[float]:
    """How long calls take, one after another."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        call(_MESSAGE)
        seconds.append(time.perf_counter() - began)
    return seconds


def main(
    output: Annotated[Path | None, typer.Option(help="Markdown file to put the table into.")] = None,
    turns: Annotated[int, typer.Option(help=f"Turns of {_CALLS_A_TURN} calls to each server.")] = 20,
) -> None:
    """Measure the p50 of an echo with and without what service_runtime puts around it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        echo("benchmarks.bare_echo", Path(folder)) as bare,
        echo("tests.integration.service_runtime_host", Path(folder), "5") as hosted,
    ):
        taken: dict[str, list[float]] = {"bare": [], "hosted": []}
        for call in (bare, hosted):
            seconds_of(call, _WARM_UP)
        for _, (name, call) in itertools.product(range(turns), (("bare", bare), ("hosted", hosted))):
            taken[name] += seconds_of(call, _CALLS_A_TURN)
    p50 = {name: 1e3 * statistics.median(seconds) for name, seconds in taken.items()}
    more = p50["hosted"] - p50["bare"]
    figure = Figure(
        "a unary echo with interceptor, gate, metrics and log line, p50: more than bare",
        f"{more:.3f} ms more",
        f"{p50['bare']:.3f} ms on a bare grpc.aio server",
        Goal(0.20, unit=" ms"),
        more,
    )
    title = f"One caller, {turns * _CALLS_A_TURN:,} calls to each; {machine('grpcio')}"
    report([figure], title, output, "call cost")


if __name__ == "__main__":
    typer.run(main)
