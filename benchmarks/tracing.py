"""What tracing costs a call: a small one of four stages, answered with tracing off, sampled out, and recorded.

Owns the measurement. ``python -m benchmarks.tracing --output docs/tracing.md``.
"""

import asyncio
import logging
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from grpc import aio
from prometheus_client import CollectorRegistry
from rich.console import Console

from benchmarks.report import machine, put
from service_runtime.server import Server
from service_runtime.settings import ServiceSettings
from service_runtime.tracing import record_stage
from tests.integration.service_runtime_host import EchoHost

_ROUNDS = 5
"""Each case is measured in turn so often; the least of its medians counts: a neighbour slows all of them."""

_CALLS = 2_000
_PORT = 43_171
_ENDPOINT = f"http://127.0.0.1:{_PORT}"
_CASES: dict[str, dict[str, Any]] = {
    "off": {},
    "on, the call sampled out": {"tracing_endpoint": _ENDPOINT, "tracing_sample_ratio": 0.0},
    "on, the call recorded: 5 spans": {"tracing_endpoint": _ENDPOINT},
}


class _StagedHost(EchoHost):
    """Answers as a search does: with stages to tell of."""

    async def echo(self, request: bytes, context: object) -> bytes:  # noqa: ARG002
        for name in ("queue", "shard_search", "merge", "read_records"):
            record_stage(name, 0.0001, time.monotonic())
        return request


def main(output: Annotated[Path | None, typer.Option(help="Markdown file to put the table into.")] = None) -> None:
    """Measure, print, and write."""
    logging.disable(logging.CRITICAL)
    collector = subprocess.Popen([sys.executable, "-m", "tests.otlp_collector", str(_PORT)], stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        found: dict[str, list[float]] = {name: [] for name in _CASES}
        for _ in range(_ROUNDS):
            for name, settings in _CASES.items():
                found[name].append(asyncio.run(_median_ms(settings)))
    finally:
        collector.kill()
        collector.wait()
    least = {name: min(times) for name, times in found.items()}
    rows = [f"| {name} | {ms:.3f} ms | {ms - least['off']:+.3f} ms |" for name, ms in least.items()]
    table = "\n".join(["| tracing | p50 of a call | more than off |", "|---|---|---|", *rows])
    text = f"{table}\n\nCaller and server in one process, logs off: {machine('grpcio')}."
    Console().print(text)
    if output is not None:
        put(output, "cost", text)


async def _median_ms(settings: dict[str, Any]) -> float:
    async with (
        Server(_StagedHost(), ServiceSettings(**settings), CollectorRegistry()) as server,
        aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel,
    ):
        echo: Any = channel.unary_unary("/test.Echo/Echo")
        times = []
        for _ in range(_CALLS):
            began = time.perf_counter()
            await echo(b"x")
            times.append(time.perf_counter() - began)
    return median(times) * 1000


if __name__ == "__main__":
    typer.run(main)
