"""The two kinds of storage behave alike; what they write lasts whole or not at all."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from index_service.snapshot_storage import SnapshotStorage, open_storage
from index_service.snapshot_task import Stopped
from index_service.snapshot_urls import parse_snapshot_url
from service_runtime.errors import AlreadyExists, FailedPrecondition, ServiceError, Unavailable

FOLDER = "files-" + "ab" * 16


def opened(url: str) -> SnapshotStorage:
    return open_storage(url, parse_snapshot_url(url))


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{tmp_path}/deep/place" if request.param == "folder" else f"memory://{uuid.uuid4().hex}/deep/place"


def names(url: str) -> list[str]:
    """All files at a URL."""
    files, root = fsspec.core.url_to_fs(url)
    return sorted(str(path)[len(str(root)) :] for path in files.find(root)) if files.exists(root) else []


def test_it_counts_from_its_last_file_on(url: str) -> None:
    storage = opened(url)
    assert storage.manifest() is None
    storage.write(f"{FOLDER}/shard-000/records.sqlite", [b"one", b"two"])
    storage.write(f"{FOLDER}/empty", [])
    assert storage.manifest() is None
    storage.commit(FOLDER, b"said")
    again = opened(url)
    assert again.manifest() == b"said"
    assert b"".join(again.read(f"{FOLDER}/shard-000/records.sqlite")) == b"onetwo"
    assert b"".join(again.read(f"{FOLDER}/empty")) == b""
    assert names(url) == [f"/{FOLDER}/empty", f"/{FOLDER}/shard-000/records.sqlite", "/snapshot.json"]


def test_a_second_one_is_refused_and_the_first_stays(url: str) -> None:
    opened(url).commit(FOLDER, b"first")
    with pytest.raises(AlreadyExists, match="there is a snapshot at"):
        opened(url).commit(FOLDER, b"second")
    assert opened(url).manifest() == b"first"


def test_what_the_pieces_raise_comes_out_and_nothing_is_left_once_removed(url: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise Stopped

    storage = opened(url)
    storage.write(f"{FOLDER}/whole", [b"x"])
    with pytest.raises(Stopped):
        storage.write(f"{FOLDER}/half", pieces())
    storage.remove(FOLDER)
    assert names(url) == []
    assert storage.manifest() is None
    storage.remove(FOLDER)


def test_removing_one_leaves_others(url: str) -> None:
    storage = opened(url)
    storage.write(f"{FOLDER}/a", [b"x"])
    other = FOLDER.replace("ab", "cd")
    storage.write(f"{other}/a", [b"x"])
    storage.remove(FOLDER)
    assert names(url) == [f"/{other}/a"]


def test_a_missing_file_is_named(url: str) -> None:
    with pytest.raises(FailedPrecondition, match=r"damaged: .*/shard-000/records\.sqlite is missing"):
        list(opened(url).read("shard-000/records.sqlite"))


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "secret").write_text("secret")
    (place / "a").symlink_to(tmp_path / "secret")
    (place / "snapshot.json").symlink_to(tmp_path / "secret")
    (place / "b").mkdir()
    storage = opened(str(place))
    for name in ("a", "b"):
        with pytest.raises(FailedPrecondition, match="is missing, or no file of its own"):
            list(storage.read(name))
    with pytest.raises(FailedPrecondition, match="is missing, or no file of its own"):
        storage.manifest()


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "snapshot.json").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(FailedPrecondition, match="more than 67,108,864 bytes"):
        opened(str(tmp_path)).manifest()


def test_a_place_that_is_no_folder_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    storage = opened(f"{tmp_path}/file/below")
    with pytest.raises(ServiceError, match="can't be used now"):
        storage.write(f"{FOLDER}/a", [b"x"])


def test_a_missing_library_is_named_with_the_pip_line() -> None:
    with pytest.raises(FailedPrecondition, match="gs:// needs a library that the server lacks: pip install gcsfs"):
        opened("gs://bucket/a")
    with pytest.raises(FailedPrecondition, match=r"smb:// needs a library that the server lacks: .*smbprotocol"):
        opened("smb://host/a")
    with pytest.raises(FailedPrecondition, match="nonsense://a/b: Protocol not known"):
        opened("nonsense://a/b")


def test_what_a_library_raises_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = opened(f"memory://{uuid.uuid4().hex}/a")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the network is gone")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "open", fail)
    with pytest.raises(Unavailable, match="the network is gone"):
        storage.manifest()
    with pytest.raises(Unavailable, match="the network is gone"):
        storage.write("a", [b"x"])
