"""What became of the calls of one kind, and how long they took.

Owns the counts and the latency histograms (HDR: 1 us to 10 minutes, three digits), and their way between processes.
Knows no call.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hdrh.histogram import HdrHistogram

_LEAST_US, _MOST_US, _DIGITS = 1, 600_000_000, 3


class Fate(StrEnum):
    """What may become of a call."""

    ANSWERED = "answered"
    """In time, and nothing of it refused."""
    REFUSED = "refused"
    """The service said at once that it has no room."""
    LATE = "late"
    """Neither answered nor refused when its caller stopped waiting."""
    FAILED = "failed"
    """Any other end."""


def _histogram() -> Any:  # noqa: ANN401 - the package has no types
    return HdrHistogram(_LEAST_US, _MOST_US, _DIGITS)


@dataclass(slots=True)
class Outcome:
    """Calls of one kind. Latencies count from the moment at which a call was due, not from that at which it was sent:
    a caller that is held up by a slow answer so hides nothing ("coordinated omission").
    """

    counts: dict[Fate, int] = field(default_factory=lambda: dict.fromkeys(Fate, 0))
    taken_in: Any = field(default_factory=_histogram)
    """Latencies of what was answered, and of what was late: all that the service did not refuse."""
    refused: Any = field(default_factory=_histogram)
    """How long refusals took."""
    faults: dict[str, int] = field(default_factory=dict)
    """Why calls failed."""

    def add(self, fate: Fate, seconds: float, fault: str = "") -> None:
        """Count a call."""
        self.counts[fate] += 1
        if fate in (Fate.ANSWERED, Fate.LATE):
            self.taken_in.record_value(_microseconds(seconds))
        elif fate is Fate.REFUSED:
            self.refused.record_value(_microseconds(seconds))
        else:
            self.faults[fault] = self.faults.get(fault, 0) + 1

    @property
    def calls(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    @property
    def answered_share(self) -> float:
        """Of all calls."""
        return self.counts[Fate.ANSWERED] / max(self.calls, 1)

    def quantile_seconds(self, share: float) -> float:
        """Latency that this share of what was taken in did not pass."""
        return float(self.taken_in.get_value_at_percentile(100 * share)) / 1e6

    def merge(self, other: "Outcome") -> None:
        """Take in what another caller counted."""
        for fate, count in other.counts.items():
            self.counts[fate] += count
        self.taken_in.add(other.taken_in)
        self.refused.add(other.refused)
        for fault, count in other.faults.items():
            self.faults[fault] = self.faults.get(fault, 0) + count

    def to_json(self) -> dict[str, Any]:
        """For ``from_json``; histograms in HDR's own encoding."""
        return {
            "counts": self.counts,
            "taken_in": self.taken_in.encode().decode("ascii"),
            "refused": self.refused.encode().decode("ascii"),
            "faults": self.faults,
        }

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> "Outcome":
        """What ``to_json`` said."""
        outcome = cls(faults=said["faults"])
        for fate in Fate:
            outcome.counts[fate] = said["counts"][fate]
        outcome.taken_in.decode_and_add(said["taken_in"].encode("ascii"))
        outcome.refused.decode_and_add(said["refused"].encode("ascii"))
        return outcome


def total(outcomes: Iterable[Outcome]) -> Outcome:
    """All of them together."""
    whole = Outcome()
    for outcome in outcomes:
        whole.merge(outcome)
    return whole


def _microseconds(seconds: float) -> int:
    return min(max(round(seconds * 1e6), _LEAST_US), _MOST_US)
