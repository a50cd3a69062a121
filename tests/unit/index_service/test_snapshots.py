"""Snapshots without a server: what they hold, what is refused, and that nothing is left of those that fail."""

import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service.catalog import Catalog
from index_service.collection import Collection, UpsertBatch
from index_service.compaction import Policy
from index_service.metrics import IndexMetrics
from index_service.recipes import Build, Effort, Recipe
from index_service.records import Record, RecordUpdate
from index_service.search import SearchOptions
from index_service.segment_folder import SegmentFolder
from index_service.snapshot_manifest import SnapshotManifest, parse_manifest
from index_service.snapshot_storage import FolderStorage
from index_service.snapshot_task import Phase, Stopped, Task
from index_service.snapshots import Snapshots
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers
from service_runtime.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)

DIMENSION = 8
FINGERPRINT = "ab" * 32
POLICY = Policy(index_from_rows=200, seal_rows=256)
Opened = tuple[Catalog, Snapshots]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where snapshots may lie: a folder, unless a test asks for "memory" too."""
    return f"{tmp_path}/backups" if getattr(request, "param", "folder") == "folder" else f"memory://{uuid.uuid4().hex}"


both_places = pytest.mark.parametrize("place", ["folder", "memory"], indirect=True)


@pytest.fixture
def open_at(place: str) -> Iterator[Callable[[Path], Opened]]:
    """Opens a data folder; closed at the end of the test."""
    catalogs: list[Catalog] = []
    with closing(Workers(2)) as workers:

        def open_it(folder: Path) -> Opened:
            catalogs.append(Catalog(folder, workers, IndexMetrics(CollectorRegistry()), POLICY))
            return catalogs[-1], Snapshots(catalogs[-1], folder, (place,))

        yield open_it
        for catalog in catalogs:
            catalog.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose collection "pets" has segments with codes, vectors in memory, and dead rows in both."""
    folder = tmp_path_factory.mktemp("prepared")
    with (
        closing(Workers(1)) as workers,
        closing(Catalog(folder, workers, IndexMetrics(CollectorRegistry()), POLICY)) as catalog,
    ):
        fill(catalog.create("pets", VectorSpace(DIMENSION, FINGERPRINT, Metric.COSINE), 2))
    return folder


@pytest.fixture
def one(prepared: Path, open_at: Callable[[Path], Opened], tmp_path: Path) -> Opened:
    """A copy of the prepared folder, open."""
    shutil.copytree(prepared, tmp_path / "one")
    return open_at(tmp_path / "one")


def fill(collection: Collection) -> None:
    random = np.random.default_rng(31)
    for begin in (0, 1_000, 2_000):
        ids = [f"id{number}" for number in range(begin, begin + 1_000)]
        records = [Record(own, f"caption of {own}", f"/{own}.png", b'{"n":%d}' % begin) for own in ids]
        collection.upsert([UpsertBatch(records, random.standard_normal((1_000, DIMENSION)))])
        for shard in collection.shards:
            while begin < 2_000 and shard.compact(idle=False):
                pass
    collection.delete([f"id{number}" for number in range(0, 3_000, 7)])
    collection.update([RecordUpdate("id1", "another caption", None, None)])
    assert all(shard.stats().segment_count and shard.stats().memtable_rows for shard in collection.shards)


def contents(collection: Collection) -> list[tuple[Record, bytes]]:
    page = collection.page("", 10_000, with_vectors=True, most_bytes=2**30)
    return [(stored.record, b"" if stored.vector is None else stored.vector.tobytes()) for stored in page.records]


def answers(collection: Collection) -> list[tuple[list[str], list[float]]]:
    """Hits of 50 queries, by codes where there are any and then exactly."""
    queries = np.random.default_rng(32).standard_normal((50, DIMENSION)).astype(np.float32)
    by_codes, exactly = (
        collection.search_vectors(queries, SearchOptions(k=10, exact=exact)) for exact in (False, True)
    )
    found = [
        (list(hits.ids), np.asarray(hits.scores).tolist())
        for hits in (*by_codes.results, *exactly.results)
        if not isinstance(hits, ServiceError)
    ]
    assert len(found) == 100
    return found


