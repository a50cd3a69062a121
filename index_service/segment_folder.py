"""The segments of one shard on disk, and the manifest that says which of them count.

Owns making them durable: a segment is written aside, synced and renamed before the manifest names it, with the digest
of each of its files. What the manifest does not name is a leftover; what is not as it says is damaged and put aside.
All of it can be rebuilt from the record store.

    SHARD/manifest.json                   the segments that count
    SHARD/segments/NAME/                  the files of one
    SHARD/segments/.writing-*             half written; removed when the shard is opened
    SHARD/quarantine/NAME/                damaged; kept for whoever wants to know why
"""

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Event, Lock
from typing import Any, BinaryIO

from index_service.fault_points import reach
from index_service.recipes import Build
from index_service.segment import Rows, Segment, write_segment
from index_service.vector_space import VectorSpace

MANIFEST_FILE = "manifest.json"
"""Name of the manifest in a shard's folder."""

SEGMENTS_FOLDER = "segments"
"""Name of the folder of segments in a shard's folder."""

_FORMAT = 1
_HASH_THREADS = 4
_SEGMENT_NAME = re.compile(r"[0-9a-f]{32}")
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_logger = logging.getLogger("eyebright.segments")


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the manifest says of a segment."""

    name: str
    files: dict[str, dict[str, Any]]
    """By name of the file, its bytes and sha256."""


class SegmentFolder:
    """The segments of one shard. Any thread may write some; which count is changed by one at a time."""

    def __init__(self, folder: Path, space: VectorSpace) -> None:
        self._folder = folder
        self._segments = folder / SEGMENTS_FOLDER
        self._manifest = folder / MANIFEST_FILE
        self._space = space
        self._entries: dict[str, _Entry] = {}
        self._withdrawn: set[str] = set()
        self._publishing = Lock()
        self._published: list[str] = []
        self._published_sequence = 0
        self._counting: list[str] = []
        """The same, but for a manifest that could not be made sure of."""

    def load(self, applied_sequence: int) -> list[Segment]:
        """Open the segments that the manifest names and that are as it says; put others aside and clear leftovers.

        Segments newer than the record store (``applied_sequence``), which then was put back from an older copy, don't
        count.
        """
        self._segments.mkdir(exist_ok=True)
        entries = self._read_manifest(applied_sequence)
        with ThreadPoolExecutor(_HASH_THREADS) as threads:
            opened = list(threads.map(self._open, entries))
        self._entries = {entry.name: entry for entry, segment in zip(entries, opened, strict=True) if segment}
        self._published, self._published_sequence = list(self._entries), applied_sequence
        self._counting = list(self._published)
        for leftover in self._segments.iterdir():
            if leftover.name not in self._entries:
                shutil.rmtree(leftover)
        return [segment for segment in opened if segment is not None]

    def write(self, rows: Rows, build: Build, stop: Event) -> Segment:
        """Make a segment, durably. It counts once it is published.

        Raises OSError, RuntimeError, or Interrupted once ``stop`` is set, and leaves nothing then.
        """
        name = uuid.uuid4().hex
        aside, place = self._segments / f".writing-{name}", self._segments / name
        aside.mkdir()
        try:
            reach("*.before_files")
            write_segment(aside, rows, self._space, build, stop)
            files = {path.name: _seal_file(path) for path in sorted(aside.iterdir())}
            sync_folder(aside)
            reach("*.before_rename")
            aside.rename(place)
            reach("*.after_rename")
            sync_folder(self._segments)
            segment = Segment(name, place, self._space)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(place, ignore_errors=True)
            raise
        self._entries[name] = _Entry(name, files)
        return segment

    def publish(self, added: Sequence[Segment], removed: Sequence[Segment], applied_sequence: int) -> None:
        """Let some segments count from now on and others no longer, and remove those. Any thread may call it.

        Raises OSError: which of the two manifests is on disk is not known then, and all files are there for either.
        """
        gone = {segment.name for segment in removed}
        with self._publishing:
            names = [name for name in self._counting if name not in gone] + [segment.name for segment in added]
            aside = self._manifest.with_suffix(".writing")
            reach("*.before_manifest")
            with aside.open("wb") as file:
                file.write(self._describe(names, applied_sequence))
                file.flush()
                os.fsync(file.fileno())
            reach("*.before_manifest_rename")
            aside.replace(self._manifest)
            self._published, self._published_sequence = names, applied_sequence
            reach("*.after_manifest_rename")
            sync_folder(self._folder)
            reach("*.before_removal")
            self._counting = names
            for name in (gone | self._withdrawn) & set(self._entries) - set(names):
                self.discard(name)

    def hold(self, held: ExitStack) -> dict[str, BinaryIO]:
        """Open the files that count and a manifest of them, by path in the shard's folder.

        They can be read until ``held`` is closed, whatever is removed meanwhile. Any thread may call it.
        Raises OSError.
        """
        with self._publishing:
            if not self._published:
                return {}
            manifest: BinaryIO = BytesIO(self._describe(self._published, self._published_sequence))
            files = {
                f"{SEGMENTS_FOLDER}/{name}/{file}": held.enter_context((self._segments / name / file).open("rb"))
                for name in self._published
                for file in self._entries[name].files
            }
        return {MANIFEST_FILE: manifest} | files

    def withdraw(self, segment: Segment) -> None:
        """Remove a segment that could not be published; not before another try while the manifest may name it."""
        with self._publishing:
            self._withdrawn.add(segment.name)
            for name in self._withdrawn - set(self._published):
                self.discard(name)

    def discard(self, name: str) -> None:
        """Remove the files of a segment that does not count. Searches that still read it go on: they hold it mapped."""
        del self._entries[name]
        self._withdrawn.discard(name)
        shutil.rmtree(self._segments / name, ignore_errors=True)

    def names(self) -> list[str]:
        """Of all segments that are there, counting or not."""
        return list(self._entries)

    @property
    def disk_bytes(self) -> int:
        """Bytes of all segments' files."""
        return sum(file["bytes"] for entry in list(self._entries.values()) for file in entry.files.values())

    def _describe(self, names: Sequence[str], applied_sequence: int) -> bytes:
        """The manifest of these segments."""
        segments = [{"name": name, "files": self._entries[name].files} for name in names]
        described = {"format": _FORMAT, "applied_sequence": applied_sequence, "segments": segments}
        return json.dumps(described, indent=1).encode()

    def _read_manifest(self, applied_sequence: int) -> list[_Entry]:
        try:
            described = json.loads(self._manifest.read_text("utf-8"))
            if described["format"] != _FORMAT:
                raise ValueError(f"expected format {_FORMAT}, not {described['format']}")
            if described["applied_sequence"] > applied_sequence:
                newest = described["applied_sequence"]
                raise ValueError(f"expected at most {applied_sequence} writes, the record store's, not {newest}")
            return [_checked(_Entry(entry["name"], dict(entry["files"]))) for entry in described["segments"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            _logger.warning("manifest not used", extra={"path": str(self._manifest), "reason": str(error)})
            return []

    def _open(self, entry: _Entry) -> Segment | None:
        folder = self._segments / entry.name
        try:
            for name, expected in entry.files.items():
                found = _describe(folder / name)
                if found != expected:
                    raise ValueError(f"{name}: expected {expected}, not {found}")
            return Segment(entry.name, folder, self._space)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            _logger.error("segment damaged", extra={"path": str(folder), "reason": str(error)})
            quarantine = self._folder / "quarantine"
            quarantine.mkdir(exist_ok=True)
            if folder.exists():
                folder.rename(quarantine / f"{entry.name}-{uuid.uuid4().hex[:8]}")
            return None


def _checked(entry: _Entry) -> _Entry:
    """The entry. Raises ValueError for a name that could lead out of the segments' folder."""
    for name, form in ((entry.name, _SEGMENT_NAME), *((file, _FILE_NAME) for file in entry.files)):
        if not form.fullmatch(name):
            raise ValueError(f"expected a name like {form.pattern}, not {name!r}")
    return entry


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal_file(path: Path) -> dict[str, Any]:
    """Sync a file and describe it."""
    reach("*.before_sync")
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return _describe(path)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}
