"""The embedder as a process: probes, metrics, reflection, signals, and what it refuses to start with."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from eyebright.vectors.numpy_codec import decode_vectors
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.embedder_service.conftest import metric, texts_of
from tests.processes import RunningService, running_service
from tests.unit.embedder_service.checkpoints import write_checkpoint
from tests.unit.embedder_service.pictures import encoded, photo


def test_health_knows_the_service_by_name(embedder: RunningService) -> None:
    with grpc.insecure_channel(embedder.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service="eyebright.embedder.v1.EmbedderService"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_service(embedder: RunningService) -> None:
    with grpc.insecure_channel(embedder.address) as channel:
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection.ServerReflectionInfo(iter([request]))
    names = {service.name for service in answer.list_services_response.service}
    assert {"eyebright.embedder.v1.EmbedderService", "grpc.health.v1.Health"} <= names


def test_probes_answer(embedder: RunningService) -> None:
    for path in ("/livez", "/readyz"):
        with urlopen(embedder.metrics_url + path, timeout=10) as answer:
            assert answer.status == 200
    with pytest.raises(HTTPError, match="404"):
        urlopen(embedder.metrics_url + "/nothing", timeout=10)


def test_metrics_are_prometheus_and_complete(embedder: RunningService, stub: EmbedderServiceStub) -> None:
    texts_of(stub, "a dog")
    stub.EmbedTexts(messages.EmbedTextsRequest(texts=[""]))
    stub.EmbedImages(messages.EmbedImagesRequest(images=[encoded(photo(64, 64)), b"nothing"]))
    with urlopen(f"{embedder.metrics_url}/metrics", timeout=10) as answer:
        told = list(text_string_to_metric_families(answer.read().decode()))
    families = {family.name: family for family in told}
    assert len(families) == len(told), "each metric stands there once"
    for stage in ("decode", "tokenise", "queue", "forward"):
        family = families[f"eyebright_embedder_{stage}_seconds"]
        assert family.type == "histogram"
        assert any(sample.name.endswith("_count") and sample.value > 0 for sample in family.samples)
    by_tower = {
        "items", "batch_size", "batch_limit", "queue_items", "queue_cost_seconds", "queue_seconds", "forward_seconds",
        "admitted_items", "admitted_bytes", "device_busy_seconds", "rejected_items",
    }  # fmt: skip
    for name in by_tower:
        towers = {sample.labels["tower"] for sample in families[f"eyebright_embedder_{name}"].samples}
        assert towers == {"text", "image"}, name
    assert {sample.labels["batch"] for sample in families["eyebright_embedder_forward_seconds"].samples} <= {
        str(2**n) for n in range(13)
    }
    for tower in ("text", "image"):
        assert metric(embedder, "eyebright_embedder_rejected_items_total", tower=tower, reason="invalid") >= 1
        assert metric(embedder, "eyebright_embedder_batch_limit", tower=tower) >= 1
        assert metric(embedder, "eyebright_embedder_device_busy_seconds_total", tower=tower) > 0
    assert 0 < metric(embedder, "eyebright_embedder_device_busy_ratio") <= 1
    assert metric(embedder, "eyebright_embedder_text_cache_bytes") > 0
    assert metric(embedder, "eyebright_embedder_text_cache_lookups_total", result="miss") >= 1
    [build] = families["eyebright_build_info"].samples
    assert (build.labels["engine"], build.labels["engine_version"]) == ("torch", version("torch"))
    assert build.labels["simd"]
    (info,) = families["eyebright_embedder_model_info"].samples
    model = stub.GetModel(messages.GetModelRequest()).model
    assert (info.labels["model_name"], info.labels["fingerprint"]) == ("demo", model.fingerprint)
    latency = families["eyebright_rpc_latency_seconds"].samples
    assert any(sample.labels.get("method") == "EmbedTexts" and sample.labels.get("code") == "OK" for sample in latency)
    assert "process_resident_memory_bytes" in families


def test_sigterm_lets_a_call_in_flight_finish_and_exits_0(tmp_path: Path) -> None:
    with running_service("embedder_service", tmp_path) as service:
        images = [encoded(photo(64, 64, seed)) for seed in range(160)]
        with grpc.insecure_channel(service.address) as channel, ThreadPoolExecutor(1) as pool:
            stub = EmbedderServiceStub(channel)
            stub.GetModel(messages.GetModelRequest())
            call = pool.submit(stub.EmbedImages, messages.EmbedImagesRequest(images=images))
            while not metric(service, "eyebright_embedder_items_total", tower="image"):
                assert not call.done(), call.result()
            assert not call.done()
            assert service.terminate() == 0
            answer = call.result()
        assert {status.code for status in answer.statuses} == {0}
        assert decode_vectors(answer.vectors).any(axis=1).all()
    lines = [json.loads(line) for line in service.log.read_text("utf-8").splitlines()]
    assert [line["message"] for line in lines if line["logger"] != "eyebright.rpc"] == [
        "model loaded",
        "serving",
        "stopping",
    ]


def run_to_its_end(*arguments: str, **environment: str) -> tuple[int, str]:
    """(exit status, standard error) of an embedder that should refuse to start."""
    command = [sys.executable, "-m", "embedder_service", "--port", "0", "--metrics-port", "0", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environment)
    return ended.returncode, ended.stderr


def test_a_public_bind_without_tls_and_known_callers_is_refused() -> None:
    status, message = run_to_its_end("--host", "0.0.0.0")
    assert status == 2
    assert "host 0.0.0.0 is reachable from other machines: give tls_certificate, tls_key and one of" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("/no/such/folder", "neither 'demo', nor a folder, nor an OWNER/NAME of the Hugging Face hub"),
        (str(Path(__file__).parent), "config.json is missing"),
        (
            "some/model",
            "hf download some/model --revision abc --local-dir FOLDER; then give the folder: --model FOLDER",
        ),
    ],
    ids=["nothing", "a folder of other things", "a hub id offline"],
)
def test_a_model_that_cannot_be_served_is_told_on_one_line(tmp_path: Path, model: str, expected: str) -> None:
    status, message = run_to_its_end("--model", model, "--revision", "abc", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert status == 2
    assert expected in message
    assert message.count("\n") == 1


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_round(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"  # the discard port: nothing listens
    status, message = run_to_its_end("--model", "some/model", HF_ENDPOINT=nobody, HF_HOME=str(tmp_path))
    assert status == 2
    assert "hf download some/model --local-dir FOLDER; then give the folder: --model FOLDER" in message
    assert message.count("\n") == 1


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(("arguments", "warned"), [((), True), (("--revision", COMMIT), False)], ids=["main", "pinned"])
def test_a_hub_id_is_served_offline_from_the_cache_by_its_commit(
    tmp_path: Path, arguments: tuple[str, ...], warned: bool
) -> None:
    cached = tmp_path / "home/hub/models--some--model"
    snapshot = cached / "snapshots" / COMMIT
    write_checkpoint(snapshot, "siglip2")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(COMMIT)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    with (
        running_service(
            "embedder_service", tmp_path, "--model", "some/model", *arguments, environment=offline
        ) as service,
        grpc.insecure_channel(service.address) as channel,
    ):
        model = EmbedderServiceStub(channel).GetModel(messages.GetModelRequest()).model
    assert (model.name, model.revision) == ("some/model", COMMIT)
    lines = [json.loads(line) for line in service.log.read_text("utf-8").splitlines()]
    (loaded,) = [line for line in lines if line["message"] == "model loaded"]
    assert loaded["revision"] == COMMIT
    pins = [line["pin"] for line in lines if line["level"] == "warning"]
    assert pins == ([f"--revision {COMMIT}"] if warned else [])


def test_help_explains_every_option() -> None:
    command = [sys.executable, "-m", "embedder_service", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for option in ("--model", "--batch-limit", "--max-image-pixels", "--token-file"):
        assert option in text
    assert "EYEBRIGHT_EMBEDDER_" in text
