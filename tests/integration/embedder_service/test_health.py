"""Readiness by the canary, liveness by the device thread, and the end of a process that can't go on."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from prometheus_client import CollectorRegistry

from embedder_service import service as service_module
from embedder_service.checkpoint_files import CheckpointError, find_checkpoint
from embedder_service.command import main
from embedder_service.service import EmbedderService
from embedder_service.settings import EmbedderSettings
from service_runtime.server import Server
from tests.integration.embedder_service.conftest import metric
from tests.integration.embedder_service.ill_host import IllBackend
from tests.processes import RunningService, running_service
from tests.unit.embedder_service.checkpoints import write_checkpoint
from tests.unit.embedder_service.pictures import encoded

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Patient:
    """A server whose device can be made ill."""

    def __init__(self, server: Server, health: health_pb2_grpc.HealthStub, registry: CollectorRegistry) -> None:
        self._server = server
        self._health = health
        self._registry = registry

    def probe(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{self._server.ports.metrics}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def probe_until(self, path: str, status: int) -> str:
        while (answer := await asyncio.to_thread(self.probe, path))[0] != status:
            await asyncio.sleep(0.01)
        return answer[1]

    async def status(self) -> int:
        request = health_pb2.HealthCheckRequest(service="eyebright.embedder.v1.EmbedderService")
        return int((await self._health.Check(request)).status)

    def cosine(self, tower: str) -> float | None:
        return self._registry.get_sample_value("eyebright_embedder_canary_cosine", {"tower": tower})


@asynccontextmanager
async def patient(model: str = "demo", **options: float | str) -> AsyncIterator[Patient]:
    settings = EmbedderSettings(
        port=0,
        metrics_port=0,
        model=model,
        torch_threads=1,
        drain_seconds=1,
        canary_seconds=0.05,
        **options,  # type: ignore[arg-type]
    )
    registry = CollectorRegistry()
    async with (
        Server(EmbedderService(find_checkpoint(model), settings, registry), settings, registry) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel,
    ):
        try:
            yield Patient(server, health_pb2_grpc.HealthStub(channel), registry)
        finally:
            IllBackend.healthy.set()  # or it would never stop


@pytest.fixture(autouse=True)
def ill_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "TorchBackend", IllBackend)
    monkeypatch.setattr(IllBackend, "drift", 0.0)


def test_the_canary_has_sung_before_the_service_is_ready(embedder: RunningService) -> None:
    for tower in ("text", "image"):
        assert metric(embedder, "eyebright_embedder_canary_cosine", tower=tower) == pytest.approx(1, abs=1e-6)


async def test_vectors_that_drift_take_readiness_away_until_they_are_right_again() -> None:
    async with patient() as service:
        assert await service.status() == SERVING
        IllBackend.drift = 0.02
        said = await service.probe_until("/readyz", 503)
        assert "the canary of the text tower has cosine 0.9" in said
        assert "; the canary of the image tower has cosine 0.9" in said
        assert "expected at least 0.9999" in said
        assert await service.status() == NOT_SERVING
        assert service.probe("/livez")[0] == 200
        IllBackend.drift = 0.0
        await service.probe_until("/readyz", 200)
        assert await service.status() == SERVING


async def test_a_device_that_hangs_is_first_not_ready_then_not_alive() -> None:
    async with patient(stall_seconds=1.0) as service:
        IllBackend.healthy.clear()
        assert "overdue by" in await service.probe_until("/readyz", 503)
        assert await service.status() == NOT_SERVING
        assert 0.0 in (service.cosine("text"), service.cosine("image"))
        said = await service.probe_until("/livez", 503)
        assert said.startswith("not alive: the device is overdue by ")
        IllBackend.healthy.set()
        await service.probe_until("/livez", 200)
        await service.probe_until("/readyz", 200)


@pytest.mark.parametrize("tower", ["text", "image"])
async def test_one_tower_alone_has_a_canary_of_its_own(tmp_path: Path, tower: str) -> None:
    async with patient(str(write_checkpoint(tmp_path, "siglip2")), towers=tower) as service:
        other = {"text": "image", "image": "text"}[tower]
        assert service.cosine(tower) == pytest.approx(1, abs=1e-6)
        assert service.cosine(other) is None


async def test_golden_vectors_beside_the_weights_are_what_counts(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "siglip")
    path = folder / "golden.json"
    assert main(["golden", "--model", str(folder)]) == 0
    async with patient(str(folder)) as service:
        assert service.cosine("text") == pytest.approx(1, abs=1e-6)
    golden = json.loads(path.read_text("utf-8"))
    whole = path.read_text("utf-8")
    vector = np.frombuffer(base64.b64decode(golden["pictures"][0]["vector"]), "<f4")
    golden["pictures"][0]["vector"] = base64.b64encode((-vector).tobytes()).decode()
    path.write_text(json.dumps(golden), "utf-8")
    with pytest.raises(CheckpointError, match=r"the canary of the image tower has cosine -1\.00000, expected"):
        async with patient(str(folder)):
            pytest.fail("served")
    path.write_text(whole.replace(golden["fingerprint"], "0" * 64), "utf-8")
    with pytest.raises(CheckpointError, match=r"golden\.json is of fingerprint 0000.*the checkpoint has [0-9a-f]{64}"):
        async with patient(str(folder)):
            pytest.fail("served")


def test_a_dead_device_thread_ends_the_process_with_1(tmp_path: Path) -> None:
    with running_service("tests.integration.embedder_service.ill_host", tmp_path) as service:
        with grpc.insecure_channel(service.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == SERVING
            black = encoded(Image.new("RGB", (64, 64)))
            with pytest.raises(grpc.RpcError, match="the device thread has died") as caught:
                EmbedderServiceStub(channel).EmbedImages(messages.EmbedImagesRequest(images=[black]), timeout=30)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert next(watch).status == NOT_SERVING
        assert service.process.wait(30) == 1
    lines = [json.loads(line) for line in service.log.read_text("utf-8").splitlines()]
    (fault,) = [line for line in lines if "traceback" in line]
    assert (fault["level"], fault["message"]) == ("critical", "the service can't go on")
    assert "killed by a black picture" in fault["traceback"]
