"""The words in which an operation asks for I/O.

An operation is a generator: it yields steps, is sent their answers, and returns its result. Sync and async transports
perform the same steps, so that every operation is written once. Owns the steps; knows no message and no gRPC.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias, TypeVar

Result = TypeVar("Result")
Metadata: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values that go with a call."""
Message: TypeAlias = Any
"""A protobuf message, carried but not read by whoever uses this name."""


class Service(Enum):
    """Which service a call goes to."""

    EMBEDDER = "embedder"
    INDEX = "index"


@dataclass(frozen=True, slots=True)
class Call:
    """Make a unary call; the answer is its response message. Raises CallError into the operation."""

    service: Service
    method: str
    request: Message
    timeout_seconds: float
    request_id: str
    wait_for_ready: bool = False
    trace: Metadata = ()
    """Tells the service which trace it takes part in."""


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Begin a bidirectional call; the answer is a handle for the steps below."""

    service: Service
    method: str
    request_id: str
    trace: Metadata = ()


@dataclass(frozen=True, slots=True)
class OpenServerStream:
    """Begin a call whose answer comes in many messages; the answer is a handle for Receive and Finish. It is cancelled
    when the operation ends without Finish.
    """

    service: Service
    method: str
    request: Message
    request_id: str
    trace: Metadata = ()


@dataclass(frozen=True, slots=True)
class Send:
    """Hand a message to a stream, without waiting for it to be sent; the answer is None."""

    stream: Any
    request: Message


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for the next message of a stream; the answer is that message. Raises CallError into the operation, after
    which the stream is gone.
    """

    stream: Any
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Finish:
    """End a stream of which every answer was received; the answer is None."""

    stream: Any


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait; the answer is None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Run a function that may block on files; the answer is what it returns. What it raises leaves the operation."""

    function: Callable[[], Any]


Step: TypeAlias = Call | OpenStream | OpenServerStream | Send | Receive | Finish | Sleep | Work
Operation: TypeAlias = Generator[Step, Any, Result]


def work(function: Callable[[], Result]) -> Operation[Result]:
    """The typed form of ``yield Work(function)``."""
    result: Result = yield Work(function)
    return result
