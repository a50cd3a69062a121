"""Whatever bytes a method of the index service is sent, or one that every service has, its answer says whose fault it
is, and the service goes on.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from eyebright.index.v1 import index_service_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import encode_vectors
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import strategies as st

from tests.integration.index_service import calls
from tests.processes import RunningService, running_service
from tests.security.drawn_requests import Known, hammer

METHODS = [
    *index_service_pb2.DESCRIPTOR.services_by_name["IndexService"].methods,
    *reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].methods,
    health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"],
]
COSTLY = {"CreateCollection": 5, "Optimize": 5, "CreateSnapshot": 5, "RestoreSnapshot": 5}
"""By how much fewer calls are made of methods that take long."""

DRAWN, KEPT = "drawn", "kept"
CALLS = [
    pytest.param(60, id="same"),
    pytest.param(600, id="anew", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
]


@dataclass(frozen=True, slots=True)
class Target:
    """An index service, and what its requests may name."""

    service: RunningService
    snapshots: Path

    @property
    def known(self) -> Known:
        vectors = calls.random_vectors(2)
        batches = [vectors, vectors[:1], vectors[:1], vectors * np.nan, vectors[:, :7]]
        places = (f"{self.snapshots}/one", f"file://{self.snapshots}/two", "/etc", "s3://bucket/one")
        return {
            "collection": st.just(DRAWN),
            "name": st.sampled_from([DRAWN, DRAWN, "drawn-2", "No Name"]),
            "fingerprint": st.just(calls.FINGERPRINT),
            "dimension": st.just(calls.DIMENSION),
            "shard_count": st.sampled_from([0, 1, 257]),
            "metric": st.sampled_from([0, 1, 2, 3]),
            "vectors": st.sampled_from([encode_vectors(batch, calls.FINGERPRINT) for batch in batches]),
            "id": st.sampled_from(["a", "b", "", "x" * 513]),
            "ids": st.sampled_from(["a", "b", "nobody", "", "x" * 513]),
            "k": st.sampled_from([1, 5, 1_000, 100_000]),
            "modality": st.sampled_from([1, 2, 3]),
            "metadata_json": st.sampled_from([b'{"a": [1, {"b": null}]}', b'{"a": "\\ud800"}', b"[" * 60_000, b"{"]),
            "keys": st.sampled_from(["a", "b", ""]),
            "page_token": st.sampled_from(["", "x", "AAAAAAAAAAD_"]),
            "url": st.sampled_from(places),
            "service": st.sampled_from(["", "x"]),
            "file_by_filename": st.sampled_from(["grpc/health/v1/health.proto", "x"]),
            "file_containing_symbol": st.sampled_from(["eyebright.index.v1.IndexService", "x"]),
        }


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("drawn")
    arguments = ("--data-folder", str(folder / "data"), "--snapshot-urls", str(folder / "snapshots"))
    with running_service("index_service", folder, *arguments, "--log-level", "warning") as service:
        with calls.connected(service.address) as stub:
            calls.create(stub, KEPT, shard_count=1)
            assert calls.upsert(stub, KEPT, ["kept"], calls.random_vectors(1)) == [0]
        yield Target(service, folder / "snapshots")


@pytest.mark.parametrize("examples", CALLS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_call_ends_clean(
    target: Target, method: MethodDescriptor, examples: int, request: pytest.FixtureRequest
) -> None:
    anew = examples > 60
    with grpc.insecure_channel(target.service.address) as channel:
        stub = IndexServiceStub(channel)  # type: ignore[no-untyped-call]
        renew(stub)
        hammer(channel, method, target.known, examples // COSTLY.get(method.name, 1), anew=anew)
        assert list(calls.search(stub, KEPT, calls.random_vectors(1)).results[0].ids) == ["kept"]
    assert target.service.process.poll() is None
    assert "unexpected error" not in target.service.log.read_text("utf-8")


def renew(stub: IndexServiceStub) -> None:
    """The collection that is drawn at, with two records."""
    with suppress(grpc.RpcError):  # there is one
        calls.create(stub, DRAWN, shard_count=1)
    request = calls.upsert_request(DRAWN, ["a", "b"], calls.random_vectors(2))
    for record in request.records:
        record.metadata_json = b'{"a": [1, "x", null, {"b": true}]}'
    assert not any(status.code for status in stub.Upsert(request).statuses)
