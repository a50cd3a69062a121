"""Pictures that are decoded already: the same vectors, checked by both values, refused where they are not wanted."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from eyebright.vectors.numpy_codec import decode_vectors
from eyebright_client import Client, FailedPrecondition, InvalidArgument
from PIL import Image

from embedder_service.images import ImageDecoder, Preprocessing
from tests.integration.client.facade import BlockingAsyncClient
from tests.integration.embedder_service.conftest import LARGE_MESSAGES
from tests.processes import RunningService, running_service
from tests.unit.embedder_service.pictures import encoded, photo

SIDE = 64
FILES = [encoded(photo(90 + 7 * i, 70, i), form) for i, form in enumerate(["PNG", "JPEG", "GIF", "BMP", "WEBP"])]


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("trusting")
    with running_service("embedder_service", folder, "--accept-pixels", "--max-items", "8") as service:
        yield service


@pytest.fixture(scope="module")
def pixel_stub(trusting: RunningService) -> Iterator[EmbedderServiceStub]:
    with grpc.insecure_channel(trusting.address, LARGE_MESSAGES) as channel:
        yield EmbedderServiceStub(channel)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """(n, SIDE, SIDE, 3) uint8 of FILES."""
    preprocessing = Preprocessing(SIDE, Image.Resampling.BICUBIC, 1 / 255, (0.5,) * 3, (0.5,) * 3)
    decoder = ImageDecoder(preprocessing, 10**7, 10**6)
    return np.stack([decoder.decode(file, "") for file in FILES])


def batch(pixels: np.ndarray, **other: object) -> messages.PixelBatch:
    stated = {"count": len(pixels), "size": SIDE, "data": pixels.tobytes()} | other
    return messages.PixelBatch(**stated)  # type: ignore[arg-type]


def test_pixels_have_the_vectors_of_the_files_they_come_from(
    pixel_stub: EmbedderServiceStub, pixels: np.ndarray
) -> None:
    assert pixel_stub.GetModel(messages.GetModelRequest()).model.accepts_pixels
    theirs = pixel_stub.EmbedImages(messages.EmbedImagesRequest(images=FILES))
    ours = pixel_stub.EmbedImages(messages.EmbedImagesRequest(pixels=batch(pixels)))
    assert {status.code for status in ours.statuses} == {0}
    assert ours.vectors.fingerprint == theirs.vectors.fingerprint
    assert ours.timings.decode_seconds == 0
    np.testing.assert_allclose(decode_vectors(ours.vectors), decode_vectors(theirs.vectors), atol=1e-6)


def test_a_stream_takes_pixels_too(pixel_stub: EmbedderServiceStub, pixels: np.ndarray) -> None:
    requests = [
        messages.EmbedStreamRequest(batch_id=1, images=messages.EmbedImagesRequest(images=FILES)),
        messages.EmbedStreamRequest(batch_id=2, images=messages.EmbedImagesRequest(pixels=batch(pixels))),
    ]
    encoded_answer, pixel_answer = pixel_stub.EmbedStream(iter(requests))
    np.testing.assert_allclose(
        decode_vectors(pixel_answer.images.vectors), decode_vectors(encoded_answer.images.vectors), atol=1e-6
    )


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"size": 63}, "pixels.size: expected 64 pixels a side, not 63"),
        ({"count": 0, "data": b""}, "pixels.count: expected 1 to 8 pictures, not 0"),
        ({"count": 9}, "pixels.count: expected 1 to 8 pictures, not 9"),
        ({"count": 4}, "pixels.data: expected 49152 bytes, not 61440"),
        ({"count": 2**32 - 1}, "pixels.count: expected 1 to 8 pictures, not 4294967295"),
        ({"data": b""}, "pixels.data: expected 61440 bytes, not 0"),
    ],
    ids=["another size", "none", "too many", "too much data", "far too many", "no data"],
)
def test_pixels_that_do_not_fit_are_refused_with_both_values(
    pixel_stub: EmbedderServiceStub, pixels: np.ndarray, request_: dict[str, object], message: str
) -> None:
    request = messages.EmbedImagesRequest(pixels=batch(pixels, **request_))
    stream = pixel_stub.EmbedStream(iter([messages.EmbedStreamRequest(images=request)]))
    for call in (lambda: pixel_stub.EmbedImages(request), lambda: next(stream)):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == message


def test_images_and_pixels_together_are_refused(pixel_stub: EmbedderServiceStub, pixels: np.ndarray) -> None:
    with pytest.raises(grpc.RpcError, match=r"pixels: expected images or pixels, not both \(5 images\)") as caught:
        pixel_stub.EmbedImages(messages.EmbedImagesRequest(images=FILES, pixels=batch(pixels)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_pixels_are_refused_where_the_setting_is_off(
    stub: EmbedderServiceStub, model: messages.Model, pixels: np.ndarray
) -> None:
    assert not model.accepts_pixels
    with pytest.raises(grpc.RpcError, match="the setting accept_pixels is false") as caught:
        stub.EmbedImages(messages.EmbedImagesRequest(pixels=batch(pixels)))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(params=[Client, BlockingAsyncClient], ids=["sync", "async"])
def client(request: pytest.FixtureRequest, trusting: RunningService) -> Iterator[Client]:
    with request.param(trusting.address) as client:
        yield client


def test_the_sdk_cuts_pixels_into_requests(client: Client, pixels: np.ndarray) -> None:
    many = np.concatenate([pixels] * 5)  # the service takes 8 at a time
    embeddings = client.embed_pixels(many, priority="bulk")
    assert (len(embeddings), embeddings.modality, embeddings.errors) == (25, "image", {})
    np.testing.assert_allclose(embeddings.vectors, np.tile(client.embed_images(FILES).vectors, (5, 1)), atol=1e-6)
    assert client.embed_pixels(pixels[:0]).vectors.shape == (0, client.model().dimension)
    np.testing.assert_allclose(  # a view that is not contiguous
        client.embed_pixels(pixels[::-1, ::-1]).vectors,
        client.embed_pixels(pixels[::-1, ::-1].copy()).vectors,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((2, 64, 64, 3), np.float32), r"expected shape \(n, 64, 64, 3\) of uint8, not .* of float32"),
        (np.zeros((64, 64, 3), np.uint8), r"expected shape \(n, 64, 64, 3\) of uint8, not \(64, 64, 3\) of uint8"),
        (np.zeros((2, 3, 64, 64), np.uint8), r"not \(2, 3, 64, 64\) of uint8"),
        ([[1]], "expected a numpy array, not list"),
    ],
    ids=["floats", "one picture", "channels first", "a list"],
)
def test_the_sdk_checks_pixels_first(client: Client, wrong: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        client.embed_pixels(wrong)
    with pytest.raises(InvalidArgument, match="priority: expected 'interactive' or 'bulk', not 'urgent'"):
        client.embed_pixels(wrong, priority="urgent")  # type: ignore[arg-type]


def test_the_sdk_says_that_pixels_are_not_taken(embedder: RunningService, pixels: np.ndarray) -> None:
    with Client(embedder.address) as client, pytest.raises(FailedPrecondition, match="accept_pixels is false"):
        client.embed_pixels(pixels)