def names(url: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(url)
    return sorted(str(path)[len(str(root)) :] for path in files.find(root)) if files.exists(root) else []


def folders(catalog: Catalog) -> list[str]:
    return sorted(path.name for path in catalog.folder_aside("x").parent.iterdir())


@both_places
def test_a_restored_collection_holds_and_answers_the_same(
    one: Opened, open_at: Callable[[Path], Opened], tmp_path: Path, place: str
) -> None:
    catalog, snapshots = one
    pets = catalog.get("pets")
    made = snapshots.create("pets", f"{place}/a", task := Task())
    assert task.phase is Phase.DONE
    assert task.bytes_done == task.bytes_total == made.manifest.size_bytes
    assert made.manifest.record_count == len(pets)
    assert [point.applied_sequence for point in made.manifest.shards] == [
        shard.applied_sequence for shard in pets.shards
    ]
    assert list((tmp_path / "one" / "snapshotting").iterdir()) == []
    before = contents(pets), answers(pets)
    pets.delete([f"id{number}" for number in range(3_000)])

    again, restored_from = snapshots.restore(f"{place}/a", "again", FINGERPRINT, task := Task())
    assert (contents(again), answers(again)) == before
    assert restored_from.manifest == made.manifest
    assert task.bytes_done == task.bytes_total
    assert all(shard.stats().segment_count for shard in again.shards), "segments are there at once"

    other_catalog, other_snapshots = open_at(tmp_path / "two")
    moved, _ = other_snapshots.restore(f"{place}/a", "", "", Task())
    assert moved.spec.name == "pets"
    assert (contents(moved), answers(moved)) == before
    fill(moved)
    for shard in moved.shards:
        while shard.compact(idle=True):
            pass
    after = contents(moved), answers(moved)
    other_catalog.close()
    reopened, _ = open_at(tmp_path / "two")
    assert (contents(reopened.get("pets")), answers(reopened.get("pets"))) == after


@both_places
def test_an_empty_collection_and_the_choice_of_its_index_are_restored(one: Opened, place: str) -> None:
    catalog, snapshots = one
    empty = catalog.create("empty", VectorSpace(3, FINGERPRINT, Metric.L2), 1)
    empty.configure(lambda config: config.chosen(Build(Recipe.HNSW), Effort(k_factor=7.0)))
    snapshots.create("empty", f"{place}/empty", Task())
    restored, _ = snapshots.restore(f"{place}/empty", "second", "", Task())
    assert len(restored) == 0
    assert restored.spec.space == catalog.get("empty").spec.space
    assert restored.config == empty.config


@pytest.mark.parametrize(
    ("name", "url", "error", "message"),
    [
        ("nobody", "{place}/b", NotFound, "no collection 'nobody'"),
        ("pets", "{place}/taken", AlreadyExists, "there is a snapshot at .*/taken already"),
        ("pets", "{place}-of-others/a", FailedPrecondition, "expected a place in one of the server's snapshot_urls"),
        ("pets", "{place}/../a", FailedPrecondition, "expected a place in one of the server's snapshot_urls"),
        ("pets", "s3://bucket/a", FailedPrecondition, "expected a place in one of the server's snapshot_urls"),
        ("pets", "backups/a", InvalidArgument, "^expected an absolute path"),
        ("pets", "", InvalidArgument, "^expected an absolute path"),
    ],
)
def test_a_snapshot_that_can_not_be_made_is_refused(
    one: Opened, place: str, name: str, url: str, error: type[Exception], message: str
) -> None:
    _, snapshots = one
    snapshots.create("pets", f"{place}/taken", Task())
    before = names(place)
    with pytest.raises(error, match=message) as raised:
        snapshots.create(name, url.format(place=place), Task())
    assert error is NotFound or raised.value.field == "url"  # type: ignore[attr-defined]
    assert names(place) == before


def test_without_the_setting_nothing_is_read_or_written_and_the_setting_is_named(one: Opened, tmp_path: Path) -> None:
    catalog, _ = one
    snapshots = Snapshots(catalog, tmp_path / "one", ())
    with pytest.raises(FailedPrecondition, match="snapshot_urls"):
        snapshots.create("pets", f"{tmp_path}/a", Task())
    with pytest.raises(FailedPrecondition, match="snapshot_urls"):
        snapshots.restore(f"{tmp_path}/a", "", "", Task())


def test_the_collections_own_folder_is_no_place_for_snapshots(one: Opened, tmp_path: Path) -> None:
    catalog, _ = one
    snapshots = Snapshots(catalog, tmp_path / "one", (str(tmp_path),))
    for inside in ("collections", "collections/pets", "collections/new"):
        with pytest.raises(FailedPrecondition, match="expected a place"):
            snapshots.create("pets", f"{tmp_path}/one/{inside}", Task())
    assert folders(catalog) == ["pets"]


def test_a_restore_that_can_not_be_is_refused_and_leaves_nothing(
    one: Opened, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, snapshots = one
    snapshots.create("pets", f"{place}/a", Task())
    with pytest.raises(NotFound, match=r"there is no snapshot at .*/b"):
        snapshots.restore(f"{place}/b", "new", "", Task())
    with pytest.raises(AlreadyExists, match="there is a collection 'pets' already"):
        snapshots.restore(f"{place}/a", "", "", Task())
    other = "cd" * 32
    with pytest.raises(FailedPrecondition, match=f"expected fingerprint {other}, the snapshot has {FINGERPRINT}"):
        snapshots.restore(f"{place}/a", "new", other, Task())
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_000}))
    with pytest.raises(ResourceExhausted, match="the server's disk 1,000 free ones"):
        snapshots.restore(f"{place}/a", "new", "", Task())
    assert folders(catalog) == ["pets"]


