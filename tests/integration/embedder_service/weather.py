"""Sends a storm of pictures to an embedder, and tells what became of them.

Owns how they are sent and judged. Knows nothing of what is wrong with any. Imports no torch.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice

import grpc
import numpy as np
from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from eyebright.vectors.numpy_codec import decode_vectors
from google.rpc import error_details_pb2

from service_runtime.memory import resident_bytes
from tests.integration.embedder_service.hostile_images import Picture, bad_pictures, good_pictures, storm

MOST_GROWTH_BYTES = 100_000_000
"""Of the service's own memory from before a storm to after it."""

_CALLERS = 4
_IN_A_REQUEST = 16
_LARGEST_BATCH = 32
"""The service's default."""

_TOLERANCE = 1e-5
"""Between a vector and the one of the same picture alone: batches of another size are summed in another order."""

_OPTIONS = [("grpc.max_send_message_length", 64 << 20), ("grpc.max_receive_message_length", 64 << 20)]
_INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]


@dataclass(slots=True)
class Outcome:
    """What became of the pictures."""

    embedded: int = 0
    refused: int = 0
    grown_bytes: int = 0
    """Of the service's own memory (RssAnon), from before to after."""
    wrong: list[str] = field(default_factory=list)
    """What should not have come back, in words."""

    def __str__(self) -> str:
        """In words."""
        return (
            f"{self.embedded} embedded, {self.refused} refused, {len(self.wrong)} wrong, "
            f"grown by {self.grown_bytes / 1e6:.1f} MB"
        )


def weather(address: str, process: int, seed: int, count: int) -> Outcome:
    """Send so many pictures from several callers, and judge every one.

    Each picture that may not be broken is embedded alone before. ``process`` is the service's id.
    """
    with grpc.insecure_channel(address, _OPTIONS) as channel, ThreadPoolExecutor(_CALLERS) as callers:
        stub = EmbedderServiceStub(channel)
        alone = {picture.name: _embed(stub, [picture])[0][0] for picture in good_pictures()}
        # What is allocated once is no growth: torch keeps some megabytes for each size of a batch that it has seen.
        for size in range(1, _LARGEST_BATCH + 1):
            _embed(stub, list(islice(cycle(good_pictures()), size)))
        for picture in bad_pictures():
            _embed(stub, [picture])
        before = anonymous_bytes(process)
        outcome = Outcome()
        pictures = storm(seed, count)
        for judged in callers.map(lambda batch: _judge(stub, batch, alone), _batches(pictures)):
            outcome.embedded += judged.embedded
            outcome.refused += judged.refused
            outcome.wrong += judged.wrong
        outcome.grown_bytes = _grown_bytes(stub, process, before)
    return outcome


def _grown_bytes(stub: EmbedderServiceStub, process: int, before: int) -> int:
    """The least within some seconds: the service gives freed memory back now and then, after a picture."""
    calm = good_pictures()[:1]
    grown = anonymous_bytes(process) - before
    for _ in range(20):
        if grown < MOST_GROWTH_BYTES / 2:
            break
        time.sleep(0.4)
        _embed(stub, calm)
        grown = min(grown, anonymous_bytes(process) - before)
    return grown


def anonymous_bytes(process: int) -> int:
    """Resident memory of a process that is not a file's (RssAnon)."""
    return resident_bytes(process=process)["anonymous"]


def _batches(pictures: Iterator[Picture]) -> Iterator[list[Picture]]:
    while batch := list(islice(pictures, _IN_A_REQUEST)):
        yield batch


def _embed(stub: EmbedderServiceStub, pictures: Sequence[Picture]) -> tuple[np.ndarray, Sequence[str]]:
    """The vectors (n, dimension), and what was said of each picture: nothing where there is a vector."""
    answer = stub.EmbedImages(messages.EmbedImagesRequest(images=[picture.file for picture in pictures]), timeout=300)
    said = []
    for status in answer.statuses:
        detail = error_details_pb2.BadRequest()
        named = status.details and status.details[0].Unpack(detail) and detail.field_violations[0].field
        said.append("" if status.code == 0 else f"{status.code} {named} {status.message}")
    return decode_vectors(answer.vectors), said


def _judge(stub: EmbedderServiceStub, pictures: Sequence[Picture], alone: dict[str, np.ndarray]) -> Outcome:
    vectors, said = _embed(stub, pictures)
    outcome = Outcome()
    for position, (picture, vector, words) in enumerate(zip(pictures, vectors, said, strict=True)):
        if words:
            outcome.refused += 1
            named = f"images[{position}]"
            right = picture.fate != "embedded" and words.startswith(f"{_INVALID_ARGUMENT} {named} {named}: expected ")
        else:
            outcome.embedded += 1
            expected = alone[picture.name] if picture.fate == "embedded" else vector / np.linalg.norm(vector)
            right = picture.fate != "refused" and bool(np.allclose(vector, expected, atol=_TOLERANCE))
        if not right:
            outcome.wrong.append(f"{picture.name} ({picture.fate}): {words or vector[:4]}")
    return outcome
