"""A service is told to stop while calls come, and each call is accounted for by its request id.

A call counts as accepted before the signal when its caller had sent it by then, or when the service's own log says that
it had begun; whether it failed is what its caller saw.
"""

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc
import numpy as np
from eyebright.embedder.v1 import embedder_service_pb2
from eyebright.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from eyebright.index.v1 import collection_pb2, record_pb2, search_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import encode_vectors

from tests.processes import RunningService

CALLERS = 16
Send = Callable[[int, tuple[tuple[str, str], ...]], Awaitable[object]]
"""Makes the call of a number, with this metadata."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """What became of the calls."""

    accepted: int
    """Were sent when the signal came, or had begun."""
    under_way: int
    """Of them, those that were not answered by then."""
    later: int
    """Were sent afterwards."""
    failed: dict[str, str]
    """Of the accepted ones, by request id: what their callers saw instead of an answer."""
    later_codes: frozenset[str]
    """What callers saw of the others."""


def stop_under_load(service: RunningService, what: str, captions: np.ndarray, seconds: float) -> Stopped:
    """Have CALLERS callers call the "index" (captions, (n, dimension), are searched for and written) or the "embedder",
    send SIGTERM after some seconds, and account for every call.
    """
    return asyncio.run(_stop_under_load(service, what, captions, seconds))


async def _stop_under_load(service: RunningService, what: str, captions: np.ndarray, seconds: float) -> Stopped:
    seen: dict[str, str] = {}
    sent: set[str] = set()
    async with grpc.aio.insecure_channel(service.address) as channel:
        send = await _index_calls(channel, captions) if what == "index" else _embedder_calls(channel)

        async def caller(number: int) -> None:
            """Call until the service is gone."""
            call = number
            while True:
                request_id = f"stop-{call}"
                sent.add(request_id)
                try:
                    await send(call, (("x-request-id", request_id),))
                except grpc.aio.AioRpcError as error:
                    seen[request_id] = f"{error.code().name}: {error.details()}"
                    if service.process.poll() is not None:
                        return
                    await asyncio.sleep(0.01)
                else:
                    seen[request_id] = ""
                call += CALLERS

        callers = [asyncio.create_task(caller(number)) for number in range(CALLERS)]
        await asyncio.sleep(seconds)
        before, under_way = set(sent), len(sent) - len(seen)
        service.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(service.process.wait, 60) == 0
        await asyncio.gather(*callers)
    accepted = before | _begun_before_the_signal(service) & seen.keys()
    later = seen.keys() - accepted
    return Stopped(
        accepted=len(accepted),
        under_way=under_way,
        later=len(later),
        failed={own: seen[own] for own in accepted if seen[own]},
        later_codes=frozenset(seen[own].partition(":")[0] for own in later),
    )


def _begun_before_the_signal(service: RunningService) -> set[str]:
    """By request id."""
    lines = [json.loads(line) for line in service.log.read_text("utf-8").splitlines()]
    [told] = [_moment(line) for line in lines if line["message"] == "stopping"]
    calls = [line for line in lines if line["message"] == "call"]
    return {line["request_id"] for line in calls if _moment(line) - line["seconds"] < told}


def _moment(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


async def _index_calls(channel: grpc.aio.Channel, captions: np.ndarray) -> Send:
    """Searches, and a write in every fourth call, in the first collection."""
    stub = IndexServiceStub(channel)  # type: ignore[no-untyped-call]
    [collection, *_] = (await stub.ListCollections(collection_pb2.ListCollectionsRequest())).collections

    async def send(number: int, metadata: tuple[tuple[str, str], ...]) -> object:
        row = number % len(captions)
        vectors = encode_vectors(captions[row : row + 1], collection.fingerprint)
        if number // CALLERS % 4 == 0:
            records = [record_pb2.Record(id=f"stop/{number % 1_000}")]
            written = record_pb2.UpsertRequest(collection=collection.name, records=records, vectors=vectors)
            answer = await stub.Upsert(written, metadata=metadata, timeout=30)
            assert not answer.statuses[0].code
            return answer
        asked = search_pb2.SearchRequest(
            collection=collection.name, vectors=vectors, modality=search_pb2.MODALITY_TEXT, k=10
        )
        return await stub.Search(asked, metadata=metadata, timeout=30)

    return send


def _embedder_calls(channel: grpc.aio.Channel) -> Send:
    """Captions, eight at a time, none asked twice."""
    stub = EmbedderServiceStub(channel)  # type: ignore[no-untyped-call]

    async def send(number: int, metadata: tuple[tuple[str, str], ...]) -> object:
        texts = [f"caption {number} {place} {time.monotonic_ns()}" for place in range(8)]
        answer = await stub.EmbedTexts(
            embedder_service_pb2.EmbedTextsRequest(texts=texts), metadata=metadata, timeout=30
        )
        assert not any(status.code for status in answer.statuses)
        return answer

    return send
