"""The threads that shards are searched and written in.

Owns how many there are. Search threads are fixed in number and run one OpenMP thread each, so that shards share the
cores instead of fighting for them; write threads mostly wait for the disk.
"""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from index_service.segment import prepare_worker
from service_runtime.cores import usable_cores

_WRITE_THREADS = 16
_LOWEST_PRIORITY = 19

Item = TypeVar("Item")
Result = TypeVar("Result")


def step_behind() -> None:
    """Call first in a thread of the background: it searches as a worker does, and makes way for all others."""
    prepare_worker()
    if sys.platform == "linux":  # where threads have priorities of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)


class Workers:
    """Two pools; work given to them gives no work to them in turn, so they can't wait for each other."""

    def __init__(self, search_threads: int) -> None:
        """``search_threads`` 0 means one per core this process may use."""
        count = search_threads or usable_cores()
        self._search = ThreadPoolExecutor(count, "search", initializer=prepare_worker)
        self._write = ThreadPoolExecutor(_WRITE_THREADS, "write")

    def search(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """``function`` of each item, side by side; the first error is raised."""
        return list(self._search.map(function, items))

    def write(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """``function`` of each item, side by side; the first error is raised. A single one stays in this thread."""
        if len(items) == 1:
            return [function(items[0])]
        return list(self._write.map(function, items))

    def close(self) -> None:
        """Wait for the work that is under way."""
        self._search.shutdown()
        self._write.shutdown()
