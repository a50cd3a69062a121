"""A server is killed while it makes a snapshot or restores one: the source stays whole, and no half of a copy counts.

A seed decides the moments; EYEBRIGHT_SNAPSHOT_SEED repeats a run.
"""

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import grpc
import pytest
from eyebright.index.v1 import collection_pb2, record_pb2, snapshot_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub

from tests.integration.index_service.calls import connected, create, random_vectors, search, upsert_request
from tests.processes import RunningService, start_service

ROWS = 3_000
CAPTION_BYTES = 4_000
QUERIES = random_vectors(5, seed=77)


def fill(stub: IndexServiceStub) -> None:
    create(stub, "source", shard_count=2)
    for begin in range(0, ROWS, 1_000):
        ids = [f"{number:04d}" for number in range(begin, begin + 1_000)]
        request = upsert_request("source", ids, random_vectors(1_000, seed=begin), caption="c" * CAPTION_BYTES)
        assert not any(status.code for status in stub.Upsert(request).statuses)


def contents(stub: IndexServiceStub, name: str) -> tuple[list[object], list[str]]:
    """The hits of some queries with their captions, and every id, as search and listing know them."""
    include = record_pb2.Include(caption=True)
    hits: list[object] = list(search(stub, name, QUERIES, k=50, include=include).results)
    [everything] = search(stub, name, QUERIES[:1], k=100_000).results
    ids: list[str] = []
    token = ""
    while True:
        page = stub.ListRecords(record_pb2.ListRecordsRequest(collection=name, page_size=1_000, page_token=token))
        ids += [record.id for record in page.records]
        token = page.next_page_token
        if not token:
            break
    assert sorted(everything.ids) == ids
    return hits, ids


def names(stub: IndexServiceStub) -> set[str]:
    return {one.name for one in stub.ListCollections(collection_pb2.ListCollectionsRequest()).collections}


class Kills:
    """Rounds of: begin a call, kill the server at a random moment of it, start it again, look."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.place = folder / "snapshots"
        self.seconds = 0.0
        self.arguments = (
            "--data-folder",
            str(folder / "data"),
            "--snapshot-urls",
            str(self.place),
            "--seal-rows",
            "256",
        )

    def start(self) -> RunningService:
        return start_service("index_service", self.folder, *self.arguments, "--log-level", "error")

    def kill_during(self, call: Callable[[IndexServiceStub], Iterable[object]], share: float) -> None:
        """Kill after a random part of this share of the time that a call takes undisturbed."""
        service = self.start()
        try:
            with connected(service.address) as stub:
                begun = threading.Event()
                ends: list[grpc.StatusCode] = []

                def run() -> None:
                    try:
                        for _ in call(stub):
                            begun.set()
                    except grpc.RpcError as error:
                        ends.append(error.code())

                caller = threading.Thread(target=run)
                caller.start()
                assert begun.wait(60)
                time.sleep(self.random.uniform(0, share * self.seconds))
                service.kill()
                caller.join(60)
                assert ends in ([], [grpc.StatusCode.UNAVAILABLE])
        finally:
            service.kill()


def create_call(url: Path) -> Callable[[IndexServiceStub], Iterable[object]]:
    return lambda stub: stub.CreateSnapshot(snapshot_pb2.CreateSnapshotRequest(collection="source", url=str(url)))


def restore_call(url: Path, name: str) -> Callable[[IndexServiceStub], Iterable[object]]:
    return lambda stub: stub.RestoreSnapshot(snapshot_pb2.RestoreSnapshotRequest(url=str(url), collection=name))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run_rounds(folder: Path, rounds: int) -> None:
    seed = int(os.environ.get("EYEBRIGHT_SNAPSHOT_SEED") or random.randrange(2**32))
    sys.stdout.write(f"EYEBRIGHT_SNAPSHOT_SEED={seed}\n")
    kills = Kills(folder, seed)
    whole = kills.place / "whole"
    service = kills.start()
    try:
        with connected(service.address) as stub:
            fill(stub)
            source = contents(stub, "source")
            began = time.monotonic()
            list(create_call(whole)(stub))
            kills.seconds = time.monotonic() - began
    finally:
        service.kill()
    finished = 0
    for number in range(rounds):
        url, name = kills.place / f"killed-{number}", f"restored-{number}"
        share = 1.2 if number else 0.0  # the first in the middle for certain
        kills.kill_during(create_call(url), share)
        finished += check_create(kills, url, source)
        kills.kill_during(restore_call(whole, name), share)
        finished += check_restore(kills, whole, name, source)
    sys.stdout.write(f"{2 * rounds} kills, {finished} of them after the end\n")
    assert finished < 2 * rounds, "no kill came in the middle"


def check_create(kills: Kills, url: Path, source: object) -> bool:
    """Whether the snapshot was finished; it must be whole then, and nothing else."""
    finished = (url / "snapshot.json").exists()
    service = kills.start()
    try:
        with connected(service.address) as stub:
            assert contents(stub, "source") == source
            wait_until(lambda: not any((kills.folder / "data" / "snapshotting").iterdir()))
            assert finished == url.exists()
            if not finished:
                list(create_call(url)(stub))
            list(restore_call(url, "again")(stub))
            assert contents(stub, "again") == source
            stub.DeleteCollection(collection_pb2.DeleteCollectionRequest(name="again"))
    finally:
        service.kill()
    return finished


def check_restore(kills: Kills, whole: Path, name: str, source: object) -> bool:
    """Whether the collection was there; it must be whole then."""
    service = kills.start()
    try:
        with connected(service.address) as stub:
            assert contents(stub, "source") == source
            assert not list((kills.folder / "data" / "collections").glob(".*"))
            finished = name in names(stub)
            if not finished:
                list(restore_call(whole, name)(stub))
            assert contents(stub, name) == source
            stub.DeleteCollection(collection_pb2.DeleteCollectionRequest(name=name))
    finally:
        service.kill()
    return finished


@pytest.mark.timeout(300)
def test_no_half_copy_counts_after_4_kills(tmp_path: Path) -> None:
    run_rounds(tmp_path, 2)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_no_half_copy_counts_after_80_kills(tmp_path: Path) -> None:
    run_rounds(tmp_path, 40)
