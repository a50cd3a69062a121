"""What a forward pass of a tower takes, by batch size, and how large a batch may be.

Owns the prediction: the shape of the curve comes from passes measured beforehand, its level follows the passes of late.
Knows neither queues nor backends.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping

_WEIGHT = 0.1
"""Of the newest pass in the level, which is averaged on a logarithmic scale: a level of twice the curve is as far from
it as one of a half."""

_FURTHEST = 4.0
"""By what factor one pass may seem to differ from the prediction: a pass held up by something else changes little."""


_PASSES_BEFORE_GROWTH = 256
"""Passes of as many items as the limit allows, before a limit that was lowered is doubled again. What took the memory
may be gone by then; if not, one pass in so many is made in vain."""


class TowerCost:
    """Seconds of a pass of n items. Threads may read while one thread observes.

    ``batch_limit`` is the size that is worth taking together; ``seconds`` holds measured passes by batch size. Without
    any, everything costs nothing until the first pass.
    """

    def __init__(self, batch_limit: int, seconds: Mapping[int, float] | None = None) -> None:
        if batch_limit < 1:
            raise ValueError(f"expected a batch limit of at least 1, not {batch_limit}")
        self._curve = tuple(sorted((seconds or {}).items()))
        self._sizes = [size for size, _ in self._curve]
        self._level = 1.0
        self._highest_limit = batch_limit
        self._full_passes = 0
        """Since the limit was changed last."""
        self.batch_limit = batch_limit
        """Most items of one pass."""

    def seconds(self, size: int) -> float:
        """Expected length of a pass of ``size`` items; 0 for none."""
        return self._level * self._on_curve(size)

    def clearing_seconds(self, count: int) -> float:
        """Expected time for ``count`` items in as few passes as the limit allows."""
        whole, rest = divmod(count, self.batch_limit)
        return whole * self.seconds(self.batch_limit) + self.seconds(rest)

    def size_within(self, seconds: float) -> int:
        """The largest batch within the limit that is expected to take at most so long; 0 when none is."""
        return bisect_right(range(1, self.batch_limit + 1), seconds, key=self.seconds)

    def observe(self, size: int, seconds: float) -> None:
        """A pass of ``size`` items took so long."""
        self._grow(size)
        if not self._curve:
            self._sizes, self._curve = [size], ((size, seconds),)
            return
        if seconds > 0 and (expected := self.seconds(size)) > 0:
            self._level *= min(max(seconds / expected, 1 / _FURTHEST), _FURTHEST) ** _WEIGHT

    def shrink(self, failed_size: int) -> None:
        """A batch of ``failed_size`` was too large for the memory: take half as many for a while, at least 1."""
        self.batch_limit = max(min(self.batch_limit, failed_size) // 2, 1)
        self._full_passes = 0

    def _grow(self, size: int) -> None:
        """Double a limit that was lowered, once enough passes have gone well that would have been larger without it."""
        if size < self.batch_limit or self.batch_limit == self._highest_limit:
            return
        self._full_passes += 1
        if self._full_passes >= _PASSES_BEFORE_GROWTH:
            self.batch_limit = min(2 * self.batch_limit, self._highest_limit)
            self._full_passes = 0

    def _on_curve(self, size: int) -> float:
        """Straight between measured sizes, in proportion beyond them."""
        if size < 1 or not self._curve:
            return 0.0
        after = bisect_left(self._sizes, size)
        if after == len(self._curve):
            last, seconds = self._curve[-1]
            return seconds * size / last
        above, seconds_above = self._curve[after]
        if after == 0:
            return seconds_above * size / above
        below, seconds_below = self._curve[after - 1]
        return seconds_below + (seconds_above - seconds_below) * (size - below) / (above - below)
