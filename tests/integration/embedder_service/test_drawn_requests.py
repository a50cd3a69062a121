"""Whatever bytes a method of the embedder is sent, its answer says whose fault it is, and the service goes on."""

from collections.abc import Iterator

import grpc
import pytest
from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import strategies as st

from tests.processes import RunningService, running_service
from tests.security.drawn_requests import Known, hammer
from tests.unit.embedder_service.pictures import encoded, photo

METHODS = list(messages.DESCRIPTOR.services_by_name["EmbedderService"].methods)
CALLS = [
    pytest.param(60, id="same"),
    pytest.param(600, id="anew", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """An embedder that takes pixels too."""
    arguments = ("--accept-pixels", "--warm-up-seconds", "0", "--canary-seconds", "3600", "--log-level", "warning")
    with running_service("embedder_service", tmp_path_factory.mktemp("drawn"), *arguments) as started:
        yield started


def known(method: MethodDescriptor, image_size: int) -> Known:
    picture = encoded(photo(40, 30))
    side = image_size
    items = {
        "texts": st.sampled_from(["a dog", "", " ", "x" * 40_000, "\0", "é🐞"]) | st.text(max_size=40),
        "images": st.sampled_from([picture, picture[:90], b"", b"GIF89a"]),
    }
    return {
        **({} if method.client_streaming else items),  # where these names are those of whole batches
        "element_type": st.sampled_from([0, 1, 2, 3]),
        "priority": st.sampled_from([0, 1, 2, 3]),
        "size": st.just(side),
        "count": st.sampled_from([1, 2, 257]),
        "data": st.sampled_from([bytes(3 * side * side), bytes(6 * side * side), b"x"]),
    }


@pytest.mark.parametrize("examples", CALLS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_call_ends_clean(service: RunningService, method: MethodDescriptor, examples: int) -> None:
    with grpc.insecure_channel(service.address) as channel:
        stub = EmbedderServiceStub(channel)
        model = stub.GetModel(messages.GetModelRequest()).model
        caption = messages.EmbedTextsRequest(texts=["a dog"], recompute=True)
        before = stub.EmbedTexts(caption).vectors
        hammer(channel, method, known(method, model.image_size), examples, anew=examples > 60)
        assert stub.EmbedTexts(caption).vectors == before
    assert service.process.poll() is None
    assert "unexpected error" not in service.log.read_text("utf-8")
