"""``eyebright snapshot``, against a real index service."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from eyebright_client import Client

from tests.e2e.commands import Answer, eyebright_here, running
from tests.processes import RunningService


@pytest.fixture(scope="module")
def client(index: RunningService) -> Iterator[Client]:
    with Client(None, index.address) as made:
        yield made


@pytest.fixture
def place(index: RunningService, tmp_path: Path) -> Path:
    return index.log.parent / "snapshots" / tmp_path.name


@pytest.fixture
def collection(client: Client, tmp_path: Path) -> str:
    """Name of a collection with 300 records."""
    name = tmp_path.name.lower().replace("_", "-")[:60]
    client.create_collection(name, dimension=4, fingerprint="ab" * 32)
    client.upsert([f"{number}" for number in range(300)], np.random.default_rng(1).random((300, 4)), collection=name)
    return name


def snapshot(index: RunningService, *arguments: str) -> Answer:
    return eyebright_here("snapshot", *arguments, environment={"EYEBRIGHT_INDEX": index.address})


def test_create_and_restore(index: RunningService, client: Client, collection: str, place: Path) -> None:
    made = snapshot(index, "create", collection, str(place))
    assert made.code == 0, made.err
    assert f"{collection}: 300 pictures, " in made.out
    assert f"are in {place}" in made.out
    restored = snapshot(index, "restore", str(place), "--as", f"{collection}-2")
    assert restored.code == 0, restored.err
    assert restored.out == f"{collection}-2: 300 pictures can be found\n"
    assert client.count(collection=f"{collection}-2") == 300
    described = snapshot(index, "create", collection, f"{place}-2", "--json").json
    assert (described["collection"], described["record_count"], described["url"]) == (collection, 300, f"{place}-2")
    client.delete_collection(collection)
    described = snapshot(index, "restore", f"{place}-2", "--json").json
    assert (described["name"], described["record_count"]) == (collection, 300)


def test_refusals_are_one_line(index: RunningService, collection: str, place: Path) -> None:
    snapshot(index, "create", collection, str(place))
    for arguments, message in (
        (("create", collection, str(place)), "there is a snapshot at"),
        (("create", collection, "/elsewhere"), "snapshot_urls"),
        (("restore", str(place)), "there is a collection"),
        (("restore", f"{place}-2"), "there is no snapshot at"),
    ):
        answer = snapshot(index, *arguments)
        assert answer.code == 1
        assert answer.out == ""
        assert message in answer.err.splitlines()[-1]
        assert "Traceback" not in answer.err


def test_ctrl_c_cancels_and_the_server_removes_what_it_wrote(
    index: RunningService, client: Client, collection: str, place: Path, tmp_path: Path
) -> None:
    for begin in range(0, 8_000, 1_000):
        ids = [f"more/{number}" for number in range(begin, begin + 1_000)]
        client.upsert(ids, np.ones((1_000, 4)), captions=["c" * 8_000] * 1_000, collection=collection)
    working = index.log.parent / "data" / "snapshotting"
    working.mkdir(exist_ok=True)
    arguments = ("snapshot", "create", collection, str(place), "--index", index.address)
    with running(*arguments, folder=tmp_path) as command:
        # Some megabytes, so that the command has long begun to wait: gRPC can't be interrupted while it opens a call.
        command.wait_for(lambda: sum(file.stat().st_size for file in working.rglob("*")) > 4 * 2**20)
        answer = command.signal(signal.SIGINT)
    assert answer.code == 130
    assert "stopped: the snapshot is cancelled, and the server removes what it has written" in answer.err
    assert "Traceback" not in answer.err
    snapshot(index, "create", collection, f"{place}-2")  # one at a time: the cancelled one has ended
    assert not place.exists()
