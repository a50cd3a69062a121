"""Warm-up: what a pass of each size takes here, and how many items are worth taking together.

Owns which sizes are tried, how often, and which one is chosen. Knows no torch and no queue.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from embedder_service.backends import Backend, OutOfMemory, Tower
from embedder_service.tower_cost import TowerCost

_ENOUGH = 0.97
"""Of the best throughput: a smaller batch that gives so much is taken, since items wait less for it."""

_SHORT_SECONDS = 0.025
"""Nobody notices a wait for a pass as short as this, so that of such the largest is taken: between passes Python's
threads wait for each other, which shows under load alone. Measured with the demo checkpoint on two cores, 8 callers:
870 images a second in batches of 4, 990 in those of 8, 1,060 of 16 and 1,090 of 32, though a pass of 4 alone is within
5 % of the best."""

_PASSES = 10
"""Passes of each size at most, beside the first, in which the backend prepares what it keeps for a size. The shortest
counts: whatever disturbs a pass makes it longer."""

_QUICK_SECONDS = 0.2
"""Passes of a size are repeated only until they took so long together."""


def sweep(
    backend: Backend,
    tower: Tower,
    row: np.ndarray,
    sizes: Sequence[int],
    budget_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> TowerCost:
    """Measure a tower with copies of ``row`` (of the shape Backend.forward takes, without its first axis).

    Sizes are tried from the smallest up, while the next is expected to end within the budget, fits into memory, and
    four times as many items still gained throughput; the smallest is tried in any case, and its OutOfMemory raised. The
    batch limit is, of the sizes with 97 % of the best throughput, the largest whose pass takes no more than 25 ms, or
    else the smallest.
    """
    began = clock()
    seconds: dict[int, float] = {}
    for size in sorted(set(sizes)):
        if seconds and (clock() - began + _expected_seconds(size, seconds) > budget_seconds or _is_flat(seconds)):
            break
        try:
            seconds[size] = _shortest_pass(backend, tower, np.repeat(row[None], size, axis=0), clock)
        except OutOfMemory:
            if not seconds:
                raise
            break
    best = max(size / taken for size, taken in seconds.items())
    enough = [size for size, taken in seconds.items() if size / taken >= _ENOUGH * best]
    short = [size for size in enough if seconds[size] <= _SHORT_SECONDS]
    return TowerCost(max(short, default=min(enough)), seconds)


def _expected_seconds(size: int, seconds: dict[int, float]) -> float:
    """For the first pass of a size and the one that is measured, from the last size, in proportion."""
    last, taken = next(reversed(seconds.items()))
    return 2 * taken * size / last


def _is_flat(seconds: dict[int, float]) -> bool:
    """Whether the last two sizes gave no more throughput than the one before them."""
    if len(seconds) <= 2:
        return False
    before, *after = (size / taken for size, taken in list(seconds.items())[-3:])
    return max(after) * _ENOUGH <= before


def _shortest_pass(backend: Backend, tower: Tower, batch: np.ndarray, clock: Callable[[], float]) -> float:
    backend.forward(tower, batch)
    taken: list[float] = []
    while len(taken) < _PASSES and sum(taken) < _QUICK_SECONDS:
        began = clock()
        backend.forward(tower, batch)
        taken.append(clock() - began)
    return min(taken)
