"""The contract is formatted, commented, and has not broken since the last release."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [
        ("lint",),
        ("format", "--exit-code", "--diff", "--path", "protos/eyebright"),
        ("breaking", "--against", "protos/released.binpb"),
    ],
    ids=lambda command: command[0],
)
def test_buf(command: tuple[str, ...], buf: str) -> None:
    finished = subprocess.run([buf, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_breaking_change_is_noticed(buf: str, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", ROOT / "protos", ROOT / "buf.yaml", tmp_path], check=True)
    search = tmp_path / "protos/eyebright/index/v1/search.proto"
    search.write_text(search.read_text("utf-8").replace("uint32 k = 5;", "uint64 k = 5;"), "utf-8")
    finished = subprocess.run(
        [buf, "breaking", "--against", "protos/released.binpb"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode != 0
    assert "SearchRequest" in finished.stdout
