"""Traces of a small service; and that there is nothing of them where the settings name no collector."""

import asyncio
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from grpc import aio
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from service_runtime import open_telemetry, tracing
from service_runtime.server import Server
from service_runtime.settings import ServiceSettings
from tests.integration.service_runtime_host import EchoHost
from tests.otlp_collector import SERVER, Collector, running_collector

SAMPLED = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


def traced(endpoint: str, **settings: Any) -> Server:
    return Server(EchoHost(), ServiceSettings(tracing_endpoint=endpoint, **settings), CollectorRegistry())


async def call(server: Server, method: str, request: bytes, **keywords: Any) -> str:
    """The status code of one call."""
    async with aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:
        made: Any = channel.unary_unary(f"/test.Echo/{method}")
        return str((await made(request, **keywords).code()).name)


async def test_a_call_and_how_it_ended(collector: Collector) -> None:
    async with traced(collector.endpoint) as server:
        codes = {
            method: await call(server, method, b"1234", metadata=(("x-request-id", method),))
            for method in ("Echo", "Refuse", "Break")
        }
    spans = {span.name.rpartition("/")[2]: span for span in collector.spans()}
    assert codes == {"Echo": "OK", "Refuse": "INVALID_ARGUMENT", "Break": "INTERNAL"}
    for method, code in codes.items():
        span = spans[method]
        assert (span.service, span.kind, span.parent_id) == ("test.Echo", SERVER, "")
        assert span.attributes["rpc.response.status_code"] == code
        assert span.attributes["eyebright.request_id"] == method
        assert span.attributes.get("error.type") == (None if code == "OK" else code)
        assert span.is_error == (code == "INTERNAL")
    assert spans["Break"].message == "internal error, request ID Break"
    assert "secret" not in str(spans["Break"])


async def test_a_stream_and_a_caller_who_leaves(collector: Collector) -> None:
    async with traced(collector.endpoint) as server, aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:
        echo: Any = channel.stream_stream("/test.Echo/EchoStream")
        whole = echo(iter([b"a", b"b"]), metadata=(("x-request-id", "whole"),))
        assert [answer async for answer in whole] == [b"a", b"b"]
        left = echo(iter([b"a", b"sleep 60"]), metadata=(("x-request-id", "left"),))
        assert await left.read() == b"a"
        left.cancel()
    codes = {
        span.attributes["eyebright.request_id"]: span.attributes["rpc.response.status_code"]
        for span in collector.spans()
    }
    assert codes == {"whole": "OK", "left": "CANCELLED"}


async def test_the_share_is_of_callers_that_trace_nothing(collector: Collector) -> None:
    async with traced(collector.endpoint, tracing_sample_ratio=0.0) as server:
        await call(server, "Echo", b"", metadata=(("x-request-id", "alone"),))
        await call(server, "Echo", b"", metadata=(("x-request-id", "traced"), ("traceparent", SAMPLED)))
        await call(server, "Echo", b"", metadata=(("x-request-id", "not"), ("traceparent", f"{SAMPLED[:-2]}00")))
    assert [span.attributes["eyebright.request_id"] for span in collector.spans()] == ["traced"]


async def test_a_collector_that_is_not_there_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_telemetry, "_CLOSE_SECONDS", 0.05)
    async with asyncio.timeout(60), traced("http://127.0.0.1:9") as server:
        assert await call(server, "Echo", b"") == "OK"


def test_without_an_endpoint_nothing_is_imported_and_no_interceptor_is_there() -> None:
    program = """
import asyncio, sys
from grpc import aio
from prometheus_client import CollectorRegistry
from service_runtime.server import Server
from service_runtime.settings import ServiceSettings
from tests.integration.service_runtime_host import EchoHost

given = []
make = aio.server
aio.server = lambda **options: given.extend(options["interceptors"]) or make(**options)

async def main():
    async with Server(EchoHost(), ServiceSettings(), CollectorRegistry()) as server:
        async with aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:
            assert await channel.unary_unary("/test.Echo/Echo")(b"x") == b"x"

asyncio.run(main())
print([type(one).__name__ for one in given], [name for name in sys.modules if name.startswith("opentelemetry")])
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "['CallInterceptor'] []\n"


def test_untraced_a_stage_allocates_nothing() -> None:
    def work(item: int) -> int:
        return item

    def tell() -> None:
        for _ in range(1000):
            tracing.record_stage("forward", 0.25, 1.5, 4)
            tracing.record_outcome("OK", "", "r1")
            assert not tracing.current_trace_id()
            assert tracing.carried(work) is work

    tell()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        tell()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 200, "not even one object for each of a thousand calls"


def test_without_the_extra_the_setting_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ValidationError, match=r'tracing_endpoint needs opentelemetry: pip install "eyebright\[otel\]"'):
        ServiceSettings(tracing_endpoint="http://localhost:4317")
    assert ServiceSettings().tracing_endpoint == ""


@pytest.mark.parametrize(
    "endpoint", ["localhost:4317", "http://localhost", "http://localhost:4317/v1/traces", "grpc://a:1"]
)
def test_an_endpoint_is_a_url_with_a_port(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="tracing_endpoint"):
        ServiceSettings(tracing_endpoint=endpoint)