def test_a_name_taken_during_a_restore_is_refused_and_its_owner_stays(
    one: Opened, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, snapshots = one
    snapshots.create("pets", f"{place}/a", Task())
    adopt = catalog.adopt

    def adopt_late(name: str, made: Path, space: VectorSpace, shard_count: int) -> Collection:
        catalog.create(name, VectorSpace(2, FINGERPRINT, Metric.L2), 1)
        return adopt(name, made, space, shard_count)

    monkeypatch.setattr(catalog, "adopt", adopt_late)
    with pytest.raises(AlreadyExists, match="'new'"):
        snapshots.restore(f"{place}/a", "new", "", Task())
    assert catalog.get("new").spec.space.dimension == 2
    assert folders(catalog) == ["new", "pets"]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [flipped, lambda data: data[:-1], lambda _: b"", lambda data: data + b"x", None],
    ids=["flipped byte", "tail cut", "emptied", "one more byte", "missing"],
)
def test_damage_to_any_file_is_found_named_and_leaves_nothing(
    one: Opened, place: str, damage: Callable[[bytes], bytes] | None
) -> None:
    catalog, snapshots = one
    snapshots.create("pets", f"{place}/a", Task())
    files, root = fsspec.core.url_to_fs(f"{place}/a")
    kinds = {name.rpartition("/")[2]: name for name in names(f"{place}/a")}
    assert {"records.sqlite", "vectors.faiss", "codes.faiss", "ids.utf8", "index.json", "snapshot.json"} < set(kinds)
    for kind, name in kinds.items():
        whole = files.cat_file(f"{root}{name}")
        files.rm_file(f"{root}{name}")
        if damage is not None:
            files.pipe_file(f"{root}{name}", damage(whole))
        expected = NotFound if kind == "snapshot.json" and damage is None else FailedPrecondition
        with pytest.raises(expected) as raised:
            snapshots.restore(f"{place}/a", "new", "", Task())
        assert expected is NotFound or kind in str(raised.value), raised.value
        assert folders(catalog) == ["pets"]
        files.pipe_file(f"{root}{name}", whole)
    snapshots.restore(f"{place}/a", "new", "", Task())


def test_records_that_are_not_what_the_manifest_says_are_refused(one: Opened, place: str) -> None:
    catalog, snapshots = one
    manifest = snapshots.create("pets", f"{place}/a", Task()).manifest
    first, *others = manifest.shards
    changed: dict[str, SnapshotManifest] = {
        "expected 9 dimensions": replace(manifest, space=VectorSpace(9, FINGERPRINT, Metric.COSINE)),
        "expected 99 write batches, not": replace(manifest, shards=(replace(first, applied_sequence=99), *others)),
    }
    for message, other in changed.items():
        Path(f"{place}/a/snapshot.json").write_bytes(other.render())
        with pytest.raises(FailedPrecondition, match=rf"shard-000/records\.sqlite: .*{message}"):
            snapshots.restore(f"{place}/a", "new", "", Task())
    assert folders(catalog) == ["pets"]


