"""A small collector of traces: a real gRPC server that takes spans by OTLP and keeps them.

``python -m tests.otlp_collector 4317`` prints each trace as a tree, some seconds after its last span
came.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

SERVER = Span.SPAN_KIND_SERVER
CLIENT = Span.SPAN_KIND_CLIENT

_QUIET_SECONDS = 6.0
"""After this a trace is believed to be whole: each process sends its spans every 5 seconds."""


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span as it came."""

    service: str
    """Who sent it."""
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    """Empty where a trace begins."""
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    is_error: bool
    message: str
    """Of the error."""

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent. Any thread may ask."""

    def __init__(self) -> None:
        self.address = ""
        self._lock = Lock()
        self._spans: list[ReceivedSpan] = []
        self._last_came: dict[str, float] = {}

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        spans = list(_spans(request))
        with self._lock:
            self._spans += spans
            self._last_came |= {span.trace_id: time.monotonic() for span in spans}
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    def spans(self) -> list[ReceivedSpan]:
        """All that came, in the order of their starts."""
        with self._lock:
            return sorted(self._spans, key=lambda span: (span.start_ns, -span.end_ns))

    def last_came(self) -> dict[str, float]:
        """When the last span of each trace came, on time.monotonic()'s scale."""
        with self._lock:
            return dict(self._last_came)

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        return [span for span in self.spans() if span.trace_id == trace_id]


def _spans(request: trace_service_pb2.ExportTraceServiceRequest) -> Iterator[ReceivedSpan]:
    for source in request.resource_spans:
        service = _attributes(source.resource.attributes)["service.name"]
        for scope in source.scope_spans:
            for span in scope.spans:
                yield ReceivedSpan(
                    service=service,
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    attributes=_attributes(span.attributes),
                    is_error=span.status.code == Status.STATUS_CODE_ERROR,
                    message=span.status.message,
                )


def _attributes(pairs: Sequence[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


@contextmanager
def running_collector(port: int = 0) -> Iterator[Collector]:
    """A collector on loopback for the length of a block."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2, "collector"))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def drawn(spans: Sequence[ReceivedSpan]) -> str:
    """A trace as a tree: when each span began, how long it took, and who says so."""
    first, known = spans[0].start_ns, {span.span_id for span in spans}
    lines = []

    def draw(parent: ReceivedSpan | None, depth: int) -> None:
        for span in spans:
            if span.parent_id == parent.span_id if parent else span.parent_id not in known:
                name = "  " * depth + span.name
                began = f"+{(span.start_ns - first) / 1e6:.2f} ms"
                error = f"  ERROR {span.message}" if span.is_error else ""
                lines.append(f"{name:<58}{began:>11}{span.seconds * 1e3:>9.2f} ms  {span.service}{error}")
                draw(span, depth + 1)

    draw(None, 0)
    return "\n".join(lines)


def main(port: int) -> None:
    """Print traces until Ctrl-C."""
    with running_collector(port) as collector:
        printed: set[str] = set()
        while True:
            time.sleep(0.5)
            quiet = time.monotonic() - _QUIET_SECONDS
            for trace_id, at in collector.last_came().items():
                if at < quiet and trace_id not in printed:
                    sys.stdout.write(f"trace {trace_id}\n{drawn(collector.trace(trace_id))}\n\n")
                    sys.stdout.flush()
                    printed.add(trace_id)


if __name__ == "__main__":
    main(int(sys.argv[1]))
