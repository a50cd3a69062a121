"""The wheel: what is in it, and that each way of installing it works alone."""

import subprocess
import zipfile
from pathlib import Path

import pytest
from eyebright_client import Client

from tests.e2e.conftest import Environment
from tests.e2e.environments import installed_bytes
from tests.processes import RunningService, running_service


def _run(python: Path, *arguments: str, folder: Path | None = None) -> str:
    finished = subprocess.run([str(python), *arguments], capture_output=True, text=True, check=False, cwd=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_wheel_holds_stubs_checkpoint_gallery_and_licences_and_no_source_of_training(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        "eyebright/index/v1/search_pb2.py",
        "eyebright/index/v1/search_pb2.pyi",
        "eyebright/embedder/v1/embedder_service_pb2_grpc.py",
        "embedder_service/demo_checkpoint/model.safetensors",
        "embedder_service/demo_checkpoint/README.md",
        "embedder_service/demo_checkpoint/NOTICE",
        "eyebright_cli/demo_gallery/noto.tar",
        "eyebright_cli/demo_gallery/NOTICE",
        "eyebright_client/retry_policy.json",
    ):
        assert wanted in names, f"{wanted} is missing from {sorted(names)}"
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {
        "eyebright",
        "eyebright_client",
        "eyebright_cli",
        "embedder_service",
        "index_service",
        "service_runtime",
    }
    assert not [name for name in names if "/training/" in name or "test" in name.lower()]
    checkpoint = [info for info in zipfile.ZipFile(wheel).infolist() if "/demo_checkpoint/" in info.filename]
    gallery = [info for info in zipfile.ZipFile(wheel).infolist() if "/demo_gallery/" in info.filename]
    assert sum(info.file_size for info in checkpoint) <= 12_000_000
    assert sum(info.file_size for info in gallery) <= 12_000_000


def test_base_install_is_a_small_working_sdk(environment: Environment, index: RunningService, tmp_path: Path) -> None:
    python = environment()
    megabytes = installed_bytes(python) / 1e6
    assert megabytes < 130, f"{megabytes:.0f} MB installed"
    script = f"""
import sys
import numpy as np
from eyebright_client import Client
with Client(embedder=None, index={index.address!r}, collection="from-wheel") as client:
    client.create_collection(dimension=3, fingerprint="a" * 64)
    client.upsert(["x", "y"], np.eye(3, dtype=np.float32)[:2])
    print([hit.id for hit in client.search(vector=np.array([0.1, 0.9, 0], np.float32), modality="image", k=2)])
    client.delete_collection()
print(sorted({{"torch", "faiss", "pydantic", "PIL", "transformers", "typer"}} & set(sys.modules)))
for name in ("torch", "faiss", "pydantic", "PIL", "opentelemetry"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{{name}} can be imported: this environment proves nothing")
try:
    Client(tracer_provider=object())
except ModuleNotFoundError as error:
    print(error)
"""
    assert _run(python, "-c", script, folder=tmp_path).splitlines() == [
        "['y', 'x']",
        "[]",
        'tracer_provider needs opentelemetry: pip install "eyebright[otel]"',
    ]
    for command, extra in (("eyebright_cli", "cli"), ("index_service", "index"), ("embedder_service", "embedder")):
        refused = subprocess.run([python, "-m", command], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert refused.returncode != 0
        (line,) = refused.stderr.splitlines()
        assert line.endswith(f'pip install "eyebright[{extra}]"')


def test_the_command_runs_from_its_extra_alone(environment: Environment, index: RunningService, tmp_path: Path) -> None:
    python = environment("cli")
    missing = subprocess.run([python, "-c", "import PIL"], capture_output=True, check=False, cwd=tmp_path)
    assert missing.returncode != 0, "PIL can be imported: this environment proves nothing"
    with Client(None, index.address, collection="from-cli") as client:
        client.create_collection(dimension=3, fingerprint="a" * 64)
        stated = _run(
            python, "-m", "eyebright_cli", "stats", "-c", "from-cli", "--index", index.address, folder=tmp_path
        )
        client.delete_collection()
    assert "from-cli" in stated


@pytest.mark.parametrize(
    ("extra", "module", "foreign"),
    [("index", "index_service", "torch"), ("embedder", "embedder_service", "faiss")],
)
def test_each_service_runs_from_its_extra_alone(
    environment: Environment, extra: str, module: str, foreign: str, tmp_path: Path
) -> None:
    python = environment(extra)
    for name in (foreign, "opentelemetry"):
        missing = subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False, cwd=tmp_path)
        assert missing.returncode != 0, f"{name} can be imported: this environment proves nothing"
    arguments = ("--data-folder", str(tmp_path / "data")) if extra == "index" else ()
    with running_service(module, tmp_path / "run", *arguments, python=python) as service:
        call = "client.list_collections()" if extra == "index" else "client.model().dimension"
        script = (
            "from eyebright_client import Client\n"
            f"with Client(embedder={service.address!r}, index={service.address!r}) as client:\n    print({call})\n"
        )
        assert _run(python, "-c", script, folder=tmp_path).strip() in {"[]", "()", "192"}
        assert service.terminate() == 0
    traced = [python, "-m", module, *arguments, "--tracing-endpoint", "http://localhost:4317"]
    refused = subprocess.run(traced, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert 'tracing_endpoint needs opentelemetry: pip install "eyebright[otel]"' in line
