"""Checkpoints that the tests of this folder share: the bundled one, and random ones of both families."""

from pathlib import Path

import pytest

from embedder_service.backends.torch_backend import TorchBackend
from embedder_service.checkpoint import Checkpoint, load_checkpoint
from embedder_service.checkpoint_files import DEMO_FOLDER, read_folder
from tests.unit.embedder_service.checkpoints import Reference, write_checkpoint

MAX_TEXT_BYTES = 32 * 1024


@pytest.fixture(scope="session", params=["demo", "siglip", "siglip2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "demo":
        return DEMO_FOLDER
    return write_checkpoint(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(read_folder(folder, folder.name), MAX_TEXT_BYTES)


@pytest.fixture(scope="session")
def backend(checkpoint: Checkpoint) -> TorchBackend:
    return TorchBackend(checkpoint.towers, checkpoint.preprocessing, "cpu", threads=1)


@pytest.fixture(scope="session")
def reference(folder: Path) -> Reference:
    return Reference.of(folder)
