"""What earlier releases wrote is opened, whole, and goes on as if it had been written today."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eyebright.index.v1 import collection_pb2, record_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub

from tests.integration.index_service.calls import connected, random_vectors, search, upsert
from tests.migration.make_data import describe
from tests.processes import running_service

HERE = Path(__file__).parent
RELEASES = sorted(folder.name.removeprefix("data-") for folder in HERE.glob("data-*"))


def check(stub: IndexServiceStub, expected: dict[str, Any]) -> None:
    known = [one.name for one in stub.ListCollections(collection_pb2.ListCollectionsRequest()).collections]
    assert known == sorted(expected)
    for name, before in expected.items():
        now = describe(stub, name)
        assert now["collection"] == before["collection"]
        assert now["records"] == before["records"]
        for ours, theirs in zip(now["hits"], before["hits"], strict=True):
            assert ours["ids"] == theirs["ids"]
            np.testing.assert_allclose(ours["scores"], theirs["scores"], rtol=1e-5)


def compact(stub: IndexServiceStub, name: str) -> None:
    """Write until every shard must seal, take that back, and wait until segments hold what was written before."""
    ids = [f"new/{number}" for number in range(6_000)]
    assert set(upsert(stub, name, ids, random_vectors(6_000))) == {0}
    stub.Delete(record_pb2.DeleteRequest(collection=name, ids=ids))
    deadline = time.monotonic() + 60
    while True:
        shards = stub.GetStats(collection_pb2.GetStatsRequest(collection=name)).shards
        if all(shard.segment_count for shard in shards):
            return
        assert time.monotonic() < deadline, shards
        time.sleep(0.05)


@pytest.mark.parametrize("release", RELEASES)
def test_data_of_a_release_opens_is_written_to_compacted_and_opened_again(release: str, tmp_path: Path) -> None:
    shutil.copytree(HERE / f"data-{release}", tmp_path / "copy")
    expected = json.loads((tmp_path / "copy" / "expected.json").read_text("utf-8"))
    assert sum(len(collection["records"]) for collection in expected.values()) >= 360
    arguments = ("--data-folder", str(tmp_path / "copy" / "data"), "--seal-rows", "256")
    with running_service("index_service", tmp_path, *arguments) as service, connected(service.address) as stub:
        check(stub, expected)
        for name in expected:
            compact(stub, name)
        check(stub, expected)
        for name, before in expected.items():
            own = before["records"][0]["id"]
            assert upsert(stub, name, [own], random_vectors(1, seed=3)) == [0]
            [result] = search(stub, name, random_vectors(1, seed=3), k=1).results
            assert list(result.ids) == [own]
        changed = {name: describe(stub, name) for name in expected}
    with running_service("index_service", tmp_path, *arguments) as service, connected(service.address) as stub:
        check(stub, changed)


def test_there_is_data_of_a_release() -> None:
    assert "0.1.0" in RELEASES
