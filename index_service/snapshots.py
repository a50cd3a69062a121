"""Snapshots: whole copies of collections, and collections made from them.

Owns the order in which a copy is taken so that it is of one moment of each shard, what must be true before a restored
collection counts, and the removal of what was left half done.

    DATA_FOLDER/snapshotting/files-*/target.json        where a snapshot under way is written to
    DATA_FOLDER/snapshotting/files-*/records.sqlite     a copy of one shard's records, on its way there
"""

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import BinaryIO

from index_service.catalog import Catalog, disk_error, shard_folder
from index_service.collection import Collection
from index_service.fault_points import reach
from index_service.record_store import RecordStore, StoreError, StoreInterrupted
from index_service.segment_folder import sync_folder
from index_service.shard import STORE_FILE
from index_service.snapshot_manifest import FileDigest, ManifestError, ShardPoint, SnapshotManifest, parse_manifest
from index_service.snapshot_storage import MANIFEST_FILE, PIECE_BYTES, SnapshotStorage, open_storage
from index_service.snapshot_task import MeasuredPieces, Phase, Stopped, Task
from index_service.snapshot_urls import is_allowed, parse_snapshot_url
from service_runtime.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceError,
)

_TARGET_FILE = "target.json"

_logger = logging.getLogger("eyebright.snapshots")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that is complete."""

    url: str
    manifest: SnapshotManifest


class Snapshots:
    """Makes snapshots of a catalog's collections, and collections of snapshots. Any thread may call it."""

    def __init__(self, catalog: Catalog, data_folder: Path, allowed_urls: Sequence[str]) -> None:
        """Nothing outside of ``allowed_urls`` is read or written. Removes, in a thread, what a crash has left."""
        self._catalog = catalog
        self._allowed_urls = allowed_urls
        self._collections_url = parse_snapshot_url(str((data_folder / "collections").absolute()))
        self._working = data_folder / "snapshotting"
        leftovers = sorted(self._working.iterdir()) if self._working.exists() else []
        if leftovers:
            Thread(target=self._sweep, args=(leftovers,), name="snapshot-sweep", daemon=True).start()

    def create(self, name: str, url: str, task: Task) -> Snapshot:
        """Copy a collection to a URL while reads and writes go on. It holds all that was written before the call.

        Raises ServiceError, or Stopped soon after ``task`` was told to stop; then what was written is removed.
        """
        collection = self._catalog.get(name)
        storage = self._open(url)
        if storage.manifest() is not None:
            raise AlreadyExists(f"there is a snapshot at {url} already", field="url")
        folder = f"files-{uuid.uuid4().hex}"
        work = self._working / folder
        try:
            work.mkdir(parents=True)
            (work / _TARGET_FILE).write_text(json.dumps({"url": url}), "utf-8")
            reach("snapshot.before_copy")
            manifest = self._copy(collection, storage, work, task)
            task.check()
            reach("snapshot.before_manifest")
            storage.commit(folder, manifest.render())
        except BaseException as error:
            _discard(storage, work)
            if isinstance(error, StoreInterrupted):
                raise Stopped from error
            if isinstance(error, OSError):
                raise disk_error(f"collection {name!r} can't be copied", error) from error
            raise
        reach("snapshot.complete")
        shutil.rmtree(work, ignore_errors=True)
        task.phase = Phase.DONE
        return Snapshot(url, manifest)

    def restore(self, url: str, name: str, expected_fingerprint: str, task: Task) -> tuple[Collection, Snapshot]:
        """Make a collection from a snapshot; ``name`` empty means the name it was made of.

        ``expected_fingerprint`` empty means any. Raises ServiceError, or Stopped soon after ``task`` was told to stop;
        then nothing is left.
        """
        storage = self._open(url)
        manifest = _read_manifest(storage)
        fingerprint = manifest.space.fingerprint
        if expected_fingerprint and fingerprint != expected_fingerprint:
            raise FailedPrecondition(
                f"expected fingerprint {expected_fingerprint}, the snapshot has {fingerprint}",
                field="expected_fingerprint",
            )
        name = name or manifest.collection
        self._catalog.refuse_existing(name, "collection")
        made = self._catalog.folder_aside(name)
        try:
            made.mkdir()
            reach("restore.before_files")
            _check_room(made, manifest)
            task.bytes_total = manifest.size_bytes
            task.phase = Phase.TRANSFERRING
            for file, expected in manifest.files.items():
                _fetch(storage, f"{manifest.folder}/{file}", made / file, expected, task)
            reach("restore.before_opening")
            task.phase = Phase.OPENING
            _check_stores(storage, made, manifest)
            for inner, _, _ in os.walk(made):
                sync_folder(Path(inner))
            task.check()
            collection = self._catalog.adopt(name, made, manifest.space, len(manifest.shards))
        except (OSError, StoreError) as error:
            shutil.rmtree(made, ignore_errors=True)
            raise disk_error(f"collection {name!r} can't be created", error) from error
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        task.phase = Phase.DONE
        return collection, Snapshot(storage.url, manifest)

    def _open(self, url: str) -> SnapshotStorage:
        """The storage at a URL. Raises InvalidArgument or FailedPrecondition unless the operator allows it."""
        if not self._allowed_urls:
            raise FailedPrecondition(
                "this server makes and restores no snapshots: its setting snapshot_urls names no place for them",
                field="url",
            )
        try:
            parsed = parse_snapshot_url(url)
        except ValueError as error:
            raise InvalidArgument(str(error), field="url") from error
        if not is_allowed(parsed, self._allowed_urls) or parsed.lies_in(self._collections_url):
            raise FailedPrecondition(
                f"expected a place in one of the server's snapshot_urls ({', '.join(self._allowed_urls)}), not {url}",
                field="url",
            )
        return open_storage(url, parsed)

    def _copy(self, collection: Collection, storage: SnapshotStorage, work: Path, task: Task) -> SnapshotManifest:
        """Write all files of a collection to a folder of the storage that is called as ``work`` is."""
        begun = time.time_ns()
        folder = work.name
        files: dict[str, FileDigest] = {}
        shards: list[ShardPoint] = []
        estimates = [shard.disk_bytes for shard in collection.stats()]
        task.bytes_total = sum(estimates)
        for name, data in self._catalog.config_files(collection.spec.name).items():
            task.bytes_total += len(data)
            files[name] = _put(storage, f"{folder}/{name}", BytesIO(data), task)
        for number, (shard, estimate) in enumerate(zip(collection.shards, estimates, strict=True)):
            task.check()
            task.phase = Phase.COPYING
            aside = work / STORE_FILE
            with shard.copied(aside, task.stopped) as copy:
                reach("snapshot.records_copied")
                task.phase = Phase.TRANSFERRING
                task.bytes_total += sum(_size_bytes(file) for file in copy.files.values()) - estimate
                for path, file in copy.files.items():
                    name = f"shard-{number:03d}/{path}"
                    files[name] = _put(storage, f"{folder}/{name}", file, task)
                shards.append(ShardPoint(copy.applied_sequence, copy.record_count))
            aside.unlink()
        spec = collection.spec
        return SnapshotManifest(spec.name, spec.space, begun, tuple(shards), folder, files)

    def _sweep(self, leftovers: Sequence[Path]) -> None:
        """Remove what snapshots that a crash ended have left here and at their URLs."""
        for work in leftovers:
            try:
                url = str(json.loads((work / _TARGET_FILE).read_text("utf-8"))["url"])
                storage = self._open(url)
            except (OSError, ValueError, KeyError, TypeError, ServiceError) as error:
                _logger.warning("leftover's place not looked at", extra={"folder": str(work), "reason": str(error)})
                shutil.rmtree(work, ignore_errors=True)
            else:
                _discard(storage, work)
                _logger.info("leftover of a snapshot removed", extra={"url": url})


