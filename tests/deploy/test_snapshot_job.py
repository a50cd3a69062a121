"""The snapshot job as the manifests write it, against a real index service and a real S3 server.

Only paths, the address and the place in the store are put in; everything else is the rendered production overlay.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from eyebright_client import TLS, Client

from tests.deploy.manifests import environment, workloads
from tests.object_store import running_store
from tests.processes import running_service
from tests.security.authority import Authority

URL = "s3://bucket/eyebright"


def s3_config(folder: Path, store: dict[str, str]) -> Path:
    """The file of the secret eyebright-s3, as components/snapshots describes it."""
    path = folder / "config"
    path.write_text(
        f"[default]\naws_access_key_id = {store['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {store['AWS_SECRET_ACCESS_KEY']}\n"
        f"region = {store['AWS_DEFAULT_REGION']}\nendpoint_url = {store['AWS_ENDPOINT_URL']}\n"
    )
    return path


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_job_writes_a_snapshot_to_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    identity = authority.issue("eyebright-index.eyebright.svc")
    files = {"/etc/eyebright/ca/ca.crt": authority.certificate, "/etc/eyebright/tls/tls.crt": identity.certificate}
    files |= {"/etc/eyebright/tls/tls.key": identity.key, "/etc/eyebright/token/token": tmp_path / "token"}
    files["/etc/eyebright/tokens/tokens"] = tmp_path / "tokens"
    drawing = ("token", "new", "--name", "snapshots", "--scope", "admin", "--collection", "*", "--out")
    files["/etc/eyebright/tokens/tokens"].write_text(run_client(*drawing, str(tmp_path / "token")))
    token = (tmp_path / "token").read_text().strip()
    seaweed = tmp_path / "seaweed"
    seaweed.mkdir()
    with running_store(seaweed) as store:
        files["/etc/eyebright/s3/config"] = s3_config(tmp_path, store.environment)
        found = workloads("production")
        for name, value in environment("production", found["eyebright-index"].container()).items():
            monkeypatch.setenv(name, str(files.get(value, value)))
        monkeypatch.setenv("EYEBRIGHT_INDEX_SNAPSHOT_URLS", URL)
        arguments = ("--data-folder", str(tmp_path / "data"))
        with running_service("index_service", tmp_path / "run", *arguments) as service:
            address = service.address.replace("127.0.0.1", "localhost")
            with Client(
                None, address, collection="images", token=token, tls=TLS(root_certificates=authority.certificate)
            ) as client:
                client.create_collection(dimension=4, fingerprint="ab" * 32)
                client.upsert(["a", "b", "c"], np.eye(4, dtype=np.float32)[:3])
            job = found["eyebright-snapshot"].container()
            given = environment("production", job)
            given |= {"SNAPSHOT_URL": URL, "POD_NAME": "eyebright-snapshot-29401217-x7k2p", "EYEBRIGHT_INDEX": address}
            made = run_job(job["args"], given, files)
        assert made["record_count"] == 3
        assert made["url"] == f"{URL}/images/eyebright-snapshot-29401217-x7k2p"
        assert "bucket/eyebright/images/eyebright-snapshot-29401217-x7k2p/snapshot.json" in store.names("bucket")


def run_job(arguments: list[str], given: dict[str, str], files: dict[str, Path]) -> dict[str, object]:
    """Run the client as the job does; returns the object that it prints."""
    expanded = arguments
    for name, value in given.items():
        expanded = [part.replace(f"$({name})", value) for part in expanded]
    for path, real in files.items():
        expanded = [part.replace(path, str(real)) for part in expanded]
    variables = {name: str(files.get(value, value)) for name, value in given.items()}
    described = json.loads(run_client(*expanded, environment=variables))
    assert isinstance(described, dict)
    return described


def run_client(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """What ``eyebright`` prints, in this environment alone."""
    command = [sys.executable, "-m", "eyebright_cli", *arguments]
    given = (environment or {}) | {"PYTHONPATH": ":".join(sys.path)}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout
