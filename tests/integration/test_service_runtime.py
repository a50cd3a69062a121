"""What every hosted service does around its calls, shown on a small one."""

import asyncio
import json
import logging
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from service_runtime.server import Server
from service_runtime.settings import ServiceSettings
from tests.integration.service_runtime_host import EchoHost

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ("", "test.Echo")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server(EchoHost(), ServiceSettings(drain_seconds=1), CollectorRegistry()) as running:
        yield running


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as opened:
        yield opened


def _method(channel: aio.Channel, name: str) -> Any:
    return channel.unary_unary(f"/test.Echo/{name}")


def _stream(channel: aio.Channel, *requests: bytes) -> Any:
    method: Any = channel.stream_stream("/test.Echo/EchoStream")
    return method(iter(requests))


def _get(server: Server, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.ports.metrics}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_request_id_is_kept_when_given_and_made_when_not(channel: aio.Channel) -> None:
    echo = _method(channel, "Echo")
    call = echo(b"x", metadata=(("x-request-id", "mine-1"),))
    assert await call == b"x"
    assert dict(await call.trailing_metadata())["x-request-id"] == "mine-1"
    for given in ((), (("x-request-id", "with space"),), (("x-request-id", "x" * 129),)):
        made = dict(await echo(b"x", metadata=given).trailing_metadata())["x-request-id"]
        assert len(made) == 32, made


async def test_one_log_line_a_call(channel: aio.Channel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "eyebright.rpc"):
        await _method(channel, "Echo")(b"x", metadata=(("x-request-id", "seen"),))
        with pytest.raises(aio.AioRpcError):
            await _method(channel, "Refuse")(b"12345")
        async with asyncio.timeout(10):  # the caller may have its answer before the line is written
            while len(lines := [record for record in caplog.records if record.message == "call"]) < 2:
                await asyncio.sleep(0.001)
    assert [(line.method, line.code) for line in lines] == [("Echo", "OK"), ("Refuse", "INVALID_ARGUMENT")]  # type: ignore[attr-defined]
    assert lines[0].request_id == "seen"  # type: ignore[attr-defined]
    assert "not 5" in lines[1].status_message  # type: ignore[attr-defined]


async def test_service_errors_carry_code_message_and_field(channel: aio.Channel) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await _method(channel, "Refuse")(b"12345")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "request: expected at most 3 bytes, not 5"
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    violation = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(violation)
    assert violation.field_violations[0].field == "request"


async def test_unknown_errors_tell_the_caller_nothing_but_the_request_id(
    channel: aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await _method(channel, "Break")(b"k", metadata=(("x-request-id", "find-me"),))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "internal error, request ID find-me"
    assert any(record.exc_info and "a secret" in str(record.exc_info[1]) for record in caplog.records)


async def test_streams_answer_and_fail_in_order(channel: aio.Channel) -> None:
    call = _stream(channel, b"a", b"b", b"refuse", b"c")
    answers = []
    with pytest.raises(aio.AioRpcError) as caught:
        async for answer in call:
            answers.append(answer)  # noqa: PERF401
    assert answers == [b"a", b"b"]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_latency_is_counted_by_service_method_and_code(server: Server, channel: aio.Channel) -> None:
    for _ in range(3):
        await _method(channel, "Echo")(b"x")
    with pytest.raises(aio.AioRpcError):
        await _method(channel, "Refuse")(b"12345")
    status, text = _get(server, "/metrics")
    assert status == 200
    counts = {
        tuple(sample.labels[name] for name in ("service", "method", "code")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "eyebright_rpc_latency_seconds_count"
    }
    assert counts[("test.Echo", "Echo", "OK")] == 3
    assert counts[("test.Echo", "Refuse", "INVALID_ARGUMENT")] == 1
    in_flight = [
        s.value for f in text_string_to_metric_families(text) for s in f.samples if s.name == "eyebright_rpc_in_flight"
    ]
    assert in_flight == [0, 0]


async def test_whoever_asks_for_open_metrics_gets_the_ids_of_requests(server: Server, channel: aio.Channel) -> None:
    for request_id in ("seen", "x" * 101):  # what an exemplar can hold, and what it can't
        await _method(channel, "Echo")(b"x", metadata=(("x-request-id", request_id),))
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.ports.metrics}/metrics",
        headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        families = list(openmetrics_families(answer.read().decode()))  # type: ignore[no-untyped-call]
    ids = [
        sample.exemplar.labels["request_id"]
        for family in families
        for sample in family.samples
        if family.name == "eyebright_rpc_latency_seconds" and sample.exemplar
    ]
    assert ids == ["seen"]


async def test_calls_cancelled_as_they_begin_are_not_counted_as_in_flight(server: Server) -> None:
    def counted(pattern: str) -> float:
        families = text_string_to_metric_families(_get(server, "/metrics")[1])
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == pattern and sample.labels["method"].startswith("Echo")
        )

    for _ in range(10):
        async with aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:
            calls = [_stream(channel, b"sleep 60") for _ in range(20)]
            calls += [_method(channel, "Echo")(b"x") for _ in range(20)]
            await _method(channel, "Echo")(b"x")
            for call in calls:
                call.cancel()
    while counted("eyebright_rpc_in_flight"):
        await asyncio.sleep(0.01)
    assert counted("eyebright_rpc_latency_seconds_count") >= 10


