"""A server dies at every named point of its work, one at a time; what it acknowledged must be there, and nothing half.

EYEBRIGHT_POINTS_SEED repeats a run.
"""

import copy
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import pytest
from eyebright.index.v1 import collection_pb2, filter_pb2, optimize_pb2, record_pb2, search_pb2, snapshot_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub

from index_service.fault_points import DEATH_POINTS
from tests.faults.ledger import DIMENSION, NAME, Ledger
from tests.integration.index_service.calls import connected, create, random_vectors, search, upsert
from tests.processes import RunningService, start_service

WRITERS = 2
IDS_PER_WRITER = 1_024
"""With those of the other writer they fill whole blocks of memory, so that all are sealed and a start has no work."""
FIXED = "fixed"
FIXED_ROWS = 400
DEATH_SECONDS = 60


class Work(Protocol):
    """One piece of work, to be repeated until the server dies in it."""

    def __call__(self, stub: IndexServiceStub, service: RunningService, snapshots: Path, number: int) -> object: ...


@dataclass(frozen=True)
class Template:
    """A data folder with a collection under writes and one that never changes, and a snapshot of that."""

    folder: Path
    ledger: Ledger
    fixed: list[search_pb2.QueryResult]


def seed() -> int:
    chosen = int(os.environ.get("EYEBRIGHT_POINTS_SEED") or random.randrange(2**32))
    sys.stdout.write(f"EYEBRIGHT_POINTS_SEED={chosen}\n")
    return chosen


def start(folder: Path, fault: str = "") -> RunningService:
    arguments = ("--data-folder", str(folder / "data"), "--snapshot-urls", str(folder / "snapshots"))
    small = ("--seal-rows", "256", "--index-from-rows", "1000", "--log-level", "warning")
    return start_service("index_service", folder, *arguments, *small, "--fault-point", fault)


def contents(stub: IndexServiceStub, name: str) -> list[search_pb2.QueryResult]:
    """Every record with its vector, nearest first to two queries."""
    include = record_pb2.Include(caption=True, metadata=True, vector=True)
    return list(search(stub, name, random_vectors(2, DIMENSION, seed=5), k=1_000, include=include).results)


def snapshot(stub: IndexServiceStub, url: Path) -> None:
    list(stub.CreateSnapshot(snapshot_pb2.CreateSnapshotRequest(collection=FIXED, url=str(url))))


def restore(stub: IndexServiceStub, url: Path, name: str) -> None:
    list(stub.RestoreSnapshot(snapshot_pb2.RestoreSnapshotRequest(url=str(url), collection=name)))


def delete(stub: IndexServiceStub, name: str) -> None:
    stub.DeleteCollection(collection_pb2.DeleteCollectionRequest(name=name))


def names(stub: IndexServiceStub) -> set[str]:
    return {one.name for one in stub.ListCollections(collection_pb2.ListCollectionsRequest()).collections}


def at_rest(stub: IndexServiceStub, name: str) -> bool:
    shards = stub.GetStats(collection_pb2.GetStatsRequest(collection=name)).shards
    return all(shard.segment_count == 1 and shard.memtable_rows == 0 for shard in shards)


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEATH_SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder = tmp_path_factory.mktemp("template")
    ledger = Ledger(seed(), WRITERS, IDS_PER_WRITER)
    service = start(folder)
    try:
        with connected(service.address) as stub:
            create(stub, NAME, DIMENSION, shard_count=1)
            ids = list(ledger.entries)
            assert not any(status.code for status in stub.Upsert(ledger.upsert_request(ids)).statuses)
            ledger.acknowledge(ids)
            create(stub, FIXED, DIMENSION, shard_count=2)
            ids = [f"{number:03d}" for number in range(FIXED_ROWS)]
            assert not any(upsert(stub, FIXED, ids, random_vectors(FIXED_ROWS, DIMENSION)))
            snapshot(stub, folder / "snapshots" / "whole")
            fixed = contents(stub, FIXED)
            wait_until(lambda: at_rest(stub, NAME), "compaction does not end")
    finally:
        service.kill()
    return Template(folder, ledger, fixed)


