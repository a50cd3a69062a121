import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from eyebright_cli.errors import MissingExtraError, PortInUseError
from eyebright_cli.local_services import LocalPorts, LocalServices


@pytest.mark.parametrize(("library", "service"), [("torch", "embedder"), ("faiss", "index")])
def test_a_missing_extra_names_the_pip_line(
    library: str, service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # what the import system keeps of a library that can't be had
    with pytest.raises(MissingExtraError) as caught, LocalServices(tmp_path):
        pass
    assert str(caught.value).startswith(f"the {service} service needs {library}, which this installation lacks")
    assert 'pip install "eyebright[all]"' in str(caught.value)


@pytest.mark.parametrize("name", ["embedder", "embedder_metrics", "index", "index_metrics"])
def test_a_port_in_use_is_named_with_its_option(name: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = LocalPorts(**{name: port})
        with pytest.raises(PortInUseError) as caught, LocalServices(tmp_path, ports=ports):
            pass
    assert f"port {port} is in use" in str(caught.value)
    assert f"--{name.replace('_', '-')}-port" in str(caught.value)
    assert not (tmp_path / "logs").exists()


def test_the_command_imports_neither_torch_nor_faiss() -> None:
    script = (
        "import sys, eyebright_cli.app, eyebright_cli.demo.queries, eyebright_cli.demo.contact_sheet\n"
        "print(sorted({'torch', 'faiss', 'transformers', 'webdataset'} & set(sys.modules)))\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert answer.stdout == "[]\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_a_service_ends_when_the_command_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from eyebright_cli.local_services import LocalService\n"
        "folder = Path(sys.argv[1])\n"
        "service = LocalService('index', folder, 0, 0, ('--data-folder', str(folder / 'data')))\n"
        "service.start(folder)\n"
        "print(service._process.pid, flush=True)\n"
        "service._process.wait()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        ended = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    with os.fdopen(ended):
        ready, _, _ = select.select([ended], [], [], 60)
        if not ready:
            signal.pidfd_send_signal(ended, signal.SIGKILL)
    assert ready, "the service outlived the command"
