"""One caller, a process of its own: ``python -m benchmarks.load.caller INDEX EMBEDDER DATASET SEED``.

Owns the clock: moments are drawn at random (Poisson arrivals), and each call is made at its moment or, where the caller
is held up, right after, its latency counted from the moment all the same. Each line on standard input is a Plan, each
on standard output what came of it, both as JSON.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc

from benchmarks.dataset import Dataset
from benchmarks.load.outcomes import Fate, Outcome
from benchmarks.load.traffic import Kind, Traffic


@dataclass(frozen=True, slots=True)
class Plan:
    """What a caller is to do."""

    calls_per_second: Mapping[Kind, float]
    deadlines_seconds: Mapping[Kind, float]
    """How long each call is waited for, from the moment at which it is due."""
    seconds: float
    warm_up_seconds: float
    """Before that: calls are made and not counted."""
    begin: float
    """When to begin, by CLOCK_MONOTONIC, which all processes of a machine share."""
    seed: int

    def to_line(self) -> str:
        """For a caller's standard input."""
        return f"{json.dumps(asdict(self))}\n"


def arrivals(plan: Plan) -> Iterator[tuple[float, Kind]]:
    """Moments, in seconds after the beginning, and what is due then."""
    draw = random.Random(plan.seed)  # noqa: S311
    kinds = [Kind(kind) for kind in plan.calls_per_second]
    rates = list(plan.calls_per_second.values())
    at, end = 0.0, plan.warm_up_seconds + plan.seconds
    while (at := at + draw.expovariate(sum(rates))) < end:
        yield at, draw.choices(kinds, rates)[0]


async def call(plan: Plan, traffic: Traffic) -> dict[Kind, Outcome]:
    """Make all calls; returns once the last one has ended."""
    outcomes = {Kind(kind): Outcome() for kind in plan.calls_per_second}
    under_way: set[asyncio.Task[None]] = set()

    async def one(kind: Kind, due: float, *, counts: bool) -> None:
        deadline = due + plan.deadlines_seconds[kind]
        fate, fault = await _make(traffic, kind, deadline)
        if counts:
            outcomes[kind].add(fate, time.monotonic() - due, fault)

    for at, kind in arrivals(plan):
        due = plan.begin + at
        while (ahead := due - time.monotonic()) > 0:
            await asyncio.sleep(ahead)
        task = asyncio.create_task(one(kind, due, counts=at >= plan.warm_up_seconds))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)
    return outcomes


async def _make(traffic: Traffic, kind: Kind, deadline: float) -> tuple[Fate, str]:
    """Make one call, whose caller waits until ``deadline``; what became of it, and why where it failed."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        return Fate.LATE, ""
    try:
        sound = await traffic.send(kind, remaining)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED or time.monotonic() > deadline:
            return Fate.LATE, ""
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Fate.REFUSED, ""
        return Fate.FAILED, f"{error.code().name}: {error.details()}"
    if not sound:
        return Fate.FAILED, "a part of the answer is missing or refused"
    return (Fate.ANSWERED if time.monotonic() <= deadline else Fate.LATE), ""


async def main(index: str, embedder: str, dataset: Path, seed: int) -> None:
    """Carry out one plan after another."""
    traffic = Traffic(index, embedder, Dataset(dataset, ""), seed)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := await asyncio.to_thread(sys.stdin.readline):
        outcomes = await call(Plan(**json.loads(line)), traffic)
        sys.stdout.write(json.dumps({kind: outcome.to_json() for kind, outcome in outcomes.items()}) + "\n")
        sys.stdout.flush()
    await traffic.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
