"""The places at which a test may have the process die or the disk fail.

Owns their names and what is armed. Unless a test arms one, ``reach`` does nothing. Knows nothing of what is done there.

A point is armed as NAME:COUNT:ACTION: at its COUNT-th time, 1 being the first, and with a "+" after the count every
time from then on. The action is "kill", which is kill -9, or the error number that the system call to come fails with,
"ENOSPC" or "EIO".
"""

import errno
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count

_SEGMENT = (
    "before_files",
    "file_written",
    "before_sync",
    "before_rename",
    "after_rename",
    "before_manifest",
    "before_manifest_rename",
    "after_manifest_rename",
    "before_removal",
)
_FILE = ("before_writing", "before_rename", "after_rename")
_COLLECTION = ("before_description", "before_rename", "after_rename")

POINTS = (
    "write.before_commit",
    "write.after_commit",
    *(f"seal.{moment}" for moment in _SEGMENT),
    *(f"merge.{moment}" for moment in _SEGMENT),
    *(f"{file}.{moment}" for file in ("column", "config", "queries", "tuning") for moment in _FILE),
    "create.before_shards",
    "create.shard_written",
    *(f"create.{moment}" for moment in _COLLECTION),
    "delete.before_rename",
    "delete.after_rename",
    "snapshot.before_copy",
    "snapshot.records_copied",
    "snapshot.before_file",
    "snapshot.before_manifest",
    "snapshot.before_manifest_rename",
    "snapshot.after_manifest_rename",
    "restore.before_files",
    "restore.before_file",
    "restore.before_opening",
    *(f"restore.{moment}" for moment in _COLLECTION),
)
"""Where the disk may fail, and the process may die."""

DEATH_POINTS = (*POINTS, "write.before_acknowledgement", "snapshot.complete")
"""Where the process may die: the disk is not asked for anything at the last ones."""

_ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}

_logger = logging.getLogger("eyebright.fault_points")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to happen, and where."""

    point: str
    first: int
    """At which time, 1 being the first."""
    lasting: bool
    """Whether every time from then on."""
    error_number: int | None
    """None kills."""


class _Armed:
    """A fault, and how often its point was reached."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._times = count(1)

    def reach(self, name: str) -> None:
        fault = self._fault
        if name != fault.point:
            return
        time = next(self._times)
        if time < fault.first or (time > fault.first and not fault.lasting):
            return
        if fault.error_number is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise OSError(fault.error_number, f"{os.strerror(fault.error_number)}, as fault point {name} was told")


_armed: _Armed | None = None
_work: ContextVar[str] = ContextVar("work")


def parse(armed: str) -> Fault:
    """What NAME:COUNT:ACTION says. Raises ValueError."""
    name, _, rest = armed.partition(":")
    times, _, action = rest.partition(":")
    if name not in (DEATH_POINTS if action == "kill" else POINTS):
        raise ValueError(f"expected a fault point ({', '.join(DEATH_POINTS)}), not {name!r} with {action!r}")
    lasting, times = times.endswith("+"), times.removesuffix("+")
    if not (times.isascii() and times.isdigit() and int(times)):
        raise ValueError(f"expected a count from 1, not {times!r}")
    if action != "kill" and action not in _ERRORS:
        raise ValueError(f"expected kill, {' or '.join(_ERRORS)}, not {action!r}")
    return Fault(name, int(times), lasting, _ERRORS.get(action))


def arm(armed: str) -> None:
    """Have NAME:COUNT:ACTION happen from now on, and nothing else; nothing at all where it is empty."""
    global _armed
    _armed = _Armed(parse(armed)) if armed else None
    if armed:
        _logger.warning("a fault point is armed: this service is being tested, and will fail", extra={"fault": armed})


def reach(name: str) -> None:
    """Pass a point. The "*" of a name such as "*.before_rename" stands for the work that ``during`` names.

    Raises OSError where one is armed.
    """
    if _armed is not None:
        _armed.reach(name.replace("*", _work.get("")))


@contextmanager
def during(work: str) -> Iterator[None]:
    """Say for the length of a block what it is that passes points which several works have in common."""
    token = _work.set(work)
    try:
        yield
    finally:
        _work.reset(token)
