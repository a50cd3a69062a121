"""The drill of docs/operations.md, typed as it stands there but for its folder and its ports."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

from tests.processes import RunningService

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "client/eyebright_cli/demo_gallery/noto.tar"
PICTURES = ("pizza", "cat", "dog", "rainbow", "rocket", "snowman", "hamburger", "tangerine", "avocado", "owl")


def drill() -> str:
    """The lines."""
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    (lines,) = re.findall(r"<!-- drill: run by [^>]+ -->\n```bash\n(.*?)```", text, re.DOTALL)
    return str(lines)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def commands(folder: Path) -> Path:
    """A folder with ``eyebright`` and ``python``, as an environment that is switched on has them."""
    folder.mkdir()
    for name, arguments in (("eyebright", "-m eyebright_cli"), ("python", "")):
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return folder


def run(lines: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """The exit status, and what was printed. Whatever the lines have left running is ended."""
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", lines],
            cwd=folder,
            env=environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            code = process.wait(100)
        finally:
            with suppress(ProcessLookupError):  # nothing is left
                os.killpg(process.pid, signal.SIGKILL)
        said.seek(0)
        return code, said.read()


def test_the_drill_gets_everything_back(embedder: RunningService, tmp_path: Path) -> None:
    pictures, place = tmp_path / "pictures", tmp_path / "srv"
    pictures.mkdir()
    with tarfile.open(GALLERY) as tar:
        for key in PICTURES:
            (pictures / f"{key}.png").write_bytes(tar.extractfile(f"{key}.png").read())  # type: ignore[union-attr]
    port = free_port()
    lines = drill()
    for said, here in (
        ("localhost:7001", embedder.address),
        ("localhost:7002", f"127.0.0.1:{port}"),
        ("/srv/eyebright", str(place)),
    ):
        assert said in lines
        lines = lines.replace(said, here)
    environment = os.environ | {
        "PATH": f"{commands(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}",
        "EYEBRIGHT_INDEX_PORT": str(port),
        "EYEBRIGHT_INDEX_METRICS_PORT": "0",
    }
    code, said = run(lines, tmp_path, environment)
    assert code == 0, f"{said}\n{(tmp_path / 'index.log').read_text('utf-8')[-4000:]}"
    assert f"the same answers: {len(PICTURES)} hits" in said.splitlines()
    assert (tmp_path / "before.txt").read_text("utf-8").count('"id": "pizza') == 1
