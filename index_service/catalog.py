"""The collections on disk: which there are, made and removed so that a crash leaves no half of one.

Owns the data folder: its lock, its layout and each collection's description.

    DATA_FOLDER/
      lock                                held by the one process that uses the folder
      collections/NAME/collection.json    what is fixed at creation
      collections/NAME/index.json         how it is indexed; may change later
      collections/NAME/queries.npz        some recent queries; can be done without
      collections/NAME/tuning.npz         the tuning that a restart begins again
      collections/NAME/tuning/            indexes while they are measured; removed when the service starts
      collections/NAME/shard-000/         a shard's own files
      collections/.creating-*             half made; removed when the folder is opened
      collections/.deleting-*             half removed; removed when the folder is opened
      snapshotting/                       what snapshots under way need; theirs to clear
"""

import errno
import fcntl
import logging
import os
import re
import resource
import shutil
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import IO, Any

from index_service import checked_json
from index_service.collection import Collection, CollectionSpec
from index_service.compaction import DEFAULT_POLICY, Policy
from index_service.fault_points import during, reach
from index_service.index_config import CONFIG_FILE, UNCONFIGURED, IndexConfig, read_config, write_config
from index_service.metrics import IndexMetrics
from index_service.query_reservoir import CAPACITY, QUERIES_FILE, QueryReservoir
from index_service.recall_probe import RecallProbe
from index_service.record_store import StoreError, StoreFull
from index_service.segment_folder import sync_folder
from index_service.shard import Shard
from index_service.state_metrics import CollectionState
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers
from service_runtime.errors import AlreadyExists, NotFound, ResourceExhausted, ServiceError, Unavailable

CONFIG_FILES = (CONFIG_FILE,)
"""Files beside collection.json that belong to a collection; those of 0.1.0 have none."""

_FORMAT = 1
_NAMES_UNCHECKED = frozenset({"format", "name", "dimension", "fingerprint", "metric", "shard_count", "create_time_ns"})
"""What collection.json holds in 0.1.0."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_LEFTOVER_PREFIXES = (".creating-", ".deleting-")
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)

_logger = logging.getLogger("eyebright.catalog")


class DataFolderError(Exception):
    """The data folder can't be used; the message says why, in one line."""


