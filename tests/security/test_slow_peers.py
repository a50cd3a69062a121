"""Peers that send slowly, or nothing, or too much: each is bounded, and others are answered meanwhile."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from service_runtime import interceptors, limits
from service_runtime.server import Server
from service_runtime.settings import ServiceSettings
from tests.integration.service_runtime_host import EchoHost
from tests.security.bearers import bearer, write_tokens
from tests.security.raw_http2 import DATA, GOAWAY, PING, Connection, connected, frame, message

ECHO, STREAM = "/test.Echo/Echo", "/test.Echo/EchoStream"
HALF = message(b"half", declared_bytes=100)


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[str]:
    """An echo server; its address."""
    chosen = ServiceSettings(drain_seconds=0, **settings)
    async with Server(EchoHost(), chosen, CollectorRegistry()) as server:
        yield f"127.0.0.1:{server.ports.grpc}"


async def echoed(address: str, **options: int) -> bool:
    """Whether a call of its own connection is answered."""
    chosen = [("grpc.use_local_subchannel_pool", 1), *(("grpc." + name, value) for name, value in options.items())]
    async with aio.insecure_channel(address, chosen) as channel:
        method: Any = channel.unary_unary(ECHO)
        answer: bytes = await method(b"x", timeout=20)
        return answer == b"x"


async def played(address: str, play: Callable[[Connection], Any]) -> Any:
    """What a peer written by hand gets, in a thread of its own."""

    def run() -> Any:
        with connected(address) as connection:
            return play(connection)

    return await asyncio.to_thread(run)


async def test_a_request_that_never_comes_whole_is_ended_and_makes_room() -> None:
    async with serving(request_seconds=1.0, max_concurrent_calls=4) as address:

        def hold(connection: Connection) -> list[bytes]:
            streams = [connection.call(ECHO, HALF) for _ in range(4)]
            refused = connection.end_of(connection.call(ECHO, message(b"x"), end=True))
            return [refused, *(connection.end_of(stream) for stream in streams)]

        refused, *ended = await played(address, hold)
        assert b"grpc-status\x018" in refused
        assert b"this server answers at most 4 calls at a time; try again in a moment" in refused
        assert all(b"the request did not arrive within 1 s" in end for end in ended)
        assert await echoed(address)


async def test_bytes_that_drip_in_win_no_time() -> None:
    async with serving(request_seconds=0.5) as address:

        def drip(connection: Connection) -> bytes:
            stream = connection.call(ECHO, message(b"", declared_bytes=1000))
            connection.send(frame(DATA, 0, stream, b"x") * 3)
            began = time.monotonic()
            connection.patience(0.05)
            while time.monotonic() - began < 20:
                try:
                    return connection.end_of(stream)
                except TimeoutError:
                    connection.send(frame(DATA, 0, stream, b"x"))
            return b""

        assert b"the request did not arrive within 0.5 s" in await played(address, drip)


async def test_calls_held_open_by_many_peers_keep_nobody_else_from_an_answer() -> None:
    async with serving(request_seconds=30.0) as address:
        host, _, port = address.rpartition(":")

        def open_all() -> list[socket.socket]:
            opened = [socket.create_connection((host, int(port)), 20) for _ in range(200)]
            for own in opened:
                Connection(own).call(ECHO, HALF)
            return opened

        held = await asyncio.to_thread(open_all)
        try:
            for _ in range(20):
                assert await echoed(address)
            async with aio.insecure_channel(address) as channel:
                answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        finally:
            for own in held:
                own.close()


async def test_who_shows_no_token_is_turned_away_before_the_request_is_there(tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "tokens", {"reader": "read *"})
    async with serving(token_file=tokens, request_seconds=60.0, max_concurrent_calls=1) as address:
        for headers, says in (
            ([], b"the call carries no authorization metadata"),
            ([(b"authorization", b"Bearer " + bearer("stranger").encode())], b"none that this server takes"),
        ):
            for path in (ECHO, STREAM):
                ended = await played(address, lambda c: c.end_of(c.call(path, HALF, headers)))  # noqa: B023
                assert b"grpc-status\x0216" in ended
                assert says in ended
        reader = [(b"authorization", b"Bearer " + bearer("reader").encode())]
        ended = await played(address, lambda c: c.end_of(c.call(STREAM, HALF, reader)))
        assert b"expected a token of scope write" in ended


async def test_an_answer_that_is_not_taken_counts_as_a_call() -> None:
    """Its bytes stay in memory until its peer makes room for them, and this one never does."""
    async with serving(max_concurrent_calls=3) as address:

        async def echoed_in_the_end() -> bool:
            while True:
                try:
                    return await echoed(address)
                except aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise

        def take_none(connection: Connection) -> bytes:
            large = message(bytes(60_000))  # of all answers, HTTP/2 lets 65,535 bytes be sent unasked
            connection.end_of(connection.call(ECHO, large, end=True))
            for _ in range(3):
                connection.call(ECHO, large, end=True)
            return connection.end_of(connection.call(ECHO, message(b"x"), end=True))

        assert b"this server answers at most 3 calls at a time" in await played(address, take_none)
        assert await echoed_in_the_end()  # once that peer has hung up


async def test_health_is_answered_when_the_server_is_full_and_can_not_fill_it() -> None:
    async with serving(max_concurrent_calls=2) as address, aio.insecure_channel(address) as channel:
        method: Any = channel.stream_stream(STREAM)
        streams = [method() for _ in range(2)]
        for stream in streams:
            await stream.write(b"x")
            assert await stream.read() == b"x"
        echo: Any = channel.unary_unary(ECHO)
        with pytest.raises(aio.AioRpcError, match="at most 2 calls at a time") as caught:
            await echo(b"x", timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(20)]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        streams[0].cancel()
        while True:
            try:
                assert await echo(b"x", timeout=20) == b"x"
                break
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
        for call in (*streams, *watches):
            call.cancel()


async def test_a_health_check_that_never_comes_whole_is_ended_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "HEALTH_REQUEST_SECONDS", 0.3)
    async with serving(request_seconds=60.0) as address:
        for method in ("Check", "Watch"):
            path = f"/grpc.health.v1.Health/{method}"
            ended = await played(address, lambda c: c.end_of(c.call(path, HALF)))  # noqa: B023
            assert b"the request did not arrive within 0.3 s" in ended


async def test_a_peer_that_never_greets_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_HANDSHAKE_MS", 300)
    async with serving() as address:
        host, _, port = address.rpartition(":")

        def wait_in_silence(said: bytes) -> None:
            with socket.create_connection((host, int(port)), 20) as silent:
                silent.sendall(said)
                while silent.recv(4096):
                    pass

        for said in (b"", b"PRI * HTTP/2.0\r\n"):
            await asyncio.to_thread(wait_in_silence, said)
        assert await echoed(address)


async def test_a_connection_without_calls_is_ended() -> None:
    async with serving(max_idle_seconds=0.3) as address:
        assert any(own.kind == GOAWAY for own in await played(address, Connection.hang_up))

        async def ask_twice() -> None:
            async with aio.insecure_channel(address) as channel:
                method: Any = channel.unary_unary(ECHO)
                for _ in range(2):
                    assert await method(b"x", timeout=20) == b"x"
                    while channel.get_state() is grpc.ChannelConnectivity.READY:
                        await asyncio.sleep(0.01)

        await ask_twice()  # a client connects anew and notices nothing


async def test_pings_without_end_are_ended() -> None:
    def ping(connection: Connection) -> list[bytes]:
        connection.send(frame(PING, 0, 0, b"12345678") * 50)
        return [own.payload for own in connection.hang_up() if own.kind == GOAWAY]

    async with serving() as address:
        assert any(b"too_many_pings" in payload for payload in await played(address, ping))
        assert await echoed(address)


async def test_connections_have_a_limit_and_those_that_stand_go_on() -> None:
    async with serving(max_connections=3) as address:
        host, _, port = address.rpartition(":")
        async with aio.insecure_channel(address) as channel:
            method: Any = channel.unary_unary(ECHO)
            assert await method(b"x", timeout=20) == b"x"

            def crowd() -> list[bool]:
                """Of ten more, which were greeted."""
                greeted = []
                opened = [socket.create_connection((host, int(port)), 20) for _ in range(10)]
                for own in opened:
                    try:
                        Connection(own)
                        greeted.append(bool(own.recv(1)))
                    except OSError:
                        greeted.append(False)
                for own in opened:
                    own.close()
                return greeted

            assert sum(await asyncio.to_thread(crowd)) == 2
            assert await method(b"x", timeout=20) == b"x"
        while True:  # the closed ones are forgotten in a moment
            try:
                assert await echoed(address)
                break
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise


async def test_more_than_a_message_may_have_is_refused_by_its_length_alone() -> None:
    async with serving(max_message_bytes=1024 * 1024) as address:
        declared = (2**20 + 1, 2**32 - 1)
        for size in declared:
            body = message(b"x", declared_bytes=size)
            ended = await played(address, lambda c: c.end_of(c.call(ECHO, body)))  # noqa: B023
            assert b"grpc-status\x018" in ended
            assert f"larger than max ({size} vs. {2**20})".encode() in ended
        assert await echoed(address)


async def test_more_headers_than_a_call_may_have_are_refused() -> None:
    async with serving() as address:
        async with aio.insecure_channel(address) as channel:
            method: Any = channel.unary_unary(ECHO)
            with pytest.raises(aio.AioRpcError) as caught:
                await method(b"x", metadata=[("x-large", "x" * 100_000)], timeout=20)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await echoed(address)


async def test_a_crowd_of_calls_begun_and_taken_back_at_once_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    def begin_and_reset(connection: Connection) -> None:
        for _ in range(2000):
            stream = connection.call(ECHO)
            connection.send(frame(3, 0, stream, b"\0\0\0\x08"))

    caplog.set_level(logging.ERROR)
    async with serving() as address:
        await played(address, begin_and_reset)
        assert await echoed(address)
    assert caplog.messages == []
