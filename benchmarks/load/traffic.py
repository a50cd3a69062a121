"""The kinds of call that make up a load, and how one of each is made.

Owns their requests, which are serialised before the clock starts. Knows nothing of when they are sent.
"""

import itertools
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from enum import StrEnum
from typing import Any

import grpc
import numpy as np
from eyebright.embedder.v1 import embedder_service_pb2
from eyebright.index.v1 import record_pb2, search_pb2
from eyebright.vectors.numpy_codec import encode_vectors

from benchmarks.dataset import Dataset, name
from benchmarks.index_server import COLLECTION, FINGERPRINT

K = 10
_UPSERTS = 2_000
"""Different records that are written again and again."""

_WORDS = ("red", "blue", "small", "large", "old", "wooden", "dog", "cat", "house", "tree", "boat", "river", "hill")


class Kind(StrEnum):
    """A kind of call."""

    SEARCH = "search"
    """By the vector of a caption, the 10 nearest."""
    UPSERT = "upsert"
    """One record that is there already, durable when answered."""
    EMBED = "embed"
    """A caption that was never asked before."""


Send = Callable[[float], Awaitable[bool]]
"""Makes one call with a timeout in seconds; whether all of it was done. Raises AioRpcError."""


class Traffic:
    """Makes calls of each kind over channels of its own."""

    def __init__(self, index: str, embedder: str, data: Dataset, seed: int) -> None:
        """``index`` and ``embedder`` are addresses; callers with different seeds send different calls."""
        self._channels = [grpc.aio.insecure_channel(address) for address in (index, embedder) if address]
        self._random = random.Random(seed)  # noqa: S311
        self._send: dict[Kind, Send] = {
            Kind.SEARCH: self._sender(
                self._channels[0],
                "/eyebright.index.v1.IndexService/Search",
                self._turning([_search(caption) for caption in data.captions]),
                search_pb2.SearchResponse,
                lambda answer: len(answer.results) == 1 and len(answer.results[0].ids) == K,
            ),
            Kind.UPSERT: self._sender(
                self._channels[0],
                "/eyebright.index.v1.IndexService/Upsert",
                self._turning([_upsert(row, data.pictures[row]) for row in range(min(_UPSERTS, data.rows))]),
                record_pb2.UpsertResponse,
                lambda answer: not answer.statuses[0].code,
            ),
        }
        if embedder:
            self._send[Kind.EMBED] = self._sender(
                self._channels[1],
                "/eyebright.embedder.v1.EmbedderService/EmbedTexts",
                self._captions(),
                embedder_service_pb2.EmbedTextsResponse,
                lambda answer: not answer.statuses[0].code,
            )

    def send(self, kind: Kind, timeout: float) -> Awaitable[bool]:
        """Make one call."""
        return self._send[kind](timeout)

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            await channel.close()

    @staticmethod
    def _sender(
        channel: grpc.aio.Channel,
        method: str,
        requests: Iterator[bytes],
        response: Any,  # noqa: ANN401 - a class of messages
        sound: Callable[[Any], bool],
    ) -> Send:
        call: Any = channel.unary_unary(method, response_deserializer=response.FromString)

        async def send(timeout: float) -> bool:
            return sound(await call(next(requests), timeout=timeout))

        return send

    def _turning(self, requests: list[bytes]) -> Iterator[bytes]:
        self._random.shuffle(requests)
        return itertools.cycle(requests)

    def _captions(self) -> Iterator[bytes]:
        while True:
            text = f"{' '.join(self._random.choices(_WORDS, k=7))} {self._random.getrandbits(48)}"
            yield embedder_service_pb2.EmbedTextsRequest(texts=[text]).SerializeToString()


def _search(caption: np.ndarray) -> bytes:
    request = search_pb2.SearchRequest(
        collection=COLLECTION,
        vectors=encode_vectors(caption[None], FINGERPRINT),
        modality=search_pb2.MODALITY_TEXT,
        k=K,
    )
    return request.SerializeToString()


def _upsert(row: int, picture: np.ndarray) -> bytes:
    record = record_pb2.Record(id=name(row), metadata_json=json.dumps({"row": row}).encode())
    request = record_pb2.UpsertRequest(
        collection=COLLECTION, records=[record], vectors=encode_vectors(picture[None], FINGERPRINT)
    )
    return request.SerializeToString()
