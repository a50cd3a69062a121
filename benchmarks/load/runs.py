"""Offers a load from processes of its own, and looks for the most that is answered in time.

Owns the callers' processes and the search for the capacity. Knows no service.
"""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.load.caller import Plan
from benchmarks.load.outcomes import Outcome
from benchmarks.load.traffic import Kind

_LEAD_SECONDS = 0.3
_WARM_UP_SECONDS = 1.5
ANSWERED_SHARE = 0.99
"""Of the calls at capacity: so many are answered in time."""

_STEP = 1.5
_NARROWINGS = 4


@dataclass(frozen=True, slots=True)
class Mix:
    """What a load consists of."""

    weights: Mapping[Kind, float]
    """Shares of the calls; they add up to 1."""
    deadlines_seconds: Mapping[Kind, float]

    def rates(self, calls_per_second: float) -> dict[Kind, float]:
        """Calls a second of each kind."""
        return {kind: share * calls_per_second for kind, share in self.weights.items()}


class Callers:
    """Processes that share a load evenly; a context manager, which ends them."""

    def __init__(self, index: str, embedder: str, dataset: Path, count: int, seed: int) -> None:
        """Addresses, the folder of the dataset, and how many callers."""
        self._seeds = itertools.count(seed)
        self._ending = ExitStack()
        self._processes: list[subprocess.Popen[str]] = []
        for _ in range(count):
            arguments = [index, embedder, str(dataset), str(next(self._seeds))]
            process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "benchmarks.load.caller", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._ending.callback(process.wait, 60)
            self._ending.enter_context(process)
            self._processes.append(process)
        for process in self._processes:
            if _line(process) != "ready\n":
                raise RuntimeError("a caller did not become ready")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.close()

    def offer(self, mix: Mix, calls_per_second: float, seconds: float) -> dict[Kind, Outcome]:
        """Make so many calls a second for so long; what became of them, by kind."""
        begin = time.monotonic() + _LEAD_SECONDS
        rates = mix.rates(calls_per_second / len(self._processes))
        for process in self._processes:
            plan = Plan(rates, mix.deadlines_seconds, seconds, _WARM_UP_SECONDS, begin, next(self._seeds))
            assert process.stdin is not None
            process.stdin.write(plan.to_line())
            process.stdin.flush()
        outcomes = {kind: Outcome() for kind in rates}
        for process in self._processes:
            for kind, said in json.loads(_line(process)).items():
                outcomes[Kind(kind)].merge(Outcome.from_json(said))
        return outcomes


def capacity(callers: Callers, mix: Mix, first: float, seconds: float) -> float:
    """The most calls a second of which the share ANSWERED_SHARE is answered in time, whatever the kind.

    ``first`` is where to begin to look; each try takes ``seconds``, so the figure is good to some percent.
    """

    def bears(calls_per_second: float) -> bool:
        outcomes = callers.offer(mix, calls_per_second, seconds)
        return min(own.answered_share for own in outcomes.values()) >= ANSWERED_SHARE

    low = first
    while not bears(low):
        low /= _STEP
    high = low * _STEP
    while bears(high):
        low, high = high, high * _STEP
    for _ in range(_NARROWINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if bears(middle) else (low, middle)
    return low


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()