class Catalog:
    """The collections of one data folder. Any thread may call it."""

    def __init__(
        self,
        folder: Path,
        workers: Workers,
        metrics: IndexMetrics,
        policy: Policy = DEFAULT_POLICY,
        *,
        probe: RecallProbe | None = None,
        recorded_queries: int = CAPACITY,
    ) -> None:
        """Lock the folder, clear what a crash left, and open every collection. Raises DataFolderError.

        ``policy`` holds for every collection, but for how its segments are built.
        """
        self._folder = folder / "collections"
        self._workers = workers
        self._metrics = metrics
        self._policy = policy
        self._probe = probe
        self._recorded_queries = recorded_queries
        self._changing = Lock()
        self._collections: dict[str, Collection] = {}
        _raise_open_file_limit()
        try:
            new = not folder.exists()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder / "lock")
            sync_folder(folder)
            if new:
                sync_folder(folder.absolute().parent)
        except OSError as error:
            raise DataFolderError(f"the data folder {folder} can't be used: {error}") from error
        try:
            self._open_all()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every collection and let go of the folder."""
        with self._changing:
            for collection in self._collections.values():
                collection.close()
            self._collections = {}
            self._lock.close()

    def get(self, name: str) -> Collection:
        """The collection of this name. Raises NotFound."""
        collection = self._collections.get(name)
        if collection is None:
            raise NotFound(f"there is no collection {name!r}")
        return collection

    def shards(self) -> list[Shard]:
        """Every shard of every collection."""
        return [shard for collection in self._collections.values() for shard in collection.shards]

    def reservoirs(self) -> list[QueryReservoir]:
        """The recent queries of every collection."""
        return [collection.queries for collection in self._collections.values()]

    def states(self) -> list[CollectionState]:
        """How large every collection is."""
        return [
            CollectionState(collection.spec.name, collection.stats(), collection.config.recall_target)
            for collection in self._collections.values()
        ]

    def queued_writes(self) -> int:
        """Writes that wait for the commit before theirs."""
        return sum(shard.queued_writes for shard in self.shards())

    def by_name(self) -> list[Collection]:
        """All collections, in the order of their names."""
        return [collection for _, collection in sorted(self._collections.items())]

    def create(self, name: str, space: VectorSpace, shard_count: int, config: IndexConfig = UNCONFIGURED) -> Collection:
        """Make an empty collection, durably. Raises AlreadyExists, ResourceExhausted (disk full) or Unavailable."""
        with self._changing:
            self.refuse_existing(name)
            spec = CollectionSpec(name, space, shard_count, time.time_ns())
            made = self.folder_aside(name)
            try:
                made.mkdir()
                reach("create.before_shards")
                _write_shards(made, spec)
                write_config(made, config)
                with during("create"):
                    return self._take(made, spec)
            except (OSError, StoreError) as error:
                shutil.rmtree(made, ignore_errors=True)
                raise disk_error(f"collection {name!r} can't be created", error) from error

    def folder_aside(self, name: str) -> Path:
        """Where a collection can be made before it counts; what a crash leaves there is removed at the next start."""
        return self._folder / f".creating-{name}-{uuid.uuid4().hex}"

    def adopt(self, name: str, made: Path, space: VectorSpace, shard_count: int) -> Collection:
        """Let a folder count that lies aside and durably holds every shard; it is removed when that fails.

        Raises AlreadyExists, OSError or StoreError.
        """
        with self._changing:
            try:
                self.refuse_existing(name, "collection")
                with during("restore"):
                    return self._take(made, CollectionSpec(name, space, shard_count, time.time_ns()))
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise

    def config_files(self, name: str) -> dict[str, bytes]:
        """What a collection keeps beside its description, by the file's name."""
        paths = [self._folder / name / file for file in CONFIG_FILES]
        return {path.name: path.read_bytes() for path in paths if path.exists()}

    def refuse_existing(self, name: str, field: str = "name") -> None:
        """Raise AlreadyExists, naming the field of the request, when the name is in use."""
        if name in self._collections:
            raise AlreadyExists(f"there is a collection {name!r} already", field=field)

    def delete(self, name: str) -> None:
        """Remove a collection and everything in it.

        Raises NotFound, or ResourceExhausted or Unavailable when its folder can't be moved; then it is there as before.
        """
        with self._changing:
            collection = self.get(name)
            self._collections = {known: other for known, other in self._collections.items() if known != name}
            collection.close()
            aside = self._folder / f".deleting-{name}-{uuid.uuid4().hex}"
            try:
                reach("delete.before_rename")
                (self._folder / name).rename(aside)
                reach("delete.after_rename")
                sync_folder(self._folder)
            except OSError as error:
                if aside.exists():
                    aside.rename(self._folder / name)
                self._collections = {**self._collections, name: self._open(collection.spec)}
                raise disk_error(f"collection {name!r} can't be deleted", error) from error
            shutil.rmtree(aside, ignore_errors=True)

    def _take(self, made: Path, spec: CollectionSpec) -> Collection:
        """Describe a folder of shards, move it to its place and open it. Raises OSError or StoreError, and leaves no
        collection then.
        """
        reach("*.before_description")
        _write_description(made, spec)
        reach("*.before_rename")
        place = made.rename(self._folder / spec.name)
        try:
            reach("*.after_rename")
            sync_folder(self._folder)
            collection = self._open(spec)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        self._collections = {**self._collections, spec.name: collection}
        return collection

    def _open_all(self) -> None:
        specs: list[CollectionSpec] = []
        for folder in sorted(self._folder.iterdir()):
            if folder.name.startswith(_LEFTOVER_PREFIXES):
                shutil.rmtree(folder)
                _logger.info("leftover removed", extra={"folder": str(folder)})
            elif folder.is_dir():
                specs.append(_read_spec(folder))
        for spec in specs:
            try:
                self._collections[spec.name] = self._open(spec)
            except (StoreError, OSError) as error:
                raise DataFolderError(f"collection {spec.name!r} can't be opened: {error}") from error

    def _open(self, spec: CollectionSpec) -> Collection:
        """Open all shards side by side; each loads its vectors. Raises StoreError."""
        folder = self._folder / spec.name
        config = read_config(folder)
        policy = replace(self._policy, build=config.build_in_force)

        def open_shard(number: int) -> Shard:
            name = f"shard {number} of collection {spec.name!r}"
            return Shard(shard_folder(folder, number), name, spec.space, self._metrics, policy)

        with ThreadPoolExecutor(min(spec.shard_count, 8)) as openers:
            futures = [openers.submit(open_shard, number) for number in range(spec.shard_count)]
        failed = [error for future in futures if (error := future.exception()) is not None]
        if failed:
            for future in futures:
                if future.exception() is None:
                    future.result().close()
            raise failed[0]
        shards = [future.result() for future in futures]
        queries = QueryReservoir(folder / QUERIES_FILE, spec.space, self._recorded_queries)
        return Collection(spec, shards, config, folder, self._workers, self._metrics, queries, self._probe)


