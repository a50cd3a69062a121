"""docs/security.md is true: its commands run as they stand, one block after another, on ports that are free."""

import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from service_runtime.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text("utf-8")
GALLERY = ROOT / "client/eyebright_cli/demo_gallery/noto.tar"
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]


class Reader:
    """Someone who types what the page says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self._ports = free_ports(2)
        embedder, index = self._ports
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = os.environ | {
            "PATH": path,
            "EYEBRIGHT_EMBEDDER": f"localhost:{embedder}",
            "EYEBRIGHT_EMBEDDER_PORT": f"{embedder}",
            "EYEBRIGHT_EMBEDDER_METRICS_PORT": "0",
            "EYEBRIGHT_EMBEDDER_WARM_UP_SECONDS": "0",
            "EYEBRIGHT_INDEX": f"localhost:{index}",
            "EYEBRIGHT_INDEX_PORT": f"{index}",
            "EYEBRIGHT_INDEX_METRICS_PORT": "0",
        }

    def types(self, block: str) -> str:
        """What the commands of a block print; those that go to the background go on."""
        log = self._folder / "log"
        with log.open("wb") as output:
            shell = subprocess.Popen(
                ["bash", "-euc", block],
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._started.append(shell)
        assert shell.wait(60) == 0, log.read_text("utf-8")
        return log.read_text("utf-8")

    def waits(self, *services: str) -> None:
        """Until these services listen."""
        for service in services:
            port = self._ports[("embedder", "index").index(service)]
            deadline = time.monotonic() + 60
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert time.monotonic() < deadline, (self._folder / "log").read_text("utf-8")
                time.sleep(0.05)

    def stops_all(self) -> None:
        """What went to the background, too: each shell is a session of its own."""
        for shell in self._started:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        self._started.clear()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with tarfile.open(GALLERY) as tar:
        for key in ("pizza", "cat", "dog"):
            (pictures / f"{key}.png").write_bytes(tar.extractfile(f"{key}.png").read())  # type: ignore[union-attr]
    someone = Reader(tmp_path)
    yield someone
    someone.stops_all()


def test_its_commands(reader: Reader) -> None:
    certificates, tokens, services, calls, client_certificates, with_certificate = BLOCKS
    reader.types(certificates)
    reader.types(tokens)
    reader.types(services)
    reader.waits("embedder", "index")
    assert "pizza" in reader.types(calls)
    reader.stops_all()
    reader.types(client_certificates)
    reader.waits("index")
    assert "images" in reader.types(with_certificate)


def test_its_limits_are_the_settings() -> None:
    named = set(re.findall(r"^\| `--([a-z-]+)` \|", PAGE, re.MULTILINE))
    assert len(named) > 5
    assert {name.replace("-", "_") for name in named} <= set(ServiceSettings.model_fields)


def test_every_file_it_points_to_exists() -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", PAGE)]
    targets += re.findall(r"`((?:tests|deploy|docs)/[^`*]+)`", PAGE)
    assert targets
    assert not [target for target in targets if not (ROOT / "docs" / target).exists() and not (ROOT / target).exists()]
