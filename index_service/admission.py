"""Which small searches are let in: none that would be answered after its caller has stopped waiting.

Owns the estimate of the wait, from how many are inside and how long searches have taken of late, and the refusal. Knows
no message and runs nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from service_runtime.errors import ResourceExhausted

Request = TypeVar("Request")
Result = TypeVar("Result")

_SHARE = 0.5
"""Of a caller's time that a search may be expected to take: what comes before and after its thread, which nobody
foresees, has the rest. A queue half as long keeps the threads as busy."""

_WEIGHT = 0.05
"""Of the newest search in the mean."""

_FIRST_SECONDS = 0.001
"""Expected of a search before any was seen; too little rather than too much, so that the first are let in."""

_LEAST_RETRY_SECONDS = 0.05
"""Nobody is asked to come again sooner."""


class SearchAdmission:
    """Belongs to one event loop; what ``timed`` wraps may run in any thread."""

    def __init__(self, threads: int) -> None:
        """``threads`` searches run side by side."""
        self._threads = threads
        self._inside = 0
        self._mean_seconds = _FIRST_SECONDS

    @contextmanager
    def enter(self, remaining_seconds: float | None) -> Iterator[None]:
        """Let a search in for the length of a block, whose caller waits so long; None is for ever.

        Raises ResourceExhausted, which says when to come again, where it would wait too long for a thread. One that
        finds a thread free is let in whatever is expected: an estimate that is never tried stays wrong.
        """
        expected = (self._inside + 1) * self._mean_seconds / self._threads
        waits = self._inside >= self._threads
        if waits and remaining_seconds is not None and expected > _SHARE * remaining_seconds:
            raise ResourceExhausted(
                f"with {self._inside} searching already an answer is expected in {expected:.3g} s; the caller waits "
                f"for {max(remaining_seconds, 0):.3g} s, of which a search may take {_SHARE:.0%}",
                retry_after_seconds=max(expected / 2, _LEAST_RETRY_SECONDS),
            )
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def timed(self, search: Callable[[Request], Result], request: Request) -> Result:
        """The answer to a request, and a lesson in how long searches take."""
        began = time.perf_counter()
        try:
            return search(request)
        finally:
            seconds = time.perf_counter() - began
            self._mean_seconds += (seconds - self._mean_seconds) * _WEIGHT
