"""The files of one snapshot where it lies: in a folder of this machine, or in a store that fsspec can reach.

Owns writing them so that they last, and the moment at which a snapshot counts: its snapshot.json is written last, once.
Knows nothing of what the files hold.

    URL/snapshot.json          names the folder below and every file in it
    URL/files-*/...            the files; without a snapshot.json that names it, a leftover
"""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import fsspec
from fsspec.spec import AbstractBufferedFile

from index_service.fault_points import reach
from index_service.segment_folder import sync_folder
from index_service.snapshot_task import Stopped
from index_service.snapshot_urls import SnapshotUrl
from service_runtime.errors import AlreadyExists, FailedPrecondition, ResourceExhausted, ServiceError, Unavailable

MANIFEST_FILE = "snapshot.json"
"""Name of the file that makes a snapshot of a folder."""

PIECE_BYTES = 4 * 1024 * 1024
"""Bytes of a file that are held at a time."""

_MAX_MANIFEST_BYTES = 64 * 1024 * 1024
_PIP_NAMES = {
    "s3": '"eyebright[s3]"',
    "s3a": '"eyebright[s3]"',
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
}


class SnapshotStorage(Protocol):
    """The place of one snapshot. Names are paths below its URL. Every method raises ServiceError."""

    url: str

    def manifest(self) -> bytes | None:
        """What snapshot.json holds; None when there is no snapshot."""

    def commit(self, folder: str, manifest: bytes) -> None:
        """Make all that was written last, then write snapshot.json. Raises AlreadyExists when there is one.

        ``folder`` is where files were written.
        """

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a new file. What ``pieces`` raises is raised, and the file is not there or half there then."""

    def read(self, name: str) -> Iterator[bytes]:
        """The pieces of a file. Raises FailedPrecondition when it is missing."""

    def remove(self, folder: str) -> None:
        """Remove a folder with all its files, and the URL's own folder if it is empty then."""


def open_storage(url: str, parsed: SnapshotUrl) -> SnapshotStorage:
    """The storage at a URL that is allowed. Raises FailedPrecondition where a library for it is missing."""
    folder = parsed.folder
    return FolderStorage(url, folder) if folder is not None else RemoteStorage(url, parsed.protocol)


