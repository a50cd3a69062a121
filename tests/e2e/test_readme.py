"""The README is true: its SDK example runs as it stands, but for the addresses."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.processes import RunningService

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "client/eyebright_cli/demo_gallery/noto.tar"


def test_sdk_example(embedder: RunningService, index: RunningService, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert "localhost:7001" in example
    assert "localhost:7002" in example
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with tarfile.open(GALLERY) as tar:
        for key in ("pizza", "cat", "dog", "rainbow", "rocket", "snowman"):
            (pictures / f"{key}.png").write_bytes(tar.extractfile(f"{key}.png").read())  # type: ignore[union-attr]
    code = example.replace("localhost:7001", embedder.address).replace("localhost:7002", index.address)
    finished = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("pizza ")
    assert lines[3].startswith("cat 1.0") or lines[3].startswith("cat 0.99")


def test_every_file_it_points_to_exists() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    assert targets
    assert not [target for target in targets if not (ROOT / target.partition("#")[0]).exists()]


def test_its_make_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    text = (ROOT / "README.md").read_text("utf-8")
    commands = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test"} <= commands
    assert all(re.search(rf"^{command}:", makefile, re.MULTILINE) for command in commands)
