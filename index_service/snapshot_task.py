"""A snapshot or a restore under way, as seen from outside: how far it is, and the wish that it end.

Owns what is counted on the way of a file's pieces. Knows neither where they come from nor where they go.
"""

import hashlib
from collections.abc import Iterable, Iterator
from enum import Enum
from threading import Event

from index_service.snapshot_manifest import FileDigest


class Stopped(Exception):
    """The work was told to stop, because nobody waits for it any more."""


class Phase(Enum):
    """What a snapshot or a restore is doing."""

    WAITING = "waiting"
    COPYING = "copying"
    TRANSFERRING = "transferring"
    OPENING = "opening"
    DONE = "done"


class Task:
    """A snapshot or a restore under way: how far it is, and whether to go on. Any thread may look, and stop it."""

    def __init__(self) -> None:
        self.phase = Phase.WAITING
        self.bytes_done = 0
        self.bytes_total = 0
        self._stopping = Event()

    def stop(self) -> None:
        """Have the work end soon, and remove what it has made."""
        self._stopping.set()

    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def check(self) -> None:
        """Raise Stopped once it was told to stop."""
        if self.stopped():
            raise Stopped


class MeasuredPieces:
    """The pieces of a file on their way, counted and digested. Iterating raises Stopped once the task is stopped."""

    def __init__(self, pieces: Iterable[bytes], task: Task) -> None:
        self._pieces = pieces
        self._task = task
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._task.check()
            self._sha256.update(piece)
            self.size_bytes += len(piece)
            self._task.bytes_done += len(piece)
            yield piece

    def digest(self) -> FileDigest:
        """What has passed so far."""
        return FileDigest(self.size_bytes, self._sha256.hexdigest())
