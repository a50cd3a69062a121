"""How long a call would take if it were let in now.

Owns the estimate, from what waits and what passes have cost of late, and its margin, from what calls took in the end.
Lets nobody in and keeps nobody out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from embedder_service.backends import Tower
from embedder_service.items import Priority
from embedder_service.tower_cost import TowerCost

_WEIGHT = 0.05
"""Of the newest call in what is learnt from calls."""

_DEVIATIONS = 4.0
"""How far beyond the mean the margin lies. With 2, one call in a hundred of those that overload lets in was late."""

_FIRST_MEAN, _FIRST_DEVIATION = math.log(1.1), 0.1

_FURTHEST = math.log(4.0)
"""By what factor one call may seem to differ from what was expected."""

_LEAST_OBSERVED_SECONDS = 0.05
"""Calls that wait less say nothing of those that wait long: there, what a call costs beside its pass weighs more."""

_LEAST_RETRY_SECONDS = 0.05
"""Nobody is asked to come again sooner."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """How long a call would take, in seconds."""

    ahead_seconds: float
    """Until its first item's turn comes."""
    own_seconds: float
    """From then on."""
    margin: float = 1.0
    """How many times as long it may well take. Without it half of the calls of an overloaded tower would be computed
    and come too late."""

    @property
    def seconds(self) -> float:
        """The whole."""
        return self.ahead_seconds + self.own_seconds

    def is_late(self, remaining_seconds: float) -> bool:
        """Whether a caller that waits so long would wait in vain. With nothing ahead it would not, whatever is
        expected: a prediction that is never tried stays wrong.
        """
        return self.ahead_seconds > 0 and self.seconds * self.margin > remaining_seconds

    def retry_seconds(self, remaining_seconds: float) -> float:
        """When half of what is ahead will have left, and what is left would be in time; at the latest when nothing is
        ahead.
        """
        late = min(self.seconds * self.margin - remaining_seconds, self.ahead_seconds)
        return max(late, self.ahead_seconds / 2, _LEAST_RETRY_SECONDS)


class Queued(Protocol):
    """The device's queue, as far as a forecast needs it."""

    def waiting(self, tower: Tower, priority: Priority) -> int:
        """Items that wait for the device."""

    def remaining_seconds(self) -> float:
        """When the device is expected to be free, in seconds from now."""


class Decoding(Protocol):
    """The decoding threads, as far as a forecast needs them."""

    def waiting(self, priority: Priority) -> int:
        """Images that wait to be decoded."""

    def clearing_seconds(self, count: int) -> float:
        """Expected time to decode so many."""


class Forecast:
    """Expects what a call would take where ``workers`` passes run side by side."""

    def __init__(
        self,
        costs: Mapping[Tower, TowerCost],
        bulk_share: float,
        queued: Queued,
        decoding: Decoding,
        workers: int = 1,
    ) -> None:
        self._costs = costs
        self._workers = workers
        self._queued = queued
        self._decoding = decoding
        rivals = {Priority.INTERACTIVE: bulk_share, Priority.BULK: 1 - bulk_share}
        self._rival_seconds = {
            priority: share / (1 - share) if share < 1 else float("inf") for priority, share in rivals.items()
        }
        """What the other class takes of the device at most for each second that this class has it."""
        self._mean = _FIRST_MEAN
        self._deviation = _FIRST_DEVIATION
        """Of the logarithm of what calls took, in what was expected of them."""

    def expect(self, tower: Tower, priority: Priority, count: int) -> Expectation:
        """For a call of ``count`` items that were to come now."""
        cost = self._costs[tower]
        own = max(cost.clearing_seconds(count) / self._workers, cost.seconds(min(count, 1)))
        lane = self._lane_seconds(tower, priority)
        # Towers share the device by cost: while this lane has it for a second, the other one has it for as long.
        sibling = sum(self._lane_seconds(other, priority) for other in self._costs if other is not tower)
        ahead = lane + min(sibling, lane + own)
        rival = Priority.BULK if priority is Priority.INTERACTIVE else Priority.INTERACTIVE
        if rival_seconds := sum(self._lane_seconds(each, rival) for each in self._costs):
            ahead += min(rival_seconds, (ahead + own) * self._rival_seconds[priority])
        ahead += self._queued.remaining_seconds()
        if tower is Tower.IMAGE:
            ahead = max(ahead, self._decoding.clearing_seconds(self._decoding.waiting(priority)))
            own = max(own, self._decoding.clearing_seconds(count))
        return Expectation(ahead, own, math.exp(self._mean + _DEVIATIONS * self._deviation))

    def observe(self, expected: Expectation, seconds: float, *, answered: bool) -> None:
        """A call took so long; at least so long where it was not ``answered``."""
        if expected.ahead_seconds < _LEAST_OBSERVED_SECONDS or seconds <= 0:
            return
        ratio = min(max(math.log(seconds / expected.seconds), -_FURTHEST), _FURTHEST)
        if not answered and ratio < self._mean:
            return  # its caller left before anything could be learnt
        self._deviation += (abs(ratio - self._mean) - self._deviation) * _WEIGHT
        self._mean += (ratio - self._mean) * _WEIGHT

    def _lane_seconds(self, tower: Tower, priority: Priority) -> float:
        count = self._queued.waiting(tower, priority)
        if tower is Tower.IMAGE:
            count += self._decoding.waiting(priority)
        return self._costs[tower].clearing_seconds(count) / self._workers if count else 0.0
