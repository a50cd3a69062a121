"""Calls through the SDK at a steady rate, whatever became of those before them, each answer checked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
from eyebright_client import AsyncClient

DIMENSION = 32
FINGERPRINT = "fa" * 32
COLLECTION = "faults"


def vector(number: int) -> np.ndarray:
    """Of a record; no two are close to each other."""
    own = np.random.default_rng(number).standard_normal(DIMENSION).astype(np.float32)
    return own / np.float32(np.linalg.norm(own))


@dataclass(slots=True)
class Tally:
    """What became of the calls."""

    calls: int = 0
    """Made through the SDK."""
    failed: list[BaseException] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Answers that are not right."""
    under_way: set[asyncio.Task[None]] = field(default_factory=set)
    """Work that has begun and not ended."""

    def __str__(self) -> str:
        return f"{self.calls} calls, {len(self.failed)} failed, {len(self.wrong)} wrong"


Work = Callable[[int, Tally], Awaitable[None]]
"""Makes the calls of a number, counts them, and notes what is wrong."""


class Records:
    """Writes a record, waits until it is acknowledged, and finds it; remembers what was acknowledged."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.acknowledged: set[int] = set()

    async def work(self, number: int, tally: Tally) -> None:
        own = vector(number)
        tally.calls += 1
        await self._client.upsert(f"r{number}", own, metadata={"number": number})
        self.acknowledged.add(number)
        tally.calls += 1
        [first, *_] = await self._client.search(vector=own, modality="image", k=3)
        if first.id != f"r{number}" or first.score < 0.999 or first.metadata != {"number": number}:
            tally.wrong.append(f"r{number}: {first}")

    async def check(self) -> None:
        """Everything that was acknowledged is there, whole."""
        numbers = sorted(self.acknowledged)
        assert len(numbers) == await self._client.count()
        found = await self._client.get_many([f"r{number}" for number in numbers], include=("metadata", "vector"))
        for number, record in zip(numbers, found, strict=True):
            assert record is not None, f"r{number} is lost"
            assert record.metadata == {"number": number}
            assert record.vector is not None
            np.testing.assert_allclose(record.vector, vector(number), atol=1e-3)


class Captions:
    """Embeds captions whose vectors are known from before."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._texts = [f"caption number {number}" for number in range(64)]
        self._known: np.ndarray

    async def learn(self) -> None:
        """Embed each once, undisturbed."""
        self._known = (await self._client.embed_texts(self._texts)).vectors

    async def work(self, number: int, tally: Tally) -> None:
        place = number % len(self._texts)
        tally.calls += 1
        answer = await self._client.embed_texts(self._texts[place], recompute=True)
        if not np.allclose(answer.vectors[0], self._known[place], atol=1e-4):
            tally.wrong.append(self._texts[place])


@contextlib.asynccontextmanager
async def calling(work: Work, per_second: float) -> AsyncIterator[Tally]:
    """Begin so many pieces of work a second while the block runs; leaves once the last one has ended."""
    tally = Tally()

    async def one(number: int) -> None:
        try:
            await work(number, tally)
        except Exception as error:  # whatever it is, the test wants to know
            tally.failed.append(error)

    async def begin() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        number = 0
        while True:
            await asyncio.sleep(began + number / per_second - loop.time())
            tally.under_way.add(task := asyncio.create_task(one(number)))
            task.add_done_callback(tally.under_way.discard)
            number += 1

    beginning = asyncio.create_task(begin())
    try:
        yield tally
    finally:
        beginning.cancel()
        await asyncio.gather(*tally.under_way)