async def test_a_probe_that_hangs_up_prints_nothing(
    server: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "eyebright.http"):
        probe = socket.create_connection(("127.0.0.1", server.ports.metrics))
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
        probe.close()
        while "an HTTP request broke off" not in caplog.messages:
            await asyncio.sleep(0.01)
    assert "Traceback" not in capfd.readouterr().err


async def test_a_metrics_port_in_use_is_named(server: Server) -> None:
    settings = ServiceSettings(metrics_port=server.ports.metrics, drain_seconds=0)
    with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{server.ports.metrics}: .*in use"):
        async with Server(EchoHost(), settings, CollectorRegistry()):
            pass


async def test_health_reflection_and_probes(server: Server, channel: aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "test.Echo"):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    async for answer in reflection.ServerReflectionInfo(asked):
        assert "test.Echo" in {service.name for service in answer.list_services_response.service}
    assert _get(server, "/livez") == (200, "alive\n")
    assert _get(server, "/readyz") == (200, "ready\n")
    assert _get(server, "/secrets")[0] == 404


async def test_readiness_is_withdrawn_and_given_back(
    server: Server, channel: aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    with caplog.at_level(logging.INFO, "eyebright.lifecycle"):
        for _ in range(2):
            server.lifecycle.withdraw("the canary is dead")
        for name in NAMES:
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == NOT_SERVING
        assert _get(server, "/readyz") == (503, "not ready: the canary is dead\n")
        assert _get(server, "/livez")[0] == 200
        assert await _method(channel, "Echo")(b"x") == b"x"  # who calls all the same is answered
        for _ in range(2):
            server.lifecycle.restore()
    for name in NAMES:
        assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
    assert _get(server, "/readyz") == (200, "ready\n")
    assert caplog.messages == ["not ready", "ready again"]


async def test_all_who_watch_hear_of_every_change(server: Server, channel: aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    gone, named, unnamed = (health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", *NAMES))
    for watch in (gone, named, unnamed):
        assert (await watch.read()).status == SERVING
    gone.cancel()  # must not take the others with it
    server.lifecycle.withdraw("for a moment")
    for watch in (named, unnamed):
        assert (await watch.read()).status == NOT_SERVING
    server.lifecycle.restore()
    for watch in (named, unnamed):
        assert (await watch.read()).status == SERVING


async def test_health_of_a_service_that_is_not_here(channel: aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    other = health_pb2.HealthCheckRequest(service="no.such.Service")
    with pytest.raises(aio.AioRpcError, match=r"expected '' or 'test\.Echo', not 'no\.such\.Service'") as caught:
        await health.Check(other)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(other)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


async def test_readiness_given_back_while_stopping_is_not_said() -> None:
    async with Server(EchoHost(), ServiceSettings(drain_seconds=1), CollectorRegistry()) as server:
        server.lifecycle.withdraw("ill")
    server.lifecycle.restore()
    assert server.lifecycle.obstacle() == "starting or stopping"


async def test_what_ails_the_service_is_told_to_livez_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    host = EchoHost()
    async with Server(host, ServiceSettings(drain_seconds=1), CollectorRegistry()) as server:
        with caplog.at_level(logging.ERROR, "eyebright.lifecycle"):
            host.ill = "no pass for 130 s"
            for _ in range(2):
                assert _get(server, "/livez") == (503, "not alive: no pass for 130 s\n")
            assert caplog.messages == ["not alive"]
            host.ill = ""
            assert _get(server, "/livez") == (200, "alive\n")


async def test_an_event_loop_that_stands_still_is_not_alive() -> None:
    host = EchoHost()
    settings = ServiceSettings(drain_seconds=1, stall_seconds=1.5)
    async with (
        Server(host, settings, CollectorRegistry()) as server,
        aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel,
    ):

        def until(status: int) -> str:
            while (answer := _get(server, "/livez"))[0] != status:
                time.sleep(0.02)
            return answer[1]

        def watch() -> str:
            try:
                return until(503)
            finally:
                host.released.set()

        host.released.clear()
        watched = asyncio.create_task(asyncio.to_thread(watch))
        assert await _method(channel, "Block")(b"x") == b"x"
        assert (await watched).startswith("not alive: the event loop has stood still for ")
        await asyncio.to_thread(until, 200)


async def test_a_port_in_use_is_an_error_not_a_second_server(server: Server) -> None:
    other = EchoHost()
    settings = ServiceSettings(port=server.ports.grpc, drain_seconds=0)
    with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{server.ports.grpc}: .*bind"):
        async with Server(other, settings, CollectorRegistry()):
            pass
    assert other.stopped


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[[float], tuple[subprocess.Popen[str], int, int]]]:
    started: list[subprocess.Popen[str]] = []

    def start(drain_seconds: float) -> tuple[subprocess.Popen[str], int, int]:
        ready = tmp_path / "ready.json"
        command = [sys.executable, "-m", "tests.integration.service_runtime_host", str(ready), str(drain_seconds)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        deadline = time.monotonic() + 20
        while not ready.exists():
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.01)
        ports = json.loads(ready.read_text())
        return process, ports["grpc_port"], ports["metrics_port"]

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def test_sigterm_drains_and_exits_zero(host: Callable[[float], tuple[subprocess.Popen[str], int, int]]) -> None:
    process, port, _ = host(10)
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="test.Echo"))
        assert (await watch.read()).status == SERVING
        slow = _stream(channel, b"sleep 1.5")
        await slow.initial_metadata()  # the call has begun
        process.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is aio.EOF  # so that nobody who watches holds up the drain
        assert [answer async for answer in slow] == [b"sleep 1.5"]
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [line["message"] for line in lines if line["logger"] == "eyebright.server"] == ["serving", "stopping"]


async def test_a_call_past_the_drain_deadline_is_ended(
    host: Callable[[float], tuple[subprocess.Popen[str], int, int]],
) -> None:
    process, port, _ = host(0.2)
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stuck = _stream(channel, b"sleep 60")
        await stuck.initial_metadata()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(aio.AioRpcError):
            await stuck.read()
    assert process.wait(20) == 0


async def test_a_service_that_cannot_go_on_says_so_and_exits_with_1(
    host: Callable[[float], tuple[subprocess.Popen[str], int, int]],
) -> None:
    process, port, _ = host(600)
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        stuck = _stream(channel, b"sleep 600")
        await stuck.initial_metadata()
        assert await _method(channel, "GiveUp")(b"the device thread ended") == b"the device thread ended"
        assert (await watch.read()).status == NOT_SERVING
        with pytest.raises(aio.AioRpcError):  # not after the 600 s of an ordinary drain
            await stuck.read()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    (fault,) = [line for line in map(json.loads, errors.splitlines()) if line["level"] == "critical"]
    assert fault["message"] == "the service can't go on"
    assert "RuntimeError: the device thread ended" in fault["traceback"]


@pytest.mark.parametrize("how", ["wedged", "hangs"])
async def test_a_service_that_cannot_even_stop_is_ended_all_the_same(
    host: Callable[[float], tuple[subprocess.Popen[str], int, int]], how: str
) -> None:
    process, port, _ = host(0)
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await _method(channel, "GiveUp")(how.encode())
    if how == "hangs":
        process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 1
