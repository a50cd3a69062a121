"""Fixtures that every test may use: real services, shared by the session."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# A process that a test starts begins as a fork of this one, in which gRPC would run its threads again until it becomes
# the other program: now and then they crash it before it has (grpc issue 43055). Read when grpc is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from tests.processes import RunningService, running_service


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A real embedder service with the demo checkpoint; its canary sings at the start alone, or it would be counted."""
    with running_service(
        "embedder_service", tmp_path_factory.mktemp("embedder"), "--canary-seconds", "3600"
    ) as service:
        yield service


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A real index service with an empty data folder; it may keep snapshots in ``snapshots`` beside its log."""
    folder: Path = tmp_path_factory.mktemp("index")
    arguments = ("--data-folder", str(folder / "data"), "--snapshot-urls", str(folder / "snapshots"))
    with running_service("index_service", folder, *arguments) as service:
        yield service


def pytest_sessionfinish() -> None:
    """torch and faiss bring two OpenMP runtimes; a process that holds both crashes on some systems."""
    both = {"torch", "faiss"} & set(sys.modules)
    if len(both) == 2:
        raise pytest.UsageError("torch and faiss were imported into one test process; run one side as a subprocess")
