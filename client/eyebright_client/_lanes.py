"""Streams of batches that outlive their connections.

Owns what was sent and not yet answered, when to send it again, and when to give up. Knows nothing of what the batches
hold. Performs no I/O.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Generic, TypeVar

from eyebright_client._calls import Finish, Message, OpenStream, Operation, Receive, Send, Service, Sleep
from eyebright_client._exceptions import CallError, Cancelled, InternalError, ResourceExhausted, Unavailable
from eyebright_client._session import Session

Answer = TypeVar("Answer")
Load = TypeVar("Load")

_FIRST_BACKOFF_SECONDS = 0.1
_LONGEST_BACKOFF_SECONDS = 5.0


class Patience:
    """When to try an unavailable service again, and when to give up."""

    def __init__(self, outage_seconds: float) -> None:
        self._outage_seconds = outage_seconds
        self._failing_since: float | None = None
        self._failures = 0

    def answered(self) -> None:
        """The service works."""
        self._failing_since, self._failures = None, 0

    def wait(self, error: CallError) -> Operation[None]:
        """Sleep before the next try, twice as long each time, give or take a half so that clients don't come in step.

        Raises the error when it is not worth a try, or the service has not answered for the time of an outage.
        """
        overloaded = isinstance(error, ResourceExhausted) and error.retry_after_seconds is not None
        # CANCELLED comes from a server that stops with streams open: nothing here cancels and then waits.
        if not (overloaded or isinstance(error, Unavailable | Cancelled)):
            raise error
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now - self._failing_since >= self._outage_seconds:
            raise error
        longest = min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2**self._failures)
        self._failures += 1
        yield Sleep(max(longest * random.uniform(0.5, 1.0), error.retry_after_seconds or 0.0))  # noqa: S311

    def insist(self, attempt: Callable[[], Operation[Answer]]) -> Operation[Answer]:
        """The answer to a unary call, tried until it comes."""
        while True:
            try:
                answer = yield from attempt()
            except CallError as error:
                yield from self.wait(error)
            else:
                self.answered()
                return answer


class Lane(Generic[Load]):
    """A stream of batches that outlives its connection: what was sent and not answered is kept, and sent again.

    After a failure the oldest batch goes alone, and the others once it was answered: if the service refuses it, writing
    on while the refusal is on its way would hide the reason.
    """

    def __init__(self, session: Session, service: Service, method: str) -> None:
        self._opening = OpenStream(service, method, session.request_id)
        self._timeout_seconds = session.timeouts.batch
        self._patience = Patience(session.timeouts.outage)
        self._stream: Any = None
        self._sent = 0
        self.pending: deque[tuple[Message, Load]] = deque()

    def send(self, request: Message, load: Load) -> Operation[None]:
        """Hand over a batch; ``load`` comes back with its answer."""
        all_sent = self._sent == len(self.pending)
        self.pending.append((request, load))
        if all_sent:
            yield from self._send_up_to(len(self.pending))

    def receive(self) -> Operation[tuple[Message, Load]]:
        """The answer to the oldest batch, with its load. Raises CallError when no answer can be had."""
        while True:
            yield from self._send_up_to(1)
            try:
                response = yield Receive(self._stream, self._timeout_seconds)
            except CallError as error:
                self._stream = None
                yield from self._patience.wait(error)
                continue
            self._patience.answered()
            request, load = self.pending.popleft()
            self._sent -= 1
            if response.batch_id != request.batch_id:
                raise InternalError(f"expected the answer to batch {request.batch_id}, not {response.batch_id}")
            yield from self._send_up_to(len(self.pending))
            return response, load

    def _send_up_to(self, count: int) -> Operation[None]:
        """Have the first ``count`` pending batches sent, over a new stream if there is none."""
        if self._stream is None:
            self._stream = yield self._opening
            self._sent = 0
        for request, _ in islice(self.pending, self._sent, count):
            yield Send(self._stream, request)
        self._sent = max(self._sent, count)

    def finish(self) -> Operation[None]:
        """End the stream in good order, so that the service does not take it for a client that went away."""
        if self._stream is not None:
            yield Finish(self._stream)
