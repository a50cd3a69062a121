"""EmbedTexts and EmbedImages of a running embedder: vectors, faults of items, faults of requests."""

import asyncio
import io
import random

import grpc
import numpy as np
import pytest
from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from eyebright.vectors.numpy_codec import FLOAT16, FLOAT32, decode_vectors
from eyebright.vectors.v1.vectors_pb2 import ElementType
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from embedder_service.checkpoint_files import DEMO_FOLDER
from tests.integration.embedder_service.conftest import Sample, texts_of
from tests.processes import RunningService
from tests.unit.embedder_service.checkpoints import CAPTIONS, Reference
from tests.unit.embedder_service.pictures import BAD_IMAGES, encoded, photo

UNSPECIFIED = ElementType.ELEMENT_TYPE_UNSPECIFIED
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.of(DEMO_FOLDER)


@pytest.fixture(autouse=True)
def still_serving(embedder: RunningService) -> object:
    """After every test the service must answer SERVING."""
    yield
    with grpc.insecure_channel(embedder.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "eyebright.embedder.v1.EmbedderService"):
            status = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status
            assert status == health_pb2.HealthCheckResponse.SERVING


def test_get_model_states_the_checkpoint(model: messages.Model, reference: Reference) -> None:
    config = reference.model.config
    assert model.name == "demo"
    assert len(model.fingerprint) == 64
    assert (model.dimension, model.image_size) == (config.vision_config.hidden_size, config.vision_config.image_size)
    assert model.text_length == config.text_config.max_position_embeddings
    assert model.logit_scale == pytest.approx(reference.model.logit_scale.item())
    assert model.logit_bias == pytest.approx(reference.model.logit_bias.item())
    assert (model.max_items, model.max_image_bytes, model.max_image_pixels) == (256, 20 * 1024 * 1024, 64_000_000)
    assert model.max_text_bytes == 32 * 1024


def test_caption_vectors_are_transformers_own(stub: EmbedderServiceStub, reference: Reference) -> None:
    answer = stub.EmbedTexts(messages.EmbedTextsRequest(texts=CAPTIONS))
    ours, theirs = decode_vectors(answer.vectors), reference.text_vectors(list(CAPTIONS))
    assert 1 - (ours * theirs).sum(1).min() <= 1e-6
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_image_vectors_are_transformers_own(
    stub: EmbedderServiceStub, model: messages.Model, reference: Reference
) -> None:
    files = [encoded(photo(300, 200, 1)), encoded(photo(90, 400, 2), "JPEG"), encoded(photo(64, 64, 3, "L"))]
    answer = stub.EmbedImages(messages.EmbedImagesRequest(images=files))
    images = [Image.open(io.BytesIO(file)) for file in files]
    theirs = np.concatenate([reference.image_vectors([image]) for image in images])
    assert 1 - (decode_vectors(answer.vectors) * theirs).sum(1).min() <= 1e-6
    assert answer.vectors.fingerprint == model.fingerprint


def test_probability_of_a_pair_is_transformers_own(
    stub: EmbedderServiceStub, model: messages.Model, reference: Reference
) -> None:
    import torch

    image = photo(120, 120, 9)
    caption = texts_of(stub, CAPTIONS[0])[0]
    answer = stub.EmbedImages(messages.EmbedImagesRequest(images=[encoded(image)]))
    logit = np.exp(model.logit_scale) * (caption @ decode_vectors(answer.vectors)[0]) + model.logit_bias
    with torch.inference_mode():
        theirs = reference.model(
            input_ids=torch.from_numpy(reference.token_ids([CAPTIONS[0]])),
            pixel_values=torch.from_numpy(reference.pixel_values([image])),
        ).logits_per_image.item()
    assert logit == pytest.approx(theirs, abs=1e-3)


async def test_a_caption_has_one_vector_whoever_its_neighbours(
    stub: EmbedderServiceStub, aio_stub: EmbedderServiceStub
) -> None:
    captions = [f"{first} {second}" for first in CAPTIONS for second in ("", *CAPTIONS[:3])]
    alone = np.concatenate([texts_of(stub, caption) for caption in captions]).astype(float)
    generator = random.Random(5)

    async def mixed() -> float:
        chosen = generator.choices(range(len(captions)), k=generator.randint(1, 40))
        request = messages.EmbedTextsRequest(texts=[captions[i] for i in chosen])
        vectors = decode_vectors((await aio_stub.EmbedTexts(request)).vectors)
        return float((vectors * alone[chosen]).sum(1).min())

    assert min(await asyncio.gather(*(mixed() for _ in range(20)))) >= 1 - 1e-6


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_fails_alone(stub: EmbedderServiceStub, name: str) -> None:
    good, other = encoded(photo(80, 60, 1)), encoded(photo(80, 60, 2), "JPEG")
    alone = decode_vectors(stub.EmbedImages(messages.EmbedImagesRequest(images=[good, other])).vectors)
    answer = stub.EmbedImages(messages.EmbedImagesRequest(images=[good, other, BAD_IMAGES[name], good]))
    assert [status.code for status in answer.statuses] == [0, 0, INVALID_ARGUMENT, 0]
    assert answer.statuses[2].message.startswith("images[2]: expected")
    vectors = decode_vectors(answer.vectors)
    assert not vectors[2].any()
    np.testing.assert_allclose(vectors[[0, 1, 3]], alone[[0, 1, 0]], atol=1e-5)


