"""Traces by OpenTelemetry: a span for an operation, and one below it for each of its calls.

The only module here that imports OpenTelemetry, itself imported only by a client that was given a tracer provider.
Owns what an operation's steps are in a trace; performs no step itself, so that one form serves both clients.
"""

from collections.abc import Generator
from dataclasses import replace
from importlib.metadata import version
from typing import Any, TypeVar

try:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f'tracer_provider needs {error.name}: pip install "eyebright[otel]"') from error

from eyebright_client._calls import Call, Finish, OpenServerStream, OpenStream, Operation, Receive, Step
from eyebright_client._exceptions import CallError
from eyebright_client._messages import full_method

__all__ = ["TracerProvider", "Tracing"]

Result = TypeVar("Result")

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Puts the operations of a client into traces of a provider."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("eyebright_client", version("eyebright"))

    def traced(self, name: str, operation: Operation[Result]) -> Operation[Result]:
        """The same operation within a span, below the one that is current when it is begun."""
        root = self._tracer.start_span(name)
        calls = _Calls(self._tracer, set_span_in_context(root))
        try:
            return (yield from _steps(operation, calls))
        except GeneratorExit:  # by what no operation is told of: the caller went away, a file can't be read
            root.set_status(Status(StatusCode.ERROR, "left before its end"))
            raise
        except Exception as error:
            root.set_attribute("error.type", type(error).__qualname__)
            root.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        finally:
            operation.close()
            calls.close()
            root.end()


def _steps(operation: Operation[Result], calls: "_Calls") -> Generator[Step, Any, Result]:
    """What an operation yields, with its calls in their spans."""
    try:
        step = next(operation)
        while True:
            asked = calls.begun(step)
            try:
                answer = yield asked
            except CallError as error:
                calls.failed(asked, error)
                step = operation.throw(error)
            else:
                calls.answered(asked, answer)
                step = operation.send(answer)
    except StopIteration as stop:
        result: Result = stop.value
        return result


class _Calls:
    """The spans of the calls of one operation that have not ended."""

    def __init__(self, tracer: Tracer, context: Context) -> None:
        self._tracer = tracer
        self._context = context
        self._call: Span | None = None
        """Of the step under way, when it begins a call."""
        self._streams: dict[int, Span] = {}
        """By the identity of the handle, which the operation holds for as long."""

    def begun(self, step: Step) -> Step:
        """The step as it is to be performed: one that begins a call carries its span's place."""
        if not isinstance(step, Call | OpenStream | OpenServerStream):
            return step
        method = full_method(step.service, step.method)
        attributes = {"rpc.system.name": "grpc", "rpc.method": method, "eyebright.request_id": step.request_id}
        self._call = self._tracer.start_span(method, self._context, SpanKind.CLIENT, attributes)
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, set_span_in_context(self._call, self._context))
        return replace(step, trace=tuple(carrier.items()))

    def answered(self, step: Step, answer: object) -> None:
        """A step went well."""
        match step:
            case Call():
                _end(self._take(), "OK")
            case OpenStream() | OpenServerStream():
                self._streams[id(answer)] = self._take()
            case Finish(stream):
                _end(self._streams.pop(id(stream)), "OK")

    def failed(self, step: Step, error: CallError) -> None:
        """A step failed, and with it its call, if it was one of a call."""
        match step:
            case Call() | OpenStream() | OpenServerStream():
                span = self._take()
            case Receive(stream):
                span = self._streams.pop(id(stream))
            case _:
                return
        span.set_attribute("error.type", error.code.name)
        span.set_status(Status(StatusCode.ERROR, error.message))
        _end(span, error.code.name)

    def close(self) -> None:
        """End the calls that the operation left as they were; they are cancelled."""
        for span in (*self._streams.values(), *(() if self._call is None else (self._call,))):
            _end(span, "CANCELLED")

    def _take(self) -> Span:
        span, self._call = self._call, None
        assert span is not None, "a call that ends has begun"
        return span


def _end(span: Span, code: str) -> None:
    span.set_attribute("rpc.response.status_code", code)
    span.end()
