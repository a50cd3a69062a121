"""What becomes of an operation's steps in a trace; and that there is nothing of it in a client without a provider."""

import subprocess
import sys
from collections.abc import Generator
from typing import Any

import pytest
from eyebright_client._calls import Call, Finish, OpenStream, Receive, Send, Service, Step, Work
from eyebright_client._exceptions import ImageUnreadable, NotFound, Unavailable
from eyebright_client._tracing import Tracing
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id

SEARCH = Call(Service.INDEX, "Search", "request", 1.0, "r1")
STREAM = OpenStream(Service.INDEX, "UpsertStream", "r1")


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exported: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return Tracing(provider)


def attribute(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {}).get(name)


def test_a_call_carries_its_spans_place(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    def operation() -> Generator[Step, Any, str]:
        answer = yield SEARCH
        return f"{answer}!"

    steps = tracing.traced("search", operation())
    step = next(steps)
    assert isinstance(step, Call)
    with pytest.raises(StopIteration) as ended:
        steps.send("answer")
    assert ended.value.value == "answer!"
    called, root = exported.get_finished_spans()
    assert (root.name, called.name) == ("search", "eyebright.index.v1.IndexService/Search")
    assert called.parent is not None
    assert called.parent.span_id == root.context.span_id
    ((name, value),) = step.trace
    assert (name, value.split("-")[2]) == ("traceparent", format_span_id(called.context.span_id))
    assert (step.request, step.request_id, step.timeout_seconds) == ("request", "r1", 1.0)


def test_a_call_that_fails_fails_alone_when_the_operation_goes_on(
    tracing: Tracing, exported: InMemorySpanExporter
) -> None:
    def operation() -> Generator[Step, Any, str]:
        try:
            yield SEARCH
        except NotFound:
            found: str = yield SEARCH
            return found
        raise AssertionError

    steps = tracing.traced("search", operation())
    next(steps)
    steps.throw(NotFound("none"))
    with pytest.raises(StopIteration):
        steps.send("found")
    first, second, root = exported.get_finished_spans()
    assert attribute(first, "rpc.response.status_code") == "NOT_FOUND"
    assert [span.status.is_ok for span in (first, second, root)] == [False, True, True]


def test_a_stream_lasts_until_it_is_finished_or_breaks(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    def operation() -> Generator[Step, Any, None]:
        for _ in range(2):
            stream = yield STREAM
            yield Send(stream, "batch")
            try:
                yield Receive(stream, 1.0)
            except Unavailable:
                continue
            yield Finish(stream)

    first, second = object(), object()
    steps = tracing.traced("upsert", operation())
    next(steps)
    assert steps.send(first) == Send(first, "batch")
    assert not exported.get_finished_spans()
    steps.send(None)
    steps.throw(Unavailable("gone"))
    steps.send(second)
    steps.send(None)
    assert steps.send("acknowledged") == Finish(second)
    with pytest.raises(StopIteration):
        steps.send(None)
    codes = [attribute(span, "rpc.response.status_code") for span in exported.get_finished_spans()]
    assert codes == ["UNAVAILABLE", "OK", None]


def test_a_file_that_can_not_be_read_fails_no_call(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    def operation() -> Generator[Step, Any, None]:
        yield Work(list)

    steps = tracing.traced("index_images", operation())
    next(steps)
    with pytest.raises(ImageUnreadable):
        steps.throw(ImageUnreadable("no such file"))
    (root,) = exported.get_finished_spans()
    assert attribute(root, "error.type") == "ImageUnreadable"
    assert not root.status.is_ok


def test_an_operation_that_is_left_is_marked_and_closed(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    closed = []

    def operation() -> Generator[Step, Any, None]:
        try:
            yield STREAM
            yield SEARCH
        finally:
            closed.append(True)

    steps = tracing.traced("upsert", operation())
    next(steps)
    steps.send(object())
    steps.close()
    assert closed
    *calls, root = exported.get_finished_spans()
    assert [attribute(span, "rpc.response.status_code") for span in calls] == ["CANCELLED", "CANCELLED"]
    assert not root.status.is_ok


def test_without_a_provider_nothing_is_imported() -> None:
    program = (
        "import sys; from eyebright_client import Client, Timeouts, Unavailable\n"
        "try: Client('localhost:1', 'localhost:1').list_collections()\n"
        "except Unavailable: print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