def test_an_item_fault_carries_its_field(stub: EmbedderServiceStub) -> None:
    (status,) = stub.EmbedImages(messages.EmbedImagesRequest(images=[b"nothing"])).statuses
    detail = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(detail)
    assert detail.field_violations[0].field == "images[0]"


@pytest.mark.parametrize(
    "bad", ["", "   ", "\n\t", "a " * 16_385, "x" * 1_000_000], ids=["empty", "blank", "tabs", "32 KiB + 2", "1 MB"]
)
def test_a_bad_caption_fails_alone(stub: EmbedderServiceStub, bad: str) -> None:
    answer = stub.EmbedTexts(messages.EmbedTextsRequest(texts=["a dog", bad, "a cat"]))
    assert [status.code for status in answer.statuses] == [0, INVALID_ARGUMENT, 0]
    assert answer.statuses[1].message.startswith("texts[1]: expected")
    vectors = decode_vectors(answer.vectors)
    assert not vectors[1].any()
    np.testing.assert_allclose(vectors[[0, 2]], texts_of(stub, "a dog", "a cat"), atol=1e-5)


def test_a_caption_of_one_megabyte_states_both_sizes(stub: EmbedderServiceStub) -> None:
    (status,) = stub.EmbedTexts(messages.EmbedTextsRequest(texts=["y" * 1_000_000])).statuses
    assert status.message == "texts[0]: expected at most 32768 bytes of UTF-8, not 1000000"


def test_long_captions_are_cut_and_listed(stub: EmbedderServiceStub) -> None:
    answer = stub.EmbedTexts(messages.EmbedTextsRequest(texts=["a dog", "dog " * 200, "", "cat " * 8000]))
    assert list(answer.truncated) == [1, 3]
    assert [status.code for status in answer.statuses] == [0, 0, INVALID_ARGUMENT, 0]


def test_a_request_of_nothing_but_bad_items_is_answered(stub: EmbedderServiceStub, model: messages.Model) -> None:
    answer = stub.EmbedTexts(messages.EmbedTextsRequest(texts=["", " "]))
    assert [status.code for status in answer.statuses] == [INVALID_ARGUMENT] * 2
    assert decode_vectors(answer.vectors).shape == (2, model.dimension)
    assert answer.timings.forward_seconds == 0


