"""Bytes that no client sends: what isn't a call is refused, and the server goes on."""

import asyncio
import random
import resource
import socket
import zlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio
from prometheus_client import CollectorRegistry

from service_runtime.server import Server
from service_runtime.settings import ServiceSettings
from tests.integration.service_runtime_host import EchoHost
from tests.security.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LAST_REMEMBERED,
    connected,
    frame,
    header,
    message,
    request_headers,
)

MIB = 1024 * 1024


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server(EchoHost(), ServiceSettings(drain_seconds=0), CollectorRegistry()) as running:
        yield running


async def echoed(server: Server, **options: Any) -> bool:
    async with aio.insecure_channel(
        f"127.0.0.1:{server.ports.grpc}", [("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        method: Any = channel.unary_unary("/test.Echo/Echo")
        answer: bytes = await method(b"x", timeout=20, **options)
        return answer == b"x"


def peak_bytes() -> int:
    """The most memory that this process, which the server runs in, has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bomb(*, mib: int) -> bytes:
    """Zeros as gzip: deflate blocks that stand alone, so that one can be said again and again."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = compressor.compress(bytes(8 * MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + block * (mib // 8) + b"\x03\0" + bytes(8)


def headers_of_call(path: bytes, extra: bytes) -> bytes:
    """All headers of a call on stream 1, in as many frames as they take."""
    block = request_headers(path) + extra
    pieces = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    return b"".join(
        frame(CONTINUATION if number else HEADERS, END_HEADERS if number == len(pieces) - 1 else 0, 1, piece)
        for number, piece in enumerate(pieces)
    )


async def test_a_path_that_is_no_text_ends_nothing_but_its_call(server: Server) -> None:
    """grpcio 1.84 and 1.85 end the whole server at the first of these, whoever sends it: hence the bound on grpcio."""

    def ask(path: bytes) -> bytes:
        with connected(f"127.0.0.1:{server.ports.grpc}") as connection:
            connection.send(frame(HEADERS, END_HEADERS, 1, request_headers(path)))
            return connection.end_of(1)

    for path in (b"/test.Echo/\xff\xfe", b"\x80", b"/\xc3\x28", b"/test.Echo/Echo\xed\xa0\x80"):
        assert b"grpc-status" in await asyncio.to_thread(ask, path)
        assert await echoed(server)
    assert not server.lifecycle.failed.is_set()


async def test_a_compressed_message_is_refused_as_it_is(server: Server) -> None:
    """56 MiB of zeros in one message of less than the 65,535 bytes that HTTP/2 lets a peer send unasked."""
    packed = message(bomb(mib=56), compressed=True)
    assert len(packed) < 65_535

    def throw() -> bytes:
        with connected(f"127.0.0.1:{server.ports.grpc}") as connection:
            return connection.end_of(
                connection.call("/test.Echo/Echo", packed, extra=[(b"grpc-encoding", b"gzip")], end=True)
            )

    before = peak_bytes()
    ended = await asyncio.to_thread(throw)
    assert b"grpc-status\x0212" in ended
    assert b"Compression algorithm 'gzip' is disabled" in ended
    assert peak_bytes() - before < 16 * MIB


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate], ids=["gzip", "deflate"])
async def test_no_compression_is_taken_from_a_client_either(server: Server, algorithm: grpc.Compression) -> None:
    async with aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:
        method: Any = channel.unary_unary("/test.Echo/Echo")
        with pytest.raises(aio.AioRpcError, match="is disabled") as caught:
            await method(bytes(MIB), compression=algorithm, timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await echoed(server)


@pytest.mark.parametrize("kib", [17, 900])
async def test_large_metadata_are_refused_by_name(server: Server, kib: int) -> None:
    """From a peer that never acknowledges the server's settings, whose limit gRPC therefore does not hold it to."""

    def ask() -> bytes:
        with connected(f"127.0.0.1:{server.ports.grpc}") as connection:
            connection.send(headers_of_call(b"/test.Echo/Echo", header(b"x-much", b"y" * 1018) * kib))
            connection.send(frame(DATA, END_STREAM, 1, message(b"x")))
            return connection.end_of(1)

    assert b"expected at most 16,384 bytes of metadata" in await asyncio.to_thread(ask)
    assert await echoed(server)


async def test_headers_that_never_end_are_not_kept(server: Server) -> None:
    """128 MiB of them, spelt out; and as many again by single bytes that stand for 4 KB each."""
    spelt_out = header(b"x-more", b"y" * 16_000)
    remembered = header(b"x-more", b"y" * 3_900, remembered=True)

    def pour(first: bytes, more: bytes, times: int) -> None:
        with connected(f"127.0.0.1:{server.ports.grpc}") as connection:
            connection.send(frame(HEADERS, 0, 1, request_headers(b"/test.Echo/Echo") + first))
            for _ in range(times):
                connection.send(frame(CONTINUATION, 0, 1, more))

    for first, more, times in ((b"", spelt_out, 8_192), (remembered, LAST_REMEMBERED * 16_000, 3)):
        before = peak_bytes()
        await asyncio.to_thread(pour, first, more, times)
        assert await echoed(server)
        assert peak_bytes() - before < 64 * MIB


async def test_junk_is_no_greeting(server: Server) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    draw = random.Random(seed)

    def throw(junk: bytes) -> None:
        with socket.create_connection(("127.0.0.1", server.ports.grpc), 20) as opened:
            try:
                opened.sendall(junk)
                opened.shutdown(socket.SHUT_WR)
                while opened.recv(65_536):
                    pass
            except ConnectionError:
                pass

    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
    for junk in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\0" + bytes(500),
        *(draw.randbytes(draw.randrange(1, 4000)) for _ in range(20)),
        *(greeting + draw.randbytes(draw.randrange(1, 4000)) for _ in range(20)),
        *(
            greeting
            + b"".join(
                frame(draw.randrange(11), draw.randrange(256), draw.randrange(6), draw.randbytes(20)) for _ in range(9)
            )
            for _ in range(40)
        ),
    ):
        await asyncio.to_thread(throw, junk)
    assert await echoed(server)


async def test_a_server_that_grpc_ends_by_itself_is_known_to_have_failed(server: Server) -> None:
    await server._server.stop(0)
    await asyncio.wait_for(server.lifecycle.failed.wait(), 20)
    assert "grpc ended its server" in server.lifecycle.ailment()
