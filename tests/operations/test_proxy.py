"""What the other tests measure with: the proxy counts attempts as the service does, and delays as it says."""

import time

from eyebright_client import Client

from tests.integration.client.test_balancing import answered
from tests.operations.proxy import HeadersCounter, Proxy
from tests.processes import RunningService


def frame(kind: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind]) + b"\0" * 5 + payload


def test_headers_are_counted_wherever_the_stream_is_cut_into_pieces() -> None:
    stream = b"p" * 24 + frame(4, b"") + frame(1, b"\1" * 20) + frame(0, b"\1" * 300) + frame(1, b"") + frame(0, b"")
    for size in (1, 2, 7, 9, 10, 33, 1_000):
        counter = HeadersCounter()
        for begin in range(0, len(stream), size):
            counter.feed(stream[begin : begin + size])
        assert counter.count == 2


def test_it_counts_as_many_calls_as_the_service_answers(index: RunningService) -> None:
    before = answered(index)
    with Proxy(index.address) as proxy, Client(None, proxy.address) as client:
        for _ in range(20):
            client.list_collections()
        assert proxy.attempts == 20 == answered(index) - before


def test_it_delays_each_direction(index: RunningService) -> None:
    with Proxy(index.address, delay_seconds=0.1) as proxy, Client(None, proxy.address) as client:
        client.list_collections()  # connects
        began = time.monotonic()
        client.list_collections()
        assert 0.2 <= time.monotonic() - began < 5.0
