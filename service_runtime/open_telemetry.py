"""Traces by OpenTelemetry: a span for every call, below the caller's if it sent one, and spans for its stages, sent by
OTLP over gRPC.

The only module here that imports OpenTelemetry, itself imported only where a setting says where traces go. Owns the
names of attributes: those of OpenTelemetry's conventions for RPC, where these have one. The library reads its own
variables for the rest: OTEL_EXPORTER_OTLP_HEADERS and _CERTIFICATE, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from platform import node
from typing import Any

import grpc
from grpc import aio
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service_runtime.process_metrics import distribution_version
from service_runtime.tracing import begin_call

_HEALTH = "/grpc.health.v1.Health/"
"""Not traced: probes come every few seconds."""

_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that make a server's span one of an error, by OpenTelemetry's conventions; others are the caller's fault."""

_CLOSE_SECONDS = 5.0
"""How long the last spans may take to be sent when the service stops."""

_parents = TraceContextTextMapPropagator()


class Tracing:
    """Sends the traces of one service. ``close()`` it at the end."""

    def __init__(self, endpoint: str, sample_ratio: float, service_name: str) -> None:
        """``endpoint`` as the setting has it. ``sample_ratio`` is for traces that begin here; a caller's own decision
        holds for what continues it.
        """
        version = distribution_version()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create(
                {"service.name": service_name, "service.version": version, "host.name": node()},
            ),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.interceptor = TracingInterceptor(self._provider.get_tracer("eyebright", version))

    def close(self) -> None:
        """Send what is left, as far as that is soon done: a collector that does not answer must not hold a stop up."""
        closing = threading.Thread(target=self._provider.shutdown, name="close-tracing", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


class TracingInterceptor(aio.ServerInterceptor):
    """Goes before CallInterceptor, whose handlers all take a stream of raw messages."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by grpc for each call before its handler."""
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or path.startswith(_HEALTH):
            return handler  # type: ignore[no-any-return]
        metadata = {key: value for key, value in handler_call_details.invocation_metadata if isinstance(value, str)}
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(handler.stream_stream, path, metadata), response_serializer=handler.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(
            self._unary(handler.stream_unary, path, metadata), response_serializer=handler.response_serializer
        )

    def _unary(
        self, inner: Callable[..., Awaitable[Any]], path: str, metadata: Mapping[str, str]
    ) -> Callable[..., Awaitable[Any]]:
        async def unary(requests: Any, context: Any) -> Any:
            with self._traced(path, metadata):
                return await inner(requests, context)

        return unary

    def _streaming(
        self, inner: Callable[..., Any], path: str, metadata: Mapping[str, str]
    ) -> Callable[..., AsyncIterator[Any]]:
        async def streaming(requests: Any, context: Any) -> AsyncIterator[Any]:
            with self._traced(path, metadata):
                async with aclosing(inner(requests, context)) as responses:
                    async for response in responses:
                        yield response

        return streaming

    @contextmanager
    def _traced(self, path: str, metadata: Mapping[str, str]) -> Iterator[None]:
        call = _Call(self._tracer, path.lstrip("/"), _parents.extract(metadata, Context()))
        begin_call(call)
        try:
            yield
        finally:
            call.end()


class _Call:
    """One call with its span."""

    def __init__(self, tracer: Tracer, method: str, parent: Context) -> None:
        self._tracer = tracer
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        """What makes nanoseconds since 1970 of those of time.monotonic()."""
        self._span: Span = tracer.start_span(method, parent, SpanKind.SERVER, attributes)
        self._within = set_span_in_context(self._span, parent)
        self._code, self._message, self._request_id = "CANCELLED", "", ""  # of an answer given up, nobody tells
        self.trace_id = format_trace_id(self._span.get_span_context().trace_id)

    def stage(self, name: str, seconds: float, ended: float, batch_size: int) -> None:
        """A span of its own below the call's, of a time that has passed."""
        if not self._span.is_recording():
            return
        end = round(ended * 1e9) + self._epoch_ns
        attributes = {"eyebright.batch_size": batch_size} if batch_size else None
        begun = end - round(seconds * 1e9)
        self._tracer.start_span(name, self._within, attributes=attributes, start_time=begun).end(end)

    def outcome(self, code: str, message: str, request_id: str) -> None:
        """Kept until the end."""
        self._code, self._message, self._request_id = code, message, request_id

    def end(self) -> None:
        """The answer, or the last one of a stream, is given."""
        self._span.set_attribute("rpc.response.status_code", self._code)
        self._span.set_attribute("eyebright.request_id", self._request_id)
        if self._code != "OK":
            self._span.set_attribute("error.type", self._code)
        if self._code in _FAULTS:
            self._span.set_status(Status(StatusCode.ERROR, self._message))
        self._span.end()