def work_of(kind: str) -> Work | None:
    """What passes the points of a kind, beside writing; None when writing alone does."""

    def configure(stub: IndexServiceStub, service: RunningService, snapshots: Path, number: int) -> None:
        recipe = collection_pb2.RECIPE_HNSW if number % 2 else collection_pb2.RECIPE_FASTSCAN
        index = collection_pb2.IndexConfig(recipe=recipe)
        stub.UpdateCollection(collection_pb2.UpdateCollectionRequest(name=FIXED, index=index))

    def end(stub: IndexServiceStub, service: RunningService, snapshots: Path, number: int) -> None:
        search(stub, NAME, random_vectors(1, DIMENSION), modality=search_pb2.MODALITY_TEXT)
        service.process.terminate()
        service.process.wait(DEATH_SECONDS)

    def make(stub: IndexServiceStub, service: RunningService, snapshots: Path, number: int) -> None:
        create(stub, f"made-{number}", DIMENSION, shard_count=2)

    def remove(stub: IndexServiceStub, service: RunningService, snapshots: Path, number: int) -> None:
        create(stub, f"made-{number}", DIMENSION, shard_count=2)
        delete(stub, f"made-{number}")

    def copy_out(stub: IndexServiceStub, service: RunningService, snapshots: Path, number: int) -> None:
        snapshot(stub, snapshots / f"copy-{number}")

    def copy_in(stub: IndexServiceStub, service: RunningService, snapshots: Path, number: int) -> None:
        restore(stub, snapshots / "whole", f"restored-{number}")

    def filter_by_another_field(stub: IndexServiceStub, service: RunningService, snapshots: Path, number: int) -> None:
        place = filter_pb2.MetadataPlace(keys=[f"field-{number}"])
        exists = filter_pb2.Filter(exists=filter_pb2.Exists(field=filter_pb2.FilterField(metadata=place)))
        [result] = search(stub, NAME, random_vectors(1, DIMENSION), filter=exists).results
        assert not result.ids

    def tune(stub: IndexServiceStub, service: RunningService, snapshots: Path, number: int) -> None:
        goal = 0.9 + number / 10_000  # another request each time
        next(iter(stub.Optimize(optimize_pb2.OptimizeRequest(collection=FIXED, target_recall=goal))))

    kinds: dict[str, Work] = {
        "column": filter_by_another_field,
        "tuning": tune,
        "config": configure,
        "queries": end,
        "create": make,
        "delete": remove,
        "snapshot": copy_out,
        "restore": copy_in,
    }
    return kinds.get(kind)


def work_until_killed(service: RunningService, snapshots: Path, work: Work) -> None:
    with connected(service.address) as stub:
        for number in range(1_000):
            try:
                work(stub, service, snapshots, number)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return
            if service.process.poll() is not None:
                return
    raise AssertionError("the point was not reached")


def leftovers(folder: Path) -> Iterator[Path]:
    """What is half done, by its name."""
    yield from folder.glob("data/collections/.*")
    yield from folder.glob("data/collections/*/*/segments/.writing-*")
    yield from folder.glob("data/snapshotting/*")


def die_at(point: str, times: int, seed: int, folder: Path, ledger: Ledger) -> None:
    """Write, and do what passes the point, until the server is dead."""
    service = start(folder, f"{point}:{times}:kill")
    kind = point.partition(".")[0]
    work, stopped = work_of(kind), kind == "queries"
    try:
        with ThreadPoolExecutor(WRITERS + 1) as threads:
            busy = [
                threads.submit(ledger.write_until_killed, service.address, writer, seed + writer, stopped=stopped)
                for writer in range(WRITERS)
            ]
            if work is not None:
                busy.append(threads.submit(work_until_killed, service, folder / "snapshots", work))
            wait(busy, DEATH_SECONDS, FIRST_EXCEPTION)
            service.kill()
            for done in busy:
                done.result()
        assert service.process.returncode == -signal.SIGKILL
    finally:
        service.kill()


def check_copies(stub: IndexServiceStub, folder: Path, fixed: list[search_pb2.QueryResult]) -> None:
    """Collections and snapshots are whole or not there, and what was half done can be done again."""
    known = names(stub)
    assert {NAME, FIXED} <= known
    assert contents(stub, FIXED) == fixed
    for name in known - {NAME, FIXED}:
        found = contents(stub, name)
        assert found == fixed if name.startswith("restored") else not any(result.ids for result in found)
        delete(stub, name)
    for url in (folder / "snapshots").iterdir():
        assert (url / "snapshot.json").exists(), "half a snapshot"
        restore(stub, url, "again")
        assert contents(stub, "again") == fixed
        delete(stub, "again")
    snapshot(stub, folder / "snapshots" / "another")


def check_after(point: str, times: int, seed: int, template: Template, folder: Path) -> None:
    shutil.copytree(template.folder, folder)
    ledger = copy.copy(template.ledger)
    ledger.entries = copy.deepcopy(template.ledger.entries)
    die_at(point, times, seed, folder, ledger)
    half_done = [path for path in leftovers(folder) if "snapshotting" not in path.parts]
    service = start(folder)
    try:
        assert not [path for path in half_done if path.exists()]
        with connected(service.address) as stub:
            again = list(ledger.entries)[:50]
            for own in again:  # whatever became of what was under way is past once this is acknowledged
                ledger.entries[own].pending.clear()
            assert not any(status.code for status in stub.Upsert(ledger.upsert_request(again)).statuses)
            ledger.acknowledge(again)
            ledger.check(stub)
            wait_until(lambda: not list(folder.glob("data/snapshotting/*")), "half a snapshot is left")
            check_copies(stub, folder, template.fixed)
        log = service.log.read_text("utf-8")
        assert "Traceback" not in log, log
        assert "damaged" not in log, log
    finally:
        service.kill()


@pytest.mark.parametrize("point", DEATH_POINTS)
def test_a_server_that_dies_at_a_point_loses_nothing(point: str, template: Template, tmp_path: Path) -> None:
    check_after(point, 1, seed(), template, tmp_path / "dies")


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", DEATH_POINTS)
def test_a_server_that_dies_at_a_point_at_some_time_loses_nothing(
    point: str, template: Template, tmp_path: Path
) -> None:
    chosen = random.Random(seed())
    most = 1 if point.startswith(("queries.", "tuning.")) else 2 if point.startswith("restore.before_f") else 6
    for number in range(5):
        times = chosen.randint(1, most)
        sys.stdout.write(f"{point}:{times}\n")
        check_after(point, times, chosen.randrange(2**32), template, tmp_path / f"dies-{number}")
