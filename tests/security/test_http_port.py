"""The plain HTTP port: peers that are slow or many keep no probe from its answer."""

import asyncio
import socket
import urllib.request
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from service_runtime import http_endpoint
from service_runtime.server import Server
from service_runtime.settings import ServiceSettings
from tests.integration.service_runtime_host import EchoHost


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with Server(EchoHost(), ServiceSettings(drain_seconds=0), CollectorRegistry()) as server:
        yield server.ports.metrics


def probed(port: int) -> tuple[int, bytes]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=20) as answer:
        return answer.status, answer.read()


def silent(port: int, said: bytes = b"") -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", port), 20)
    opened.sendall(said)
    return opened


async def test_a_crowd_that_never_finishes_its_requests_makes_room(port: int) -> None:
    def crowd() -> list[bytes]:
        held = [silent(port, b"GET /livez HTTP/1.1\r\nHost: ") for _ in range(3 * http_endpoint._MOST_CONNECTIONS)]
        try:
            assert probed(port) == (200, b"alive\n")
            return [held[0].recv(1), held[1].recv(1)]  # the oldest had to go
        finally:
            for own in held:
                own.close()

    assert await asyncio.to_thread(crowd) == [b"", b""]
    assert await asyncio.to_thread(probed, port) == (200, b"alive\n")


async def test_a_request_that_drips_in_is_ended(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_endpoint, "_REQUEST_SECONDS", 0.5)

    def drip() -> int:
        """Bytes taken before the peer hung up."""
        with silent(port, b"GET /") as opened:
            opened.settimeout(0.02)
            for sent in range(1000):
                try:
                    if opened.recv(1) == b"":
                        return sent
                except TimeoutError:
                    opened.sendall(b"x")
                except ConnectionError:
                    return sent
        raise AssertionError("a thousand bytes were taken, 20 ms apart")

    assert await asyncio.to_thread(drip) < 1000
    assert await asyncio.to_thread(probed, port) == (200, b"alive\n")
