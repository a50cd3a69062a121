"""How a CPU's cores are used: by one forward pass after another, or by several side by side.

Owns that choice. A pass of a small tower is many short steps, and two threads that meet after each of them take longer
than one alone; a large tower is faster the more cores it has. Knows neither towers nor torch.
"""

import time
from collections.abc import Callable, Iterable

_MOST_WORKERS = 4
"""Python hands out the steps of every pass, one at a time: more passes than this would wait for each other."""

_RUNS = 4
"""How often each is measured; the quickest counts, as the first one takes longer."""

_LARGE_SECONDS = 0.05
"""A pass of one item that takes longer on all cores is of no small tower, and not worth measuring again."""

_SLOWER = 1.25
"""How many times as long as on all cores a lone item may take for the sake of many."""


def choose_workers(set_threads: Callable[[int], None], passes: Iterable[Callable[[], object]], cores: int) -> int:
    """How many passes run side by side; the threads of each are set accordingly.

    ``passes`` each embed one item, of every tower in turn; ``set_threads`` says how many threads a pass takes.
    """
    workers = min(cores, _MOST_WORKERS)
    set_threads(cores)
    if workers == 1:
        return 1
    for run in passes:
        wide = _seconds(run)
        if wide > _LARGE_SECONDS:
            return 1
        set_threads(cores // workers)
        narrow = _seconds(run)
        set_threads(cores)
        if narrow > _SLOWER * wide:
            return 1
    set_threads(cores // workers)
    return workers


def _seconds(run: Callable[[], object]) -> float:
    """The quickest of some runs; of one that is far from quick, the first."""
    taken: list[float] = []
    while len(taken) < _RUNS and (not taken or taken[0] < 10 * _LARGE_SECONDS):
        began = time.monotonic()
        run()
        taken.append(time.monotonic() - began)
    return min(taken)
