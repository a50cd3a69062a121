"""One client, many threads or tasks."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from eyebright_client import AsyncClient, Client, Progress

from tests.processes import RunningService


def test_threads_share_a_client(
    embedder: RunningService, index: RunningService, collection: str, pictures: dict[str, bytes]
) -> None:
    names = sorted(pictures)
    with Client(embedder.address, index.address, collection=collection) as client, ThreadPoolExecutor(8) as threads:
        client.create_collection()
        parts = [{name: pictures[name] for name in names[start::4]} for start in range(4)]
        reports = list(threads.map(lambda part: client.index_images(part, batch_size=4), parts))
        assert [report.indexed for report in reports] == [15] * 4
        assert client.count() == 60
        found = list(threads.map(lambda name: client.search(image=pictures[name], k=1)[0].id, names))
        assert found == names
        alone = client.search("a red circle", k=60)
        for result in threads.map(lambda _: client.search("a red circle", k=60), range(40)):
            assert set(result.ids) == set(alone.ids)


async def test_tasks_share_a_client(
    embedder: RunningService, index: RunningService, collection: str, pictures: dict[str, bytes]
) -> None:
    names = sorted(pictures)
    async with AsyncClient(embedder.address, index.address, collection=collection) as client:
        await client.create_collection()
        parts = [{name: pictures[name] for name in names[start::4]} for start in range(4)]
        reports = await asyncio.gather(*(client.index_images(part, batch_size=4) for part in parts))
        assert [report.indexed for report in reports] == [15] * 4
        results = await asyncio.gather(*(client.search(image=pictures[name], k=1) for name in names))
        assert [result[0].id for result in results] == names
        assert [record.id async for record in client.list(page_size=25)] == names


async def test_a_cancelled_task_keeps_what_was_acknowledged(
    embedder: RunningService, index: RunningService, collection: str, pictures: dict[str, bytes]
) -> None:
    async with AsyncClient(embedder.address, index.address, collection=collection) as client:
        reached = asyncio.Event()
        done = 0

        def progress(now: Progress) -> None:
            nonlocal done
            done = now.done
            reached.set()

        task = asyncio.create_task(client.index_images(pictures, batch_size=4, progress=progress))
        await reached.wait()
        task.cancel()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
        assert 0 < done <= await client.count()
        report = await client.index_images(pictures, batch_size=4)
        assert report.indexed + report.skipped == await client.count() == 60


async def test_the_event_loop_stays_free_while_files_are_read(
    embedder: RunningService, index: RunningService, collection: str, pictures: dict[str, bytes]
) -> None:
    turned = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Slow(dict[str, bytes]):
        """Reading an item waits until the event loop has turned, which it can't while it is blocked."""

        def items(self) -> object:  # type: ignore[override]
            for pair in super().items():
                asyncio.run_coroutine_threadsafe(turned.wait(), loop).result(30)
                yield pair

    async with AsyncClient(embedder.address, index.address, collection=collection) as client:
        loop.call_soon(turned.set)
        report = await client.index_images(Slow(list(pictures.items())[:8]))
        assert report.indexed == 8
        vectors = await client.embed_images(list(pictures.values())[:2])
        assert np.linalg.norm(vectors[0].vector - vectors[1].vector) > 0
