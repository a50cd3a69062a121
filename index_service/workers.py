"""The threads that shards are searched and written in.

Owns how many work at a time. A search takes part in its own work, and as many others help as cores are free, with one
OpenMP thread each, so that searches share the cores instead of fighting for them; write threads mostly wait for the
disk.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from index_service.segment import prepare_worker
from service_runtime.cores import usable_cores
from service_runtime.tracing import carried

_WRITE_THREADS = 16
LOWEST_PRIORITY = 19
"""Of the values that ``nice`` takes, the one that makes way for all others."""


Item = TypeVar("Item")
Result = TypeVar("Result")

_of_thread = threading.local()


def step_behind(priority: int = LOWEST_PRIORITY) -> None:
    """Call first in a thread of the background: it searches as a worker does, and makes way for others."""
    prepare_worker()
    if sys.platform == "linux":  # where threads have priorities of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), priority)


class Workers:
    """Two kinds; work given to them gives no work to them in turn, so they can't wait for each other."""

    def __init__(self, search_threads: int) -> None:
        """``search_threads`` 0 means one per core this process may use."""
        count = search_threads or usable_cores()
        self._places = _Places(count)
        self._search = ThreadPoolExecutor(count, "search", initializer=prepare_worker)
        self._write = ThreadPoolExecutor(_WRITE_THREADS, "write")

    def search(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """``function`` of each item, in this thread and in others as far as places are free; the first error is raised.

        Who comes first gets a place first.
        """
        _prepare_this_thread()
        self._places.take()
        task = _Task(function, items)
        helpers: list[Future[None]] = []
        try:
            while len(helpers) < len(items) - 1 and self._places.take_if_free():
                helpers.append(self._search.submit(self._help, task))
            task.work()
        finally:
            self._places.give_back()
            for helper in helpers:
                helper.result()
        return task.results()

    @property
    def waiting(self) -> int:
        """Searches that wait for a core."""
        return self._places.waiting

    def write(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """``function`` of each item, side by side; the first error is raised. A single one stays in this thread."""
        if len(items) == 1:
            return [function(items[0])]
        return list(self._write.map(carried(function), items))

    def close(self) -> None:
        """Wait for the work that is under way."""
        self._search.shutdown()
        self._write.shutdown()

    def _help(self, task: "_Task[Item, Result]") -> None:
        try:
            task.work()
        finally:
            self._places.give_back()


class _Task(Generic[Item, Result]):
    """Items that several threads work through; the first error ends it."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._function = function
        self._left = deque(enumerate(items))
        self._results: dict[int, Result] = {}
        self._error: BaseException | None = None

    def work(self) -> None:
        """Take one item after another, the last one first, until none is left."""
        while self._left:
            try:
                place, item = self._left.pop()
            except IndexError:
                return  # another thread was quicker
            try:
                self._results[place] = self._function(item)
            except BaseException as error:
                self._error = self._error or error
                self._left.clear()

    def results(self) -> list[Result]:
        """What came of the items, in their order, once nobody works any more."""
        if self._error is not None:
            raise self._error
        return [self._results[place] for place in range(len(self._results))]


class _Places:
    """A number of places that threads take and give back; who waits longest is next."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[threading.Lock] = deque()
        self._changing = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many threads wait for a place."""
        return len(self._waiting)

    def take(self) -> None:
        """Take a place; waits for one."""
        with self._changing:
            if self._free:
                self._free -= 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def take_if_free(self) -> bool:
        """Take a place if there is one that nobody waits for."""
        with self._changing:
            free = self._free > 0
            self._free -= free
            return free

    def give_back(self) -> None:
        """Give a place to who waits longest, if anyone does."""
        with self._changing:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


def _prepare_this_thread() -> None:
    if not getattr(_of_thread, "prepared", False):
        prepare_worker()
        _of_thread.prepared = True
