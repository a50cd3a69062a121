"""Ways to talk to the running embedder."""

from collections.abc import AsyncIterator, Callable, Iterator
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from eyebright.vectors.numpy_codec import decode_vectors
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import RunningService

LARGE_MESSAGES = [("grpc.max_send_message_length", 64 << 20), ("grpc.max_receive_message_length", 64 << 20)]

Sample = Callable[..., float]
"""sample(name, **labels) -> the value of a metric now, 0 when it has none."""


@pytest.fixture(scope="session")
def stub(embedder: RunningService) -> Iterator[EmbedderServiceStub]:
    with grpc.insecure_channel(embedder.address, LARGE_MESSAGES) as channel:
        yield EmbedderServiceStub(channel)


@pytest.fixture
async def aio_stub(embedder: RunningService) -> AsyncIterator[EmbedderServiceStub]:
    async with grpc.aio.insecure_channel(embedder.address, LARGE_MESSAGES) as channel:
        yield EmbedderServiceStub(channel)


@pytest.fixture(scope="session")
def model(stub: EmbedderServiceStub) -> messages.Model:
    model: messages.Model = stub.GetModel(messages.GetModelRequest()).model
    return model


def metric(service: RunningService, name: str, **labels: str) -> float:
    """The value of one sample of /metrics; 0 when there is none."""
    with urlopen(f"{service.metrics_url}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@pytest.fixture
def sample(embedder: RunningService) -> Sample:
    return lambda name, **labels: metric(embedder, name, **labels)


def texts_of(stub: EmbedderServiceStub, *texts: str) -> np.ndarray:
    """Vectors of captions, all of which must succeed."""
    answer = stub.EmbedTexts(messages.EmbedTextsRequest(texts=texts), timeout=30)
    assert {status.code for status in answer.statuses} == {0}
    return decode_vectors(answer.vectors)
