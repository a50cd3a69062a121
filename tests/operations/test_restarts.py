"""A service is killed, or stopped, and started again under load. The SDK rides over it within its timeouts: no call
fails, no answer is wrong, nothing acknowledged is lost, and the service that comes back meets no storm of retries.
"""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from eyebright_client import AsyncClient, Timeouts

from tests.operations.callers import COLLECTION, DIMENSION, FINGERPRINT, Captions, Records, Tally, calling
from tests.operations.proxy import Proxy
from tests.processes import RunningService, start_service

MOST_AMPLIFICATION = 1.2
"""Attempts that reach the service, for each call."""

PER_SECOND = 30.0
TIMEOUTS = Timeouts(search=60.0, write=60.0, embed=60.0, read=60.0)

ROUNDS = [1, pytest.param(12, marks=[pytest.mark.long, pytest.mark.timeout(600)])]


class Restarted:
    """A service behind a proxy, which keeps its address."""

    def __init__(self, stack: ExitStack, module: str, folder: Path, *arguments: str) -> None:
        self._start = partial(start_service, module, folder, *arguments)
        self.service = self._start()
        stack.callback(lambda: self.service.kill())
        self.proxy = stack.enter_context(Proxy(self.service.address))

    async def restart(self, end: Callable[[RunningService], object]) -> None:
        """End it, and start it again over the same data."""
        await asyncio.to_thread(end, self.service)
        self.service = await asyncio.to_thread(self._start)
        self.proxy.target = self.service.address


async def caught_up(tally: Tally) -> None:
    """Until what has waited for the service is done. One that dies again before is in a crash loop, where calls fail
    after as many attempts as the retry policy allows.
    """
    while len(tally.under_way) > PER_SECOND:
        await asyncio.sleep(0.05)


def check(what: str, tally: Tally, attempts: int) -> None:
    amplification = attempts / tally.calls
    print(f"{what}: {tally}, amplification {amplification:.3f}")  # noqa: T201
    assert (tally.failed, tally.wrong) == ([], [])
    assert amplification <= MOST_AMPLIFICATION


@pytest.mark.parametrize("end", [RunningService.kill, RunningService.terminate], ids=["killed", "rolling"])
@pytest.mark.parametrize("rounds", ROUNDS)
async def test_the_index_is_restarted(tmp_path: Path, end: Callable[[RunningService], object], rounds: int) -> None:
    with ExitStack() as stack:
        index = Restarted(
            stack, "index_service", tmp_path, "--data-folder", str(tmp_path / "data"), "--seal-rows", "256"
        )
        async with AsyncClient(None, index.proxy.address, collection=COLLECTION, timeouts=TIMEOUTS) as client:
            await client.create_collection(dimension=DIMENSION, fingerprint=FINGERPRINT)
            work = Records(client)
            before = index.proxy.attempts
            async with calling(work.work, PER_SECOND) as tally:
                for _ in range(rounds):
                    await asyncio.sleep(0.5)
                    await index.restart(end)
                    await caught_up(tally)
            check(f"index, {rounds} times {end.__name__}", tally, index.proxy.attempts - before)
            await work.check()


@pytest.mark.parametrize("end", [RunningService.kill, RunningService.terminate], ids=["killed", "rolling"])
@pytest.mark.parametrize("rounds", ROUNDS)
async def test_the_embedder_is_restarted(tmp_path: Path, end: Callable[[RunningService], object], rounds: int) -> None:
    with ExitStack() as stack:
        embedder = Restarted(stack, "embedder_service", tmp_path, "--canary-seconds", "3600")
        async with AsyncClient(embedder.proxy.address, timeouts=TIMEOUTS) as client:
            work = Captions(client)
            await work.learn()
            before = embedder.proxy.attempts
            async with calling(work.work, PER_SECOND) as tally:
                for _ in range(rounds):
                    await asyncio.sleep(0.5)
                    await embedder.restart(end)
                    await caught_up(tally)
            check(f"embedder, {rounds} times {end.__name__}", tally, embedder.proxy.attempts - before)
