"""What a service tells of the call that it answers, for a trace.

Owns the seam: which call this is, and how its stages reach it. Knows no OpenTelemetry: ``open_telemetry`` does, which
is imported only where the settings say where traces go. Until then no call is traced, and every function here returns
at once.
"""

from collections.abc import Callable
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_LIBRARIES = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc")


class TracedCall(Protocol):
    """A call that is being answered and has a place in a trace, whether or not that is recorded."""

    trace_id: str
    """32 hexadecimal digits."""

    def stage(self, name: str, seconds: float, ended: float, batch_size: int) -> None:
        """One stage has ended."""

    def outcome(self, code: str, message: str, request_id: str) -> None:
        """What the call is answered with."""


_call: ContextVar[TracedCall | None] = ContextVar("eyebright_traced_call", default=None)


def begin_call(call: TracedCall) -> None:
    """From here on this task, and what it starts, answers this call."""
    _call.set(call)


def current_trace_id() -> str:
    """The trace of the call being answered; empty outside one, and while nothing is traced."""
    call = _call.get()
    return "" if call is None else call.trace_id


def record_stage(name: str, seconds: float, ended: float, batch_size: int = 0) -> None:
    """Tell of a stage of the call being answered that ended at ``ended`` on time.monotonic()'s scale.

    ``batch_size`` counts what was worked on together, where that is more than this call's; 0 says nothing.
    """
    call = _call.get()
    if call is not None:
        call.stage(name, seconds, ended, batch_size)


def record_outcome(code: str, message: str, request_id: str) -> None:
    """Tell what the call being answered is answered with."""
    call = _call.get()
    if call is not None:
        call.outcome(code, message, request_id)


def carried(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """The function for other threads to call on behalf of the call being answered; itself where none is traced."""
    call = _call.get()
    if call is None:
        return function

    def on_behalf(item: Item) -> Result:
        before = _call.set(call)
        try:
            return function(item)
        finally:
            _call.reset(before)

    return on_behalf


def check_installed() -> None:
    """Raise ValueError, which says how to get it, where OpenTelemetry is not installed."""
    for name in _LIBRARIES:  # from the top down: looking below what is missing raises
        if find_spec(name) is None:
            raise ValueError(f'tracing_endpoint needs {name}: pip install "eyebright[otel]"')
