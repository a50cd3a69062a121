"""EmbedStream of a running embedder: order, bounds and faults."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import numpy as np
import pytest
from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from eyebright.vectors.numpy_codec import decode_vectors

from tests.integration.embedder_service.conftest import Sample, texts_of
from tests.unit.embedder_service.pictures import encoded, photo

Request = messages.EmbedStreamRequest


def texts(batch_id: int, *captions: str) -> Request:
    return Request(batch_id=batch_id, texts=messages.EmbedTextsRequest(texts=captions))


def images(batch_id: int, *files: bytes) -> Request:
    return Request(batch_id=batch_id, images=messages.EmbedImagesRequest(images=files))


def test_answers_come_in_order_each_of_the_kind_asked(stub: EmbedderServiceStub) -> None:
    picture = encoded(photo(64, 64))
    # Slow and quick batches in turn: answers would change places if order were left to chance.
    requests = [images(i, *[picture] * 16) if i % 2 == 0 else texts(i, f"dog {i}") for i in range(12)]
    answers = list(stub.EmbedStream(iter(requests)))
    assert [answer.batch_id for answer in answers] == list(range(12))
    assert [answer.WhichOneof("batch") for answer in answers] == ["images", "texts"] * 6
    for answer in answers[1::2]:
        np.testing.assert_allclose(
            decode_vectors(answer.texts.vectors), texts_of(stub, f"dog {answer.batch_id}"), atol=1e-5
        )
    assert all(answer.images.vectors.count == 16 for answer in answers[::2])


def test_item_faults_leave_the_stream_running(stub: EmbedderServiceStub) -> None:
    answers = list(stub.EmbedStream(iter([texts(1, "a dog", ""), images(2, b"nothing"), texts(3, "a cat")])))
    codes = [[status.code for status in (answer.texts.statuses or answer.images.statuses)] for answer in answers]
    assert codes == [[0, 3], [3], [0]]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (texts(2), "texts: expected 1 to 256 items, not 0"),
        (images(2, *[b"x"] * 257), "images: expected 1 to 256 items, not 257"),
        (Request(batch_id=2), "batch: expected texts or images, not an empty message"),
    ],
    ids=["no captions", "too many images", "neither"],
)
def test_a_request_fault_ends_the_stream_after_the_answers_before_it(
    stub: EmbedderServiceStub, request_: Request, message: str
) -> None:
    call = stub.EmbedStream(iter([texts(1, "a dog"), request_, texts(3, "a cat")]))
    assert next(call).batch_id == 1
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == message


def test_an_empty_stream_ends_well(stub: EmbedderServiceStub) -> None:
    no_requests: Iterator[Request] = iter(())
    assert list(stub.EmbedStream(no_requests)) == []


async def test_a_caller_that_does_not_read_is_held_back(aio_stub: EmbedderServiceStub, sample: Sample) -> None:
    """Unread answers fill HTTP/2's flow-control window; then the service must stop taking batches in."""

    def taken_in() -> float:
        return sample("eyebright_embedder_rejected_items_total", tower="text", reason="invalid") - before

    total = 160  # blank captions: answers of 200 kB each that cost no forward pass
    before = 0.0
    before = taken_in()
    answers = aiter(aio_stub.EmbedStream(texts(batch_id, *[""] * 256) for batch_id in range(total)))
    assert (await anext(answers)).batch_id == 0
    items, previous = 0.0, -1.0
    while items != previous:
        await asyncio.sleep(0.25)
        items, previous = taken_in(), items
    assert items < 256 * total / 2
    assert [response.batch_id async for response in answers] == list(range(1, total))
    assert taken_in() == 256 * total


async def test_a_stream_that_is_cancelled_leaves_nothing_behind(
    aio_stub: EmbedderServiceStub, stub: EmbedderServiceStub, sample: Sample
) -> None:
    async def endless() -> AsyncIterator[Request]:
        picture = encoded(photo(64, 64))
        while True:
            yield images(1, *[picture] * 32)

    call = aio_stub.EmbedStream(endless())
    await call.read()
    call.cancel()
    while sample("eyebright_embedder_admitted_items", tower="image"):
        await asyncio.sleep(0.01)
    assert texts_of(stub, "still here").any()
