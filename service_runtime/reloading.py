"""Values read from files, and read again when the files change.

Owns when a file is looked at, and that one that can't be used leaves the value as it was. Knows no content.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter

Value = TypeVar("Value")
Signature = tuple[tuple[int, ...] | None, ...]

_LOOK_SECONDS = 1.0
"""How old a value may be: to look at the files costs a few microseconds, too much for every call."""

_logger = logging.getLogger("eyebright.reloading")


class ReloadMetrics:
    """What is counted of files that are read again."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.failures = Counter(
            "eyebright_reload_failures",
            "Times that changed files could not be used, so that what was read before went on.",
            ("what",),
            registry=registry,
        )


class Reloading(Generic[Value]):
    """A value that follows its files. Any thread may ask for it."""

    def __init__(
        self, what: str, paths: Sequence[Path], read: Callable[[], Value], metrics: ReloadMetrics | None = None
    ) -> None:
        """``read`` makes the value of the files. Raises OSError, as it does, when they can't be used at first."""
        self._what = what
        self._paths = tuple(paths)
        self._read = read
        self._metrics = metrics
        self._lock = Lock()
        self._seen = self._signature()
        self._value = read()
        self._look_at = time.monotonic() + _LOOK_SECONDS
        if metrics is not None:
            metrics.failures.labels(what)  # 0 before the first failure

    def get(self) -> Value:
        """The value, at most a second older than the files. Never raises: a bad file is logged and counted."""
        if time.monotonic() >= self._look_at and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._look_at = time.monotonic() + _LOOK_SECONDS
                self._lock.release()
        return self._value

    def _look(self) -> None:
        before = self._signature()
        if before == self._seen:
            return
        try:
            value = self._read()
        except OSError as error:
            self._seen = before
            if self._metrics is not None:
                self._metrics.failures.labels(self._what).inc()
            _logger.error(
                "changed files can't be used; what was read before goes on",  # the message of an error holds no secret
                extra={"what": self._what, "reason": str(error)},
            )
            return
        if self._signature() != before:
            return  # changed while they were read, so perhaps half of each
        self._value, self._seen = value, before
        _logger.info("read again", extra={"what": self._what, "files": [str(path) for path in self._paths]})

    def _signature(self) -> Signature:
        return tuple(_signature(path) for path in self._paths)


def _signature(path: Path) -> tuple[int, ...] | None:
    """What differs when a file was written, replaced or made readable; None where there is none."""
    try:
        status = path.stat()  # through symbolic links: Kubernetes replaces a secret by turning one round
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
