"""The process: how it starts, stops, restarts, and what it says when it can't."""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import grpc
import pytest
from eyebright.index.v1 import collection_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from index_service.catalog import Catalog
from index_service.metrics import IndexMetrics
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers
from tests.integration.index_service.calls import (
    DIMENSION,
    FINGERPRINT,
    connected,
    create,
    get,
    random_vectors,
    search,
    upsert,
    vectors_of,
)
from tests.processes import RunningService, running_service, start_service


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "index_service", "--port", "0", "--metrics-port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )


def test_it_holds_its_folder_alone_ends_with_status_0_and_finds_everything_after_a_restart(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    vectors = random_vectors(300)
    ids = [f"{number:03d}" for number in range(300)]
    service = start_service("index_service", tmp_path, "--data-folder", data)
    with connected(service.address) as stub:
        made = create(stub, "pets")
        upsert(stub, "pets", ids, vectors)
        before = search(stub, "pets", vectors[:5], k=50).results
        stored = vectors_of(get(stub, "pets", ids))
    second = run("--data-folder", data)
    assert second.returncode == 2
    refusal = f"index_service: the data folder {data} is in use by another process"
    assert second.stderr.splitlines()[-1] == refusal
    assert "Traceback" not in second.stderr
    assert service.terminate() == 0
    lines = [json.loads(line) for line in service.log.read_text("utf-8").splitlines()]
    assert any(line["message"] == "serving" for line in lines)
    with running_service("index_service", tmp_path, "--data-folder", data) as again, connected(again.address) as stub:
        assert stub.GetCollection(collection_pb2.GetCollectionRequest(name="pets")).collection == made
        assert list(search(stub, "pets", vectors[:5], k=50).results) == list(before)
        assert (vectors_of(get(stub, "pets", ids)) == stored).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--data-folder is required"),
        (("--data-folder", "/dev/null/x"), "the data folder /dev/null/x can't be used"),
    ],
)
def test_bad_settings_are_told_in_one_line_with_status_2(arguments: tuple[str, ...], message: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    [line] = ended.stderr.splitlines()
    assert re.search(message, line)


def test_a_port_in_use_is_named_with_status_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run("--data-folder", str(tmp_path), "--port", port)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"index_service: can't listen on 127.0.0.1:{port}")
    assert "Traceback" not in ended.stderr


def test_a_damaged_store_is_named_with_status_2(tmp_path: Path) -> None:
    data = tmp_path / "data"
    workers, metrics = Workers(1), IndexMetrics(CollectorRegistry())
    with closing(workers), closing(Catalog(data, workers, metrics)) as catalog:
        catalog.create("pets", VectorSpace(DIMENSION, FINGERPRINT, Metric.L2), 2)
    store = data / "collections" / "pets" / "shard-001" / "records.sqlite"
    store.write_bytes(os.urandom(5_000))
    ended = run("--data-folder", str(data))
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(
        f"index_service: collection 'pets' can't be opened: {store} is damaged"
    )
    assert "Traceback" not in ended.stderr


def test_health_and_metrics_tell_what_happened(index: RunningService) -> None:
    with connected(index.address) as stub:
        create(stub, "measured")
        upsert(stub, "measured", ["a", "b"], random_vectors(2))
        search(stub, "measured", random_vectors(3))
    with grpc.insecure_channel(index.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="eyebright.index.v1.IndexService")
        assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
    with urllib.request.urlopen(f"{index.metrics_url}/metrics") as response:
        text = response.read().decode()
    for sample in (
        'eyebright_index_stage_latency_seconds_count{stage="shard_search"}',
        'eyebright_index_stage_latency_seconds_count{stage="merge"}',
        'eyebright_index_stage_latency_seconds_count{stage="commit"}',
        'eyebright_index_stage_latency_seconds_count{stage="queue"}',
        'eyebright_index_stage_latency_seconds_count{stage="stall"} 0.0',
        'eyebright_index_queued{queue="small_search"} 0.0',
        'eyebright_index_queued{queue="commit"} 0.0',
        'eyebright_index_compaction_failures_total{work="merge"} 0.0',
        'eyebright_index_records{collection="',
        "eyebright_index_memtable_rows ",
        'eyebright_index_disk_bytes{kind="wal"} ',
        "eyebright_index_disk_free_bytes ",
        'eyebright_ready{service="eyebright.index.v1.IndexService"} 1.0',
        'eyebright_memory_resident_bytes{kind="anonymous"} ',
        "eyebright_memory_limit_bytes ",
        "process_open_fds ",
        "eyebright_index_collections ",
        "eyebright_index_rows_scanned_total ",
        "eyebright_index_write_batches_total ",
        "eyebright_index_read_only_shards 0.0",
        'eyebright_rpc_latency_seconds_count{code="OK",method="Search",service="eyebright.index.v1.IndexService"}',
    ):
        assert f"\n{sample}" in text
    [build] = [line for line in text.splitlines() if line.startswith("eyebright_build_info{")]
    assert f'engine="faiss",engine_version="{version("faiss-cpu")}"' in build
    assert re.search(r'simd="[A-Z0-9_]+"', build)