def is_collection_name(name: str) -> bool:
    """Whether a collection may be called this; a name is a folder's name too."""
    return _NAME.fullmatch(name) is not None


def _lock(path: Path) -> IO[bytes]:
    """Open the file and hold its lock until it is closed. Raises DataFolderError when another process holds it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DataFolderError(f"the data folder {path.parent} is in use by another process") from None
    return file


def disk_error(what: str, error: OSError | StoreError) -> ServiceError:
    """The answer to a caller whose wish the disk refused; ``what`` says which."""
    message = f"{what}: {error}"
    full = isinstance(error, StoreFull) or getattr(error, "errno", None) in _FULL_ERRNOS
    return ResourceExhausted(message) if full else Unavailable(message)


def _write_shards(folder: Path, spec: CollectionSpec) -> None:
    """Write empty shards to a folder, and everything of them to disk."""
    for number in range(spec.shard_count):
        own = shard_folder(folder, number)
        own.mkdir()
        Shard.create(own, spec.space.dimension)
        reach("create.shard_written")
        sync_folder(own)


def _write_description(folder: Path, spec: CollectionSpec) -> None:
    """Write collection.json, durably."""
    with (folder / "collection.json").open("w", encoding="utf-8") as file:
        file.write(checked_json.render(_describe(spec)))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def _describe(spec: CollectionSpec) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "name": spec.name,
        "dimension": spec.space.dimension,
        "fingerprint": spec.space.fingerprint,
        "metric": spec.space.metric.value,
        "shard_count": spec.shard_count,
        "create_time_ns": spec.create_time_ns,
    }


def _read_spec(folder: Path) -> CollectionSpec:
    """The description of a collection. Raises DataFolderError when it is missing, damaged or of another format."""
    path = folder / "collection.json"
    try:
        described = checked_json.parse(path.read_text("utf-8"), unchecked=_NAMES_UNCHECKED)
        if described["format"] != _FORMAT:
            raise DataFolderError(f"{path}: expected format {_FORMAT}, not {described['format']}")
        if described["name"] != folder.name:
            raise DataFolderError(f"{path}: expected the name {folder.name!r}, not {described['name']!r}")
        space = VectorSpace(described["dimension"], described["fingerprint"], Metric(described["metric"]))
        return CollectionSpec(folder.name, space, described["shard_count"], described["create_time_ns"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFolderError(f"{path} is missing or damaged: {error!r}") from error


def shard_folder(folder: Path, number: int) -> Path:
    """Where a collection's folder holds a shard."""
    return folder / f"shard-{number:03d}"


def _raise_open_file_limit() -> None:
    """Take all the open files the system allows: each shard holds about ten."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
