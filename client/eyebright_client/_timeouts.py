"""How long to wait: a value class and a running deadline.

Owns the default timeouts. Knows no call.
"""

import time
from dataclasses import dataclass, fields

from eyebright_client._exceptions import DeadlineExceeded, InvalidArgument

LONGEST_SECONDS = 1e9
"""32 years. What passes about 9e9 wraps round: gRPC then takes a deadline for over at once, and threads can't wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Timeouts in seconds, each more than 0 and at most 1,000,000,000. Raises InvalidArgument for any other value."""

    search: float = 30.0
    """A whole ``search``, embedding included; in ``search_many``, one request."""

    embed: float = 120.0
    """One request to the embedder; large inputs take several. A large model on a CPU needs seconds for an image."""

    write: float = 60.0
    """One request that writes, updates, or deletes records."""

    read: float = 30.0
    """One request that reads records, statistics, collections, or the model."""

    batch: float = 600.0
    """In ``index_images``, the longest wait for the answer to one batch."""

    outage: float = 120.0
    """In ``index_images``, how long a service may be unavailable before the call gives up, since its last answer."""

    def __post_init__(self) -> None:
        for field in fields(self):
            check_timeout(field.name, getattr(self, field.name))


def check_timeout(field: str, seconds: float) -> None:
    """Raise InvalidArgument unless ``seconds`` is above 0 and at most LONGEST_SECONDS."""
    if not 0 < seconds <= LONGEST_SECONDS:
        raise InvalidArgument(
            f"{field}: expected a number of seconds above 0 and at most {LONGEST_SECONDS:,.0f}, not {seconds}",
            field=field,
        )


class Deadline:
    """A moment that several calls in a row share."""

    def __init__(self, seconds: float) -> None:
        check_timeout("timeout", seconds)
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left. Raises DeadlineExceeded when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"no answer within {self.seconds:g} s")
        return left
