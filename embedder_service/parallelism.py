"""How a CPU's cores are used: by one forward pass after another, or by several side by side.

Owns that choice, and how many threads a pass takes that begins now. A pass of a small tower is many short steps, and
threads that meet after each of them wait for each other, the more so the busier the cores are; a large tower is faster
the more cores it has, and side by side its passes gain nothing. Knows neither towers nor torch.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

_MOST_WORKERS = 4
"""Python hands out the steps of every pass, one at a time: more passes than this would wait for each other."""

_RUNS = 4
"""How often each is measured; the quickest counts, as the first one takes longer."""

_SMALL_SECONDS = 0.01
"""A pass of one item that takes longer on all cores is of no small tower. Measured on two cores: the demo checkpoint's,
of 1.5 ms, gave 872 images a second side by side and 544 one after another; a base model's caption takes 16 ms on both
cores and 27 on one, its pictures 45 ms, and as many a second either way."""


def choose_workers(passes: Iterable[Callable[[], object]], cores: int) -> int:
    """How many passes run side by side; ``passes`` each embed one item on all cores, of every tower in turn."""
    is_small = cores > 1 and all(_seconds(run) < _SMALL_SECONDS for run in passes)
    return min(cores, _MOST_WORKERS) if is_small else 1


def _seconds(run: Callable[[], object]) -> float:
    """The quickest of some runs; of one that is far from quick, the first."""
    taken: list[float] = []
    while len(taken) < _RUNS and (not taken or taken[0] < 10 * _SMALL_SECONDS):
        began = time.monotonic()
        run()
        taken.append(time.monotonic() - began)
    return min(taken)


class Threads:
    """How many threads each of the passes under way takes, out of so many as all of them may use."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._part = threads
        self._lone_takes_all = False
        self._owner = 0
        self._running = 0
        self._lock = Lock()

    def share(self, passes: int, *, lone_takes_all: bool) -> None:
        """Have so many passes share the threads from now on, at least one each.

        ``lone_takes_all`` says whether one that begins while no other is under way takes all of them nevertheless: for
        a picture or a caption that comes alone, that is quickest. Only in that thread of Python's which does so first:
        each has OpenMP threads of its own, and where these are more than the cores they no longer spin for each other.
        """
        self._part = max(self._threads // passes, 1)
        self._lone_takes_all = lone_takes_all
        self._owner = 0

    @contextmanager
    def taken(self) -> Iterator[int]:
        """The threads of a pass that takes the length of the block."""
        with self._lock:
            self._running += 1
            threads = self._threads if self._running == 1 and self._is_owner() else self._part
        try:
            yield threads
        finally:
            with self._lock:
                self._running -= 1

    def _is_owner(self) -> bool:
        if not self._lone_takes_all:
            return False
        self._owner = self._owner or get_ident()
        return self._owner == get_ident()
