"""Checkpoints of both SigLIP families, and narrow limits, on servers inside the test process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from eyebright.vectors.numpy_codec import decode_vectors
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry

from embedder_service.checkpoint_files import find_checkpoint
from embedder_service.service import EmbedderService
from embedder_service.settings import EmbedderSettings
from service_runtime.server import Server
from tests.unit.embedder_service.checkpoints import CAPTIONS, Reference, write_checkpoint
from tests.unit.embedder_service.pictures import encoded, photo


@asynccontextmanager
async def serving(
    folder: Path, registry: CollectorRegistry, **options: int | str
) -> AsyncIterator[EmbedderServiceStub]:
    """A stub for a server of the checkpoint in a folder."""
    settings = EmbedderSettings(port=0, metrics_port=0, model=str(folder), torch_threads=1, **options)  # type: ignore[arg-type]
    async with (
        Server(EmbedderService(find_checkpoint(settings.model), settings, registry), settings, registry) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel,
    ):
        yield EmbedderServiceStub(channel)


def retry_seconds(error: grpc.aio.AioRpcError) -> float:
    """What its RetryInfo says."""
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    return float(retry.retry_delay.ToTimedelta().total_seconds())


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
async def test_a_folder_of_either_family_is_served(tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path, family)
    async with serving(folder, CollectorRegistry()) as stub:
        model = (await stub.GetModel(messages.GetModelRequest())).model
        answer = await stub.EmbedTexts(messages.EmbedTextsRequest(texts=CAPTIONS))
    assert (model.name, model.dimension, model.image_size, model.text_length) == (str(folder), 48, 32, 16)
    theirs = Reference.of(folder).text_vectors(list(CAPTIONS))
    assert 1 - (decode_vectors(answer.vectors) * theirs).sum(1).min() <= 1e-6
    np.testing.assert_allclose(np.linalg.norm(theirs, axis=1), 1)


@pytest.mark.parametrize("loaded", ["text", "image"])
async def test_a_tower_alone_refuses_what_needs_the_other(tmp_path: Path, loaded: str) -> None:
    folder = write_checkpoint(tmp_path, "siglip2")
    texts = messages.EmbedTextsRequest(texts=CAPTIONS)
    images = messages.EmbedImagesRequest(images=[encoded(photo(64, 64))])
    async with serving(folder, CollectorRegistry()) as stub:
        both = (await stub.GetModel(messages.GetModelRequest())).model
    assert list(both.towers) == [messages.TOWER_TEXT, messages.TOWER_IMAGE]
    async with serving(folder, CollectorRegistry(), towers=loaded) as stub:
        model = (await stub.GetModel(messages.GetModelRequest())).model
        embed = {"text": (stub.EmbedTexts, texts), "image": (stub.EmbedImages, images)}
        call, request = embed.pop(loaded)
        assert {status.code for status in (await call(request)).statuses} == {0}
        ((missing, (call, request)),) = embed.items()
        batches = {
            "text": messages.EmbedStreamRequest(texts=texts),
            "image": messages.EmbedStreamRequest(images=images),
        }
        stream = stub.EmbedStream(iter([batches[missing]]))
        for refused in (call(request), stream.read()):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await refused
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert caught.value.details() == f"the {missing} tower is not loaded; loaded here: {loaded}"
    assert list(model.towers) == [messages.TOWER_TEXT if loaded == "text" else messages.TOWER_IMAGE]
    assert (model.fingerprint, model.logit_scale, model.logit_bias) == (
        both.fingerprint, both.logit_scale, both.logit_bias
    )  # fmt: skip


@pytest.mark.parametrize(("precision", "difference"), [("fp32", 1e-6), ("bf16", 1e-3), ("int8", 1e-2)])
async def test_the_precision_asked_for_is_served_and_said(tmp_path: Path, precision: str, difference: float) -> None:
    folder = write_checkpoint(tmp_path, "siglip2")
    async with serving(folder, CollectorRegistry(), precision=precision) as stub:
        model = (await stub.GetModel(messages.GetModelRequest())).model
        answer = await stub.EmbedTexts(messages.EmbedTextsRequest(texts=CAPTIONS))
    assert model.precision == precision
    theirs = Reference.of(folder).text_vectors(list(CAPTIONS))
    assert 1 - (decode_vectors(answer.vectors) * theirs).sum(1).min() <= difference


async def test_overload_is_refused_at_once_while_streams_wait(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    limits = {"max_items": 64, "queue_limit": 128, "batch_limit": 2, "stream_window": 8}
    async with serving(write_checkpoint(tmp_path, "siglip"), registry, **limits) as stub:
        requests = [
            messages.EmbedTextsRequest(texts=[f"dog {call} {item}" for item in range(64)]) for call in range(12)
        ]
        outcomes = await asyncio.gather(*map(stub.EmbedTexts, requests), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        assert 0 < len(refused) < 12
        for error in refused:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "64 more would pass its limit of 64" in str(error.details())
            assert retry_seconds(error) >= 0.05
        batches = (
            messages.EmbedStreamRequest(
                batch_id=i, texts=messages.EmbedTextsRequest(texts=[f"cat {i} {item}" for item in range(64)])
            )
            for i in range(8)
        )
        assert [answer.batch_id async for answer in stub.EmbedStream(batches)] == list(range(8))
    labels = {"tower": "text", "reason": "items"}
    assert registry.get_sample_value("eyebright_embedder_rejected_items_total", labels) == 64 * len(refused)
