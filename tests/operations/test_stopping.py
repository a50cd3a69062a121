"""SIGTERM under load: whoever was let in gets an answer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from eyebright.index.v1 import collection_pb2

from tests.integration.index_service.calls import connected, create, upsert
from tests.operations.stopping import Stopped, stop_under_load
from tests.processes import RunningService, running_service

DIMENSION = 64
ROWS = 4_000


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((ROWS, DIMENSION)).astype(np.float32)


@pytest.fixture
def index(tmp_path: Path, pictures: np.ndarray) -> Iterator[RunningService]:
    """A service of its own, with some records."""
    with running_service("index_service", tmp_path, "--data-folder", str(tmp_path / "data")) as service:
        with connected(service.address) as stub:
            create(stub, "pictures", DIMENSION)
            upsert(stub, "pictures", [str(row) for row in range(ROWS)], pictures)
            assert stub.GetStats(collection_pb2.GetStatsRequest(collection="pictures")).record_count == ROWS
        yield service


@pytest.fixture
def embedder(tmp_path: Path) -> Iterator[RunningService]:
    """A service of its own."""
    with running_service("embedder_service", tmp_path) as service:
        yield service


@pytest.mark.parametrize("what", ["index", "embedder"])
def test_no_call_fails_that_was_accepted_before_sigterm(
    what: str, request: pytest.FixtureRequest, pictures: np.ndarray
) -> None:
    stopped: Stopped = stop_under_load(request.getfixturevalue(what), what, pictures, 1.0)
    assert stopped.failed == {}
    assert stopped.accepted > 50
    assert stopped.later > 0
    assert stopped.later_codes <= {"", "UNAVAILABLE", "CANCELLED"}  # the SDK repeats what may be repeated
    print(f"{what}: {stopped}")  # noqa: T201