class StopsAfter(Task):
    """A task that is told to stop when it is looked at for the n-th time."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def stopped(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_wherever_it_is_stopped_nothing_is_left(one: Opened, tmp_path: Path, place: str) -> None:
    catalog, snapshots = one
    moments = 0
    while True:
        with suppress(Stopped):
            snapshots.create("pets", f"{place}/a", StopsAfter(moments))
            break
        assert names(place) == []
        assert not Path(f"{place}/a").exists()
        assert list((tmp_path / "one" / "snapshotting").iterdir()) == []
        moments += 2
    assert moments > 10
    for moment in range(0, 100, 5):
        with suppress(Stopped):
            snapshots.restore(f"{place}/a", "new", "", StopsAfter(moment))
            break
        assert folders(catalog) == ["pets"]
    assert len(catalog.get("new")) == len(catalog.get("pets"))


def test_a_copy_is_stopped_in_the_middle_of_a_shard(one: Opened, tmp_path: Path, place: str) -> None:
    """SQLite itself asks, every few thousand steps."""
    catalog, snapshots = one
    large = catalog.create("large", VectorSpace(4, FINGERPRINT, Metric.L2), 1)
    for begin in range(0, 20_000, 5_000):
        records = [Record(f"{number}") for number in range(begin, begin + 5_000)]
        large.upsert([UpsertBatch(records, np.ones((5_000, 4)))])
    with pytest.raises(Stopped) as raised:
        snapshots.create("large", f"{place}/a", StopsAfter(2))
    assert "interrupted" in str(raised.value.__cause__)
    assert names(place) == []


def test_a_collection_deleted_meanwhile_ends_the_snapshot(
    one: Opened, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, snapshots = one
    write = FolderStorage.write

    def delete_first(self: FolderStorage, name: str, pieces: Iterator[bytes]) -> None:
        with suppress(NotFound):
            catalog.delete("pets")
        write(self, name, pieces)

    monkeypatch.setattr(FolderStorage, "write", delete_first)
    with pytest.raises(NotFound, match="its collection was deleted"):
        snapshots.create("pets", f"{place}/a", Task())
    assert names(place) == []


def test_segments_that_a_merge_removes_are_still_copied(
    one: Opened, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, snapshots = one
    pets = catalog.get("pets")
    before = contents(pets), answers(pets)
    write, merged = FolderStorage.write, []

    def merge_first(self: FolderStorage, name: str, pieces: Iterator[bytes]) -> None:
        for shard in pets.shards:
            while shard.compact(idle=True):
                merged.append(shard.name)
        write(self, name, pieces)

    monkeypatch.setattr(FolderStorage, "write", merge_first)
    snapshots.create("pets", f"{place}/a", Task())
    assert merged
    restored, _ = snapshots.restore(f"{place}/a", "new", "", Task())
    assert (contents(restored), answers(restored)) == before


def test_what_can_not_be_removed_now_is_removed_at_the_next_start(
    one: Opened, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, snapshots = one

    def fail(*_: object) -> None:
        raise Unavailable("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(FolderStorage, "commit", fail)
        patched.setattr(FolderStorage, "remove", fail)
        with pytest.raises(Unavailable, match="the disk is gone"):
            snapshots.create("pets", f"{place}/a", Task())
    assert names(place)
    [work] = (tmp_path / "one" / "snapshotting").iterdir()
    assert [path.name for path in work.iterdir()] == ["target.json"]
    Snapshots(catalog, tmp_path / "one", (place,))
    wait_until_gone(work)
    assert names(place) == []


def test_a_snapshot_that_was_complete_when_the_service_died_stays(one: Opened, tmp_path: Path, place: str) -> None:
    catalog, snapshots = one
    manifest = snapshots.create("pets", f"{place}/a", Task()).manifest
    work = tmp_path / "one" / "snapshotting" / manifest.folder
    work.mkdir()
    (work / "target.json").write_text(json.dumps({"url": f"{place}/a"}))
    damaged = work.with_name("files-damaged")
    damaged.mkdir()
    (damaged / "target.json").write_text("{")
    Snapshots(catalog, tmp_path / "one", (place,))
    wait_until_gone(work)
    wait_until_gone(damaged)
    assert parse_manifest(Path(f"{place}/a/snapshot.json").read_bytes()) == manifest
    snapshots.restore(f"{place}/a", "new", "", Task())


def wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + 20
    while path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_manifest_of_segments_that_names_other_folders_is_not_followed(one: Opened, tmp_path: Path) -> None:
    """A restored manifest.json comes from outside."""
    catalog, _ = one
    shard_folder = tmp_path / "one" / "collections" / "pets" / "shard-000"
    outside = tmp_path / "outside"
    outside.mkdir()
    catalog.close()
    described = json.loads((shard_folder / "manifest.json").read_text())
    for bad in ("../../../../../outside", "/", "..", "A" * 32):
        described["segments"][0]["name"] = bad
        (shard_folder / "manifest.json").write_text(json.dumps(described))
        folder = SegmentFolder(shard_folder, VectorSpace(DIMENSION, FINGERPRINT, Metric.COSINE))
        assert folder.load(10**6) == []
        assert outside.exists()
    described["segments"][0] |= {"name": "0a" * 16, "files": {"../../records.sqlite": {"bytes": 1, "sha256": ""}}}
    (shard_folder / "manifest.json").write_text(json.dumps(described))
    assert SegmentFolder(shard_folder, VectorSpace(DIMENSION, FINGERPRINT, Metric.COSINE)).load(10**6) == []
    assert (shard_folder / "records.sqlite").exists()
