"""``eyebright serve``: both services as one command."""

import os
import signal
import socket
from pathlib import Path

import pytest
from eyebright_cli.demo.gallery import gallery_tar, read_gallery

from tests.e2e.commands import RunningCommand, eyebright, eyebright_here, running, service_processes

FREE_PORTS = ("--embedder-port", "0", "--index-port", "0", "--embedder-metrics-port", "0", "--index-metrics-port", "0")


def addresses(command: RunningCommand) -> dict[str, str]:
    """Environment for commands that talk to what it serves."""
    command.wait_for_line("^ready")
    return {
        f"EYEBRIGHT_{name.upper()}": command.wait_for_line(rf"^{name} +(127\.0\.0\.1:\d+) ")[1]
        for name in ("embedder", "index")
    }


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    with gallery_tar() as tar:
        png = read_gallery(tar)["red-heart"].png
    path = tmp_path / "red-heart.png"
    path.write_bytes(png)
    return path


@pytest.mark.timeout(300)
def test_serve_holds_its_data_keeps_it_over_a_restart_and_stops_cleanly(tmp_path: Path, picture: Path) -> None:
    data = tmp_path / "kept"
    with running("serve", "--data", str(data), *FREE_PORTS, folder=tmp_path) as command:
        services = addresses(command)
        assert eyebright_here("index", str(picture), environment=services).code == 0

        second = eyebright("serve", "--data", str(data), *FREE_PORTS, folder=tmp_path)
        assert second.code == 1
        assert "the index service ended by itself" in second.err
        assert eyebright_here("stats", environment=services).code == 0

        answer = command.signal(signal.SIGINT)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[-1] == "stopped"
    assert "Traceback" not in answer.err
    assert service_processes(tmp_path) == {}
    assert {path.name for path in (data / "logs").iterdir()} == {"embedder.log", "index.log"}

    with running("serve", "--data", str(data), *FREE_PORTS, folder=tmp_path) as command:
        services = addresses(command)
        assert eyebright_here("stats", "--json", environment=services).json["record_count"] == 1
        found = eyebright_here("search", "a red heart", "--json", environment=services).json
        assert [hit["id"] for hit in found["hits"]] == ["red-heart.png"]
        (process,) = [number for number, line in service_processes(tmp_path).items() if "index_service" in line]
        os.kill(process, signal.SIGKILL)
        code = command.process.wait(60)
    assert code == 1
    assert "the index service ended by itself (signal 9)" in command.err
    assert service_processes(tmp_path) == {}


def test_a_service_that_does_not_start_ends_the_other_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    answer = eyebright("serve", "--data", "kept", "--model", str(tmp_path / "model"), *FREE_PORTS, folder=tmp_path)
    assert answer.code == 1
    assert "the embedder service ended by itself" in answer.err
    assert str(tmp_path / "model") in answer.err
    assert service_processes(tmp_path) == {}


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = eyebright("serve", "--index-port", port, "--embedder-port", "0", folder=tmp_path)
    assert answer.code == 1
    assert f"port {port} is in use" in answer.err
    assert answer.err.count("\n") == 1