def _discard(storage: SnapshotStorage, work: Path) -> None:
    """Remove the files of a snapshot, unless it is complete, and what is noted of it; if not now, at the next start."""
    (work / STORE_FILE).unlink(missing_ok=True)
    try:
        manifest = storage.manifest()
        if manifest is None or work.name.encode() not in manifest:
            storage.remove(work.name)
    except ServiceError as error:
        _logger.warning("files are left", extra={"url": f"{storage.url}/{work.name}", "reason": error.message})
        return
    shutil.rmtree(work, ignore_errors=True)


def _read_manifest(storage: SnapshotStorage) -> SnapshotManifest:
    data = storage.manifest()
    if data is None:
        raise NotFound(f"there is no snapshot at {storage.url}", field="url")
    try:
        return parse_manifest(data)
    except ManifestError as error:
        raise _damaged(storage, MANIFEST_FILE, str(error)) from error


def _check_room(folder: Path, manifest: SnapshotManifest) -> None:
    free = shutil.disk_usage(folder).free
    if manifest.size_bytes > free:
        raise ResourceExhausted(f"the snapshot has {manifest.size_bytes:,} bytes, the server's disk {free:,} free ones")


def _check_stores(storage: SnapshotStorage, folder: Path, manifest: SnapshotManifest) -> None:
    """Raise FailedPrecondition unless each shard's records open, and are of the manifest's dimension and point."""
    for number, point in enumerate(manifest.shards):
        path = shard_folder(folder, number) / STORE_FILE
        name = f"{manifest.folder}/{path.relative_to(folder)}"
        try:
            with closing(RecordStore(path, manifest.space.dimension)) as store:
                sequence = store.applied_sequence()
        except StoreError as error:
            raise _damaged(storage, name, str(error)) from error
        if sequence != point.applied_sequence:
            raise _damaged(storage, name, f"expected {point.applied_sequence} write batches, not {sequence}")


def _put(storage: SnapshotStorage, name: str, source: BinaryIO, task: Task) -> FileDigest:
    pieces = MeasuredPieces(_pieces(source), task)
    storage.write(name, pieces)
    return pieces.digest()


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """The pieces of a file of this server. Raises ServiceError."""
    try:
        while piece := file.read(PIECE_BYTES):
            yield piece
    except OSError as error:
        raise disk_error("the collection can't be read", error) from error


def _fetch(storage: SnapshotStorage, name: str, path: Path, expected: FileDigest, task: Task) -> None:
    """Read a file into a new one, durably. Raises FailedPrecondition when it is not as expected."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces = MeasuredPieces(storage.read(name), task)
    reach("restore.before_file")
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
            if pieces.size_bytes > expected.size_bytes:
                break
        file.flush()
        os.fsync(file.fileno())
    if pieces.digest() != expected:
        raise _damaged(storage, name, f"expected {expected}, not {pieces.digest()}")


def _size_bytes(file: BinaryIO) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _damaged(storage: SnapshotStorage, name: str, reason: str) -> ServiceError:
    return FailedPrecondition(f"the snapshot is damaged: {storage.url}/{name}: {reason}")