@pytest.mark.parametrize("count", [0, 257])
def test_too_few_or_too_many_items_fail_the_request(stub: EmbedderServiceStub, count: int) -> None:
    for call, request, field in (
        (stub.EmbedTexts, messages.EmbedTextsRequest(texts=["x"] * count), "texts"),
        (stub.EmbedImages, messages.EmbedImagesRequest(images=[b"x"] * count), "images"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == f"{field}: expected 1 to 256 items, not {count}"


def test_the_element_type_is_honoured(stub: EmbedderServiceStub, model: messages.Model) -> None:
    default, full, half = (
        stub.EmbedTexts(messages.EmbedTextsRequest(texts=["a dog"], element_type=kind)).vectors
        for kind in (UNSPECIFIED, FLOAT32, FLOAT16)
    )
    assert (default.element_type, full.element_type, half.element_type) == (FLOAT32, FLOAT32, FLOAT16)
    assert (len(full.data), len(half.data)) == (4 * model.dimension, 2 * model.dimension)
    np.testing.assert_allclose(decode_vectors(half)[0], decode_vectors(full)[0], atol=1e-3)


def test_an_unknown_element_type_fails_the_request(stub: EmbedderServiceStub) -> None:
    with pytest.raises(grpc.RpcError, match="element_type: expected an ElementType, 0 to 2, not 9"):
        stub.EmbedTexts(messages.EmbedTextsRequest(texts=["a dog"], element_type=9))  # type: ignore[arg-type]


def test_an_unknown_priority_fails_the_request(stub: EmbedderServiceStub) -> None:
    texts = messages.EmbedTextsRequest(texts=["a dog"], priority=9)  # type: ignore[arg-type]
    images = messages.EmbedImagesRequest(images=[encoded(photo(8, 8))], priority=9)  # type: ignore[arg-type]
    for call, request in (
        (stub.EmbedTexts, texts),
        (stub.EmbedImages, images),
        (lambda batch: next(stub.EmbedStream(iter([batch]))), messages.EmbedStreamRequest(texts=texts)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "priority: expected a Priority, 0 to 2, not 9"


@pytest.mark.parametrize(
    ("priority", "streamed", "expected"),
    [
        (messages.PRIORITY_UNSPECIFIED, False, "interactive"),
        (messages.PRIORITY_UNSPECIFIED, True, "bulk"),
        (messages.PRIORITY_BULK, False, "bulk"),
        (messages.PRIORITY_INTERACTIVE, True, "interactive"),
    ],
    ids=["a call", "a stream", "a bulk call", "an interactive stream"],
)
def test_the_priority_is_what_the_request_says_or_its_way_implies(
    stub: EmbedderServiceStub, sample: Sample, priority: messages.Priority, streamed: bool, expected: str
) -> None:
    images = messages.EmbedImagesRequest(images=[encoded(photo(64, 64))], priority=priority)
    name = "eyebright_embedder_items_total"
    before = sample(name, tower="image", priority=expected)
    if streamed:
        list(stub.EmbedStream(iter([messages.EmbedStreamRequest(images=images)])))
    else:
        stub.EmbedImages(images)
    assert sample(name, tower="image", priority=expected) == before + 1


def test_a_caption_asked_again_is_answered_from_the_cache(stub: EmbedderServiceStub, sample: Sample) -> None:
    first = stub.EmbedTexts(messages.EmbedTextsRequest(texts=["a cat that nobody asked for yet", "dog " * 201]))
    before = sample("eyebright_embedder_items_total", tower="text")
    again = stub.EmbedTexts(messages.EmbedTextsRequest(texts=[" A CAT that nobody  asked for yet ", "dog " * 201]))
    np.testing.assert_array_equal(decode_vectors(again.vectors), decode_vectors(first.vectors))
    assert (list(again.truncated), again.timings.forward_seconds) == ([1], 0)
    assert sample("eyebright_embedder_items_total", tower="text") == before
    assert sample("eyebright_embedder_text_cache_lookups_total", result="hit") >= 2


def test_timings_fit_into_the_call_and_the_histograms(stub: EmbedderServiceStub, sample: Sample) -> None:

    def seconds() -> dict[str, float]:
        towers = {"decode": {}, "queue": {"tower": "image"}, "forward": {"tower": "image"}}
        return {stage: sample(f"eyebright_embedder_{stage}_seconds_sum", **labels) for stage, labels in towers.items()}

    before = seconds()
    calls = sample("eyebright_rpc_latency_seconds_sum", method="EmbedImages")
    timings = stub.EmbedImages(messages.EmbedImagesRequest(images=[encoded(photo(900, 700))])).timings
    spent = {stage: after - before[stage] for stage, after in seconds().items()}
    whole = sample("eyebright_rpc_latency_seconds_sum", method="EmbedImages") - calls
    assert spent["decode"] == pytest.approx(timings.decode_seconds, rel=0.2, abs=1e-3)
    assert spent["queue"] == pytest.approx(timings.queue_seconds, rel=1e-3, abs=1e-6)
    assert spent["forward"] == pytest.approx(timings.forward_seconds, rel=1e-3, abs=1e-6)
    assert timings.decode_seconds > 0
    assert timings.forward_seconds > 0
    assert timings.decode_seconds + timings.queue_seconds + timings.forward_seconds <= whole


async def test_requests_that_arrive_together_share_forward_passes(
    aio_stub: EmbedderServiceStub, sample: Sample
) -> None:
    passes = "eyebright_embedder_batch_size"
    before = {kind: sample(f"{passes}_{kind}", tower="text") for kind in ("count", "sum")}
    images = asyncio.ensure_future(
        aio_stub.EmbedImages(messages.EmbedImagesRequest(images=[encoded(photo(64, 64, i)) for i in range(64)]))
    )
    await asyncio.gather(
        images, *(aio_stub.EmbedTexts(messages.EmbedTextsRequest(texts=[f"dog {i}"])) for i in range(60))
    )
    after = {kind: sample(f"{passes}_{kind}", tower="text") for kind in ("count", "sum")}
    assert after["sum"] - before["sum"] == 60
    assert after["count"] - before["count"] <= 30


async def test_a_caller_that_gives_up_leaves_nothing_behind(
    embedder: RunningService, aio_stub: EmbedderServiceStub, stub: EmbedderServiceStub, sample: Sample
) -> None:
    request = messages.EmbedImagesRequest(images=[encoded(photo(64, 64, i)) for i in range(200)])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await aio_stub.EmbedImages(request, timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert texts_of(stub, "still here").any()
    while sample("eyebright_embedder_admitted_items", tower="image"):
        await asyncio.sleep(0.01)
    assert sample("eyebright_embedder_queue_items", tower="text") == 0


def test_a_message_past_the_limit_is_refused_by_size(embedder: RunningService) -> None:
    options = [("grpc.max_send_message_length", 100 << 20)]
    with grpc.insecure_channel(embedder.address, options) as channel, pytest.raises(grpc.RpcError) as caught:
        EmbedderServiceStub(channel).EmbedImages(messages.EmbedImagesRequest(images=[bytes(65 << 20)]))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