class FolderStorage:
    """A snapshot in a folder of this machine."""

    def __init__(self, url: str, folder: Path) -> None:
        """``folder`` is a real path: no part of it is a symbolic link."""
        self.url = url
        self._folder = folder
        self._changed: set[Path] = set()

    def manifest(self) -> bytes | None:
        """See SnapshotStorage."""
        with _translated(self.url):
            if not (self._folder / MANIFEST_FILE).exists():
                return None
            with self._real(MANIFEST_FILE).open("rb") as file:
                return _read_manifest(self.url, file)

    def commit(self, folder: str, manifest: bytes) -> None:
        """See SnapshotStorage."""
        place = self._folder / MANIFEST_FILE
        aside = self._folder / folder / MANIFEST_FILE
        self.write(f"{folder}/{MANIFEST_FILE}", [manifest])
        with _translated(self.url):
            for changed in self._changed:
                sync_folder(changed)
            if place.exists():
                raise _exists(self.url)
            reach("snapshot.before_manifest_rename")
            aside.rename(place)
            reach("snapshot.after_manifest_rename")
            sync_folder(self._folder)

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """See SnapshotStorage."""
        path = self._folder / name
        with _translated(self.url):
            missing = [folder for folder in path.parents if not folder.exists()]
            self._changed |= {path.parent, *(folder.parent for folder in missing)}
            path.parent.mkdir(parents=True, exist_ok=True)
            reach("snapshot.before_file")
            with path.open("xb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())

    def read(self, name: str) -> Iterator[bytes]:
        """See SnapshotStorage."""
        with _translated(self.url), self._real(name).open("rb") as file:
            yield from _pieces(file)

    def remove(self, folder: str) -> None:
        """See SnapshotStorage."""
        with _translated(self.url), suppress(FileNotFoundError):
            shutil.rmtree(self._folder / folder)
        with suppress(OSError):  # others' files are in it
            self._folder.rmdir()

    def _real(self, name: str) -> Path:
        """A file of the snapshot. Raises FailedPrecondition when it is missing, or a link that leads elsewhere."""
        path = self._folder / name
        real = Path(os.path.realpath(path))
        if not (real.is_relative_to(self._folder) and real.is_file()):
            raise _missing(str(path))
        return real


class RemoteStorage:
    """A snapshot in a store that fsspec reaches: one that has no folders but in the names of files, such as S3."""

    def __init__(self, url: str, protocol: str) -> None:
        self.url = url.rstrip("/")
        with _translated(url):
            try:
                # Others change the store too: nothing it says is remembered.
                self._files, self._root = fsspec.core.url_to_fs(
                    self.url, use_listings_cache=False, skip_instance_cache=True
                )
            except ImportError as error:
                wanted = _PIP_NAMES.get(protocol)
                advice = f"pip install {wanted}" if wanted else str(error)
                raise FailedPrecondition(
                    f"{protocol}:// needs a library that the server lacks: {advice}", field="url"
                ) from error
            except ValueError as error:
                raise FailedPrecondition(f"{url}: {error}", field="url") from error

    def manifest(self) -> bytes | None:
        """See SnapshotStorage."""
        with _translated(self.url), suppress(FileNotFoundError), self._files.open(self._path(MANIFEST_FILE)) as file:
            return _read_manifest(self.url, file)
        return None

    def commit(self, folder: str, manifest: bytes) -> None:  # noqa: ARG002
        """See SnapshotStorage."""
        with _translated(self.url):
            try:
                self._files.pipe_file(self._path(MANIFEST_FILE), manifest, mode="create")
            except Exception as error:
                # Stores say in many ways that a file exists, also of their own first try when they try twice.
                there = self.manifest()
                if there is None:
                    raise
                if there != manifest:
                    raise _exists(self.url) from error

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """See SnapshotStorage."""
        with _translated(self.url):
            file = self._files.open(self._path(name), "wb")
            try:
                for piece in pieces:
                    file.write(piece)
                file.close()
            except BaseException:
                _abandon(file)
                raise

    def read(self, name: str) -> Iterator[bytes]:
        """See SnapshotStorage."""
        with _translated(self.url):
            try:
                with self._files.open(self._path(name), "rb") as file:
                    yield from _pieces(file)
            except FileNotFoundError as error:
                raise _missing(f"{self.url}/{name}") from error

    def remove(self, folder: str) -> None:
        """See SnapshotStorage."""
        with _translated(self.url), suppress(FileNotFoundError):
            self._files.rm(self._path(folder), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _abandon(file: Any) -> None:  # noqa: ANN401 - fsspec has no types
    """Let go of a file that is half written. To close it would make the half appear."""
    if isinstance(file, AbstractBufferedFile):
        with suppress(Exception):  # an upload that can't be ended now expires by the store's own rules
            file.discard()
        file.closed = True
    else:
        file.close()


def _read_manifest(url: str, file: BinaryIO) -> bytes:
    data = file.read(_MAX_MANIFEST_BYTES + 1)
    if len(data) > _MAX_MANIFEST_BYTES:
        raise FailedPrecondition(f"{url}/{MANIFEST_FILE} has more than {_MAX_MANIFEST_BYTES:,} bytes")
    return data


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _exists(url: str) -> ServiceError:
    return AlreadyExists(f"there is a snapshot at {url} already", field="url")


def _missing(path: str) -> ServiceError:
    return FailedPrecondition(f"the snapshot is damaged: {path} is missing, or no file of its own")


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn what a file system or fsspec's libraries raise into an answer."""
    try:
        yield
    except (ServiceError, Stopped):
        raise
    except PermissionError as error:
        raise FailedPrecondition(f"the server may not use {url}: {error}", field="url") from error
    except Exception as error:  # each store has errors of its own
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"{url} has no room left: {error}") from error
        raise Unavailable(f"{url} can't be used now: {error!r}") from error
