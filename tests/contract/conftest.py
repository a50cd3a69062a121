"""Tools of the contract tests."""

import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def buf() -> str:
    """The buf command of this environment."""
    found = shutil.which("buf", path=str(Path(sys.executable).parent))
    assert found, "buf is not installed beside this Python: make setup"
    return found
