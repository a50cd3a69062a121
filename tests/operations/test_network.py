"""A network that loses packets, resets connections, parts and is slow, between the SDK and an index service: every
answer is right, what was acknowledged is there, calls end by their deadline, and few are sent twice.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest
from eyebright_client import AsyncClient, Client, DeadlineExceeded, Timeouts
from prometheus_client.parser import text_string_to_metric_families

from tests.operations.callers import COLLECTION, DIMENSION, FINGERPRINT, Records, Tally, calling
from tests.operations.network import Network, missing
from tests.operations.proxy import Proxy
from tests.processes import RunningService, running_service

MOST_AMPLIFICATION = 1.2
"""Attempts that reach the service, for each call."""

PER_SECOND = 40.0

needs_network = pytest.mark.skipif(bool(missing()), reason=missing() or "there is one")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def far_index(network: Network, tmp_path: Path) -> Iterator[RunningService]:
    """An index service on the other side of the network; its metrics are there too."""
    arguments = ("--data-folder", str(tmp_path / "data"), "--host", network.host, "--metrics-host", network.host)
    with running_service("index_service", tmp_path, *arguments, "--insecure", within=network.within) as service:
        far = replace(
            service,
            address=service.address.replace("127.0.0.1", network.host),
            metrics_url=service.metrics_url.replace("127.0.0.1", network.host),
        )
        make_collection(far)
        yield far


@asynccontextmanager
async def records(address: str, seconds: float = 30.0) -> AsyncIterator[Records]:
    """Work for callers, in a collection of its own."""
    timeouts = Timeouts(search=seconds, write=seconds, read=seconds)
    async with AsyncClient(None, address, collection=COLLECTION, timeouts=timeouts) as client:
        yield Records(client)


def check(what: str, tally: Tally, attempts: float, hit: int) -> None:
    amplification = attempts / tally.calls
    print(f"{what}: {tally}, amplification {amplification:.3f}; {hit} packets hit")  # noqa: T201
    assert (tally.failed, tally.wrong) == ([], [])
    assert amplification <= MOST_AMPLIFICATION
    assert hit > 0


def make_collection(service: RunningService) -> None:
    with Client(None, service.address) as client:
        client.create_collection(COLLECTION, dimension=DIMENSION, fingerprint=FINGERPRINT)


async def attempts(service: RunningService) -> float:
    """Searches and upserts that have reached the service and ended there."""
    text = await asyncio.to_thread(lambda: urlopen(f"{service.metrics_url}/metrics", timeout=30).read().decode())
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(
        sample.value
        for sample in samples
        if sample.name == "eyebright_rpc_latency_seconds_count" and sample.labels["method"] in ("Search", "Upsert")
    )


@needs_network
@pytest.mark.parametrize("share", [0.02, pytest.param(0.1, marks=pytest.mark.long)])
async def test_lost_packets(network: Network, far_index: RunningService, share: float) -> None:
    hit = network.hit
    async with records(far_index.address) as work:
        with network.loss(share):
            async with calling(work.work, PER_SECOND) as tally:
                await asyncio.sleep(3.0)
        check(f"loss of {share:.0%}", tally, await attempts(far_index), network.hit - hit)
        await work.check()


@needs_network
@pytest.mark.parametrize("times", [3, pytest.param(30, marks=pytest.mark.long)])
async def test_reset_connections(network: Network, far_index: RunningService, times: int) -> None:
    hit = network.hit
    async with records(far_index.address) as work:
        async with calling(work.work, PER_SECOND) as tally:
            for _ in range(times):
                await asyncio.sleep(0.5)
                with network.resets():
                    await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)
        check(f"{times} times reset", tally, await attempts(far_index), network.hit - hit)
        await work.check()


@needs_network
@pytest.mark.parametrize("seconds", [2.0, pytest.param(10.0, marks=pytest.mark.long)])
async def test_a_partition_is_ridden_over(network: Network, far_index: RunningService, seconds: float) -> None:
    hit = network.hit
    async with records(far_index.address, seconds=60.0) as work:
        async with calling(work.work, PER_SECOND) as tally:
            await asyncio.sleep(0.5)
            with network.partition():
                await asyncio.sleep(seconds)
            await asyncio.sleep(0.5)
        check(f"parted for {seconds:g} s", tally, await attempts(far_index), network.hit - hit)
        await work.check()


@needs_network
async def test_in_a_partition_calls_end_by_their_deadline(network: Network, far_index: RunningService) -> None:
    async with records(far_index.address, seconds=1.0) as work:
        await work.check()  # connects
        with network.partition():
            began = time.monotonic()
            async with calling(work.work, PER_SECOND) as tally:
                await asyncio.sleep(0.5)
            assert time.monotonic() - began < 10.0  # gRPC's own reconnecting would take longer
        assert tally.calls == len(tally.failed) > 0
        assert {type(error) for error in tally.failed} == {DeadlineExceeded}


async def test_a_slow_network(index: RunningService) -> None:
    make_collection(index)
    with Proxy(index.address, delay_seconds=0.1) as proxy:
        async with records(proxy.address) as work:
            before = proxy.attempts
            async with calling(work.work, PER_SECOND) as tally:
                await asyncio.sleep(2.0)
            assert (tally.failed, tally.wrong) == ([], [])
            assert (proxy.attempts - before) / tally.calls <= MOST_AMPLIFICATION
            await work.check()
        async with records(proxy.address, seconds=0.15) as work:  # less than the way there and back
            async with calling(work.work, PER_SECOND) as tally:
                await asyncio.sleep(0.5)
            assert tally.calls == len(tally.failed) > 0
            assert {type(error) for error in tally.failed} == {DeadlineExceeded}
