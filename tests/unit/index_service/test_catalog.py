import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service.catalog import Catalog, DataFolderError, is_collection_name
from index_service.collection import UpsertBatch
from index_service.metrics import IndexMetrics
from index_service.records import Record
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers
from service_runtime.errors import AlreadyExists, NotFound, Unavailable

SPACE = VectorSpace(4, "ab" * 32, Metric.COSINE)

OpenCatalog = Callable[[Path], Catalog]


@pytest.fixture
def open_catalog() -> Iterator[OpenCatalog]:
    with closing(Workers(2)) as workers:
        yield lambda folder: Catalog(folder, workers, IndexMetrics(CollectorRegistry()))


def fill(catalog: Catalog, name: str) -> None:
    assert catalog.get(name).upsert([UpsertBatch([Record("a"), Record("b")], np.eye(2, 4))]) == [[None, None]]


def test_collections_are_there_again_after_reopening(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    with closing(open_catalog(tmp_path)) as catalog:
        spec = catalog.create("pets", SPACE, 3).spec
        catalog.create("art-2", VectorSpace(7, "cd" * 32, Metric.L2), 1)
        fill(catalog, "pets")
    with closing(open_catalog(tmp_path)) as catalog:
        assert [collection.spec.name for collection in catalog.by_name()] == ["art-2", "pets"]
        assert catalog.get("pets").spec == spec
        assert len(catalog.get("pets")) == 2


def test_a_name_in_use_is_refused_and_an_unknown_one_not_found(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    with closing(open_catalog(tmp_path)) as catalog:
        catalog.create("pets", SPACE, 1)
        with pytest.raises(AlreadyExists, match="'pets'"):
            catalog.create("pets", SPACE, 1)
        with pytest.raises(NotFound, match="no collection 'birds'"):
            catalog.get("birds")
        with pytest.raises(NotFound, match="no collection 'birds'"):
            catalog.delete("birds")


def test_a_deleted_collection_is_gone_and_its_name_free(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    with closing(open_catalog(tmp_path)) as catalog:
        held = catalog.create("pets", SPACE, 2)
        fill(catalog, "pets")
        catalog.delete("pets")
        assert list((tmp_path / "collections").iterdir()) == []
        with pytest.raises(NotFound):
            held.read(["a"], with_vectors=False)
        [[fault]] = held.upsert([UpsertBatch([Record("a")], np.eye(1, 4))])
        assert isinstance(fault, NotFound)
        assert len(catalog.create("pets", SPACE, 2)) == 0
        fill(catalog, "pets")


def test_what_a_crash_left_half_done_is_cleared(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    with closing(open_catalog(tmp_path)) as catalog:
        catalog.create("pets", SPACE, 1)
    collections = tmp_path / "collections"
    shutil.copytree(collections / "pets", collections / ".deleting-birds-1")
    (collections / ".creating-fish-1" / "shard-000").mkdir(parents=True)
    with closing(open_catalog(tmp_path)) as catalog:
        assert [collection.spec.name for collection in catalog.by_name()] == ["pets"]
        assert [folder.name for folder in collections.iterdir()] == ["pets"]


def test_a_collection_that_cannot_be_made_leaves_nothing(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    with closing(open_catalog(tmp_path)) as catalog:
        (tmp_path / "collections" / "pets").mkdir()
        (tmp_path / "collections" / "pets" / "stranger").touch()
        with pytest.raises(Unavailable, match="'pets' can't be created"):
            catalog.create("pets", SPACE, 1)
        assert (tmp_path / "collections" / "pets" / "stranger").exists()
        assert [folder.name for folder in (tmp_path / "collections").iterdir()] == ["pets"]
        with pytest.raises(NotFound):
            catalog.get("pets")


def test_the_folder_belongs_to_one_process(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    attempt = (
        "import fcntl, sys\n"
        "try: fcntl.flock(open(sys.argv[1], 'ab'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(3)"
    )
    command = [sys.executable, "-c", attempt, str(tmp_path / "lock")]
    with closing(open_catalog(tmp_path)):
        assert subprocess.run(command, check=False).returncode == 3
        with pytest.raises(DataFolderError, match=f"{tmp_path} is in use by another process"):
            open_catalog(tmp_path)
    assert subprocess.run(command, check=False).returncode == 0


def describe(folder: Path, **changes: object) -> None:
    """Change the description, as one of 0.1.0 says it: without a checksum."""
    path = folder / "collections" / "pets" / "collection.json"
    described = json.loads(path.read_text()) | changes
    described.pop("crc32", None)
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "expected format 1, not 2"),
        ({"name": "birds"}, "expected the name 'pets', not 'birds'"),
        ({"metric": "MANHATTAN"}, "MANHATTAN"),
        ({"dimension": 5}, r"collection 'pets' can't be opened: .*expected 5 dimensions, not \[4\]"),
        ({"shard_count": 2}, "shard-001/records.sqlite is missing"),
    ],
)
def test_a_damaged_collection_is_named_in_one_line(
    open_catalog: OpenCatalog, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with closing(open_catalog(tmp_path)) as catalog:
        catalog.create("pets", SPACE, 1)
    describe(tmp_path, **changes)
    with pytest.raises(DataFolderError, match=message) as raised:
        open_catalog(tmp_path)
    assert "\n" not in str(raised.value)
    describe(tmp_path, format=1, name="pets", metric="COSINE", dimension=4, shard_count=1)
    open_catalog(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_named(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataFolderError, match="can't be used"):
        open_catalog(tmp_path / "file" / "data")


@pytest.mark.parametrize("name", ["a", "0", "a-b_c", "z" * 64])
def test_names_that_are_allowed(name: str) -> None:
    assert is_collection_name(name)


@pytest.mark.parametrize("name", ["", "A", "-a", "_a", "a b", "a/b", "..", "é", "z" * 65, "a\n"])
def test_names_that_are_not(name: str) -> None:
    assert not is_collection_name(name)
