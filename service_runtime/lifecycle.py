"""Whether a running service is ready, alive, or can't go on.

Owns these states and says them to gRPC health, /readyz, /livez and serve(). Knows nothing of what is served: the hosted
reports to it.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from service_runtime.health import HealthServicer

_BEAT_SECONDS = 1.0

_logger = logging.getLogger("eyebright.lifecycle")


class Lifecycle:
    """The states of one service. Belongs to one event loop, but ``obstacle()`` and ``ailment()`` may be asked by any
    thread.
    """

    def __init__(self, service_name: str, ailment: Callable[[], str], stall_seconds: float) -> None:
        """``ailment`` is the hosted's; ``stall_seconds`` is how long the event loop may stand still."""
        self.health = HealthServicer(service_name)
        self.failed = asyncio.Event()
        """Set once the service can't go on."""
        self._ailment_of_hosted = ailment
        self._stall_seconds = stall_seconds
        self._open = False
        self._withdrawn = ""
        self._failure = ""
        self._ailing = False
        self._last_beat = time.monotonic()
        self._beating: asyncio.TimerHandle | None = None

    # For the hosted.

    def withdraw(self, reason: str) -> None:
        """Take readiness back: NOT_SERVING until restore(), while calls are still answered. Logged when it changes."""
        if not self._withdrawn:
            _logger.warning("not ready", extra={"reason": reason})
        self._withdrawn = reason
        self._tell()

    def restore(self) -> None:
        """Give readiness back; harmless when it was not withdrawn. Never before the start, never after the stop."""
        if self._withdrawn:
            _logger.info("ready again", extra={"reason": self._withdrawn})
        self._withdrawn = ""
        self._tell()

    def fail(self, error: BaseException) -> None:
        """Give up: NOT_SERVING at once, then a short drain and an exit status of 1. Only the first error is logged."""
        if self._failure:
            return
        self._failure = f"the service can't go on: {error}"
        self._ailing = True  # said below
        _logger.critical("the service can't go on", exc_info=error)
        self._tell()
        self.failed.set()

    # For the server.

    def start(self) -> None:
        """Begin to count the event loop's beats."""
        self._last_beat = time.monotonic()
        self._beating = asyncio.get_running_loop().call_later(_BEAT_SECONDS, self.start)

    def open(self) -> None:
        """Calls are accepted from now on."""
        self._open = True
        self._tell()

    def close(self) -> None:
        """No new calls: NOT_SERVING for good."""
        self._open = False
        self._tell()
        self.health.close()

    def stop(self) -> None:
        """Count no beats any more."""
        if self._beating is not None:
            self._beating.cancel()

    def obstacle(self) -> str:
        """Why no calls should be sent here; empty while it is ready."""
        if self._failure or not self._open:
            return self._failure or "starting or stopping"
        return self._withdrawn

    def ailment(self) -> str:
        """Why the process should be ended and started again; empty while it is alive. Logged when it changes."""
        ailment = self._failure or self._silence() or self._ailment_of_hosted()
        if ailment and not self._ailing:
            _logger.error("not alive", extra={"reason": ailment})
        self._ailing = bool(ailment)
        return ailment

    def _silence(self) -> str:
        silent = time.monotonic() - self._last_beat
        return f"the event loop has stood still for {silent:.1f} s" if silent > self._stall_seconds else ""

    def _tell(self) -> None:
        self.health.set_serving(not self.obstacle())
