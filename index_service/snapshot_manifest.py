"""What a snapshot.json says: the collection, and every file with its bytes and digest.

Owns its form, and the refusal of any other: one flipped byte, one name that leads elsewhere. Opens no file.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from index_service.catalog import CONFIG_FILES, is_collection_name
from index_service.shard import STORE_FILE
from index_service.vector_space import Metric, VectorSpace

_FORMAT = 1
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_FOLDER = re.compile(r"files-[0-9a-f]{32}")
_FILE = re.compile(
    "|".join(
        [
            *(re.escape(name) for name in CONFIG_FILES),
            r"shard-[0-9]{3}/" + re.escape(STORE_FILE),
            r"shard-[0-9]{3}/manifest\.json",
            r"shard-[0-9]{3}/segments/[0-9a-f]{32}/[a-z0-9][a-z0-9._-]{0,63}",
        ]
    )
)


class ManifestError(Exception):
    """A snapshot.json that can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a file holds."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardPoint:
    """The point of its write order at which a shard was copied."""

    applied_sequence: int
    record_count: int


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """All that a snapshot consists of."""

    collection: str
    space: VectorSpace
    create_time_ns: int
    """Nanoseconds since 1970-01-01 UTC."""
    shards: tuple[ShardPoint, ...]
    folder: str
    """Name of the folder that the files are in."""
    files: Mapping[str, FileDigest]
    """By path in that folder, which is the path in the collection's folder."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files.values())

    @property
    def record_count(self) -> int:
        """Records of all shards."""
        return sum(shard.record_count for shard in self.shards)

    def render(self) -> bytes:
        """The manifest as snapshot.json holds it."""
        return _render(
            {
                "format": _FORMAT,
                "collection": self.collection,
                "dimension": self.space.dimension,
                "fingerprint": self.space.fingerprint,
                "metric": self.space.metric.value,
                "create_time_ns": self.create_time_ns,
                "shards": [
                    {"applied_sequence": shard.applied_sequence, "record_count": shard.record_count}
                    for shard in self.shards
                ],
                "folder": self.folder,
                "files": {
                    name: {"bytes": file.size_bytes, "sha256": file.sha256} for name, file in sorted(self.files.items())
                },
            }
        )


def parse_manifest(data: bytes) -> SnapshotManifest:
    """What a snapshot.json says. Raises ManifestError unless it is, to the byte, what ``render`` wrote."""
    try:
        described = json.loads(data)["snapshot"]
        if described["format"] != _FORMAT:
            raise ManifestError(f"expected format {_FORMAT}, not {described['format']!r}")
        if _render(described) != data:
            raise ManifestError("it is not as it was written")
        manifest = SnapshotManifest(
            described["collection"],
            VectorSpace(described["dimension"], described["fingerprint"], Metric(described["metric"])),
            described["create_time_ns"],
            tuple(ShardPoint(shard["applied_sequence"], shard["record_count"]) for shard in described["shards"]),
            described["folder"],
            {name: FileDigest(file["bytes"], file["sha256"]) for name, file in described["files"].items()},
        )
        _check(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(f"it is no manifest: {error!r}") from error
    return manifest


def _check(manifest: SnapshotManifest) -> None:
    """Raise ManifestError for what no collection has, a name that could lead elsewhere, or files of other shards."""
    if not is_collection_name(manifest.collection):
        raise ManifestError(f"expected the name of a collection, not {manifest.collection!r}")
    if not _FINGERPRINT.fullmatch(manifest.space.fingerprint):
        raise ManifestError(f"expected 64 hexadecimal digits, not {manifest.space.fingerprint!r}")
    numbers = (
        manifest.space.dimension,
        manifest.create_time_ns,
        *(number for shard in manifest.shards for number in (shard.applied_sequence, shard.record_count)),
        *(file.size_bytes for file in manifest.files.values()),
    )
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ManifestError("expected numbers from 0 to 2^63 - 1")
    if not _FOLDER.fullmatch(manifest.folder):
        raise ManifestError(f"expected a folder like {_FOLDER.pattern}, not {manifest.folder!r}")
    for name in manifest.files:
        if not _FILE.fullmatch(name):
            raise ManifestError(f"expected the name of a file of a collection, not {name!r}")
    wanted = {f"shard-{number:03d}" for number in range(len(manifest.shards))}
    found = {name.partition("/")[0] for name in manifest.files if name.endswith(f"/{STORE_FILE}")}
    named = {name.partition("/")[0] for name in manifest.files if "/" in name}
    if not wanted or found != wanted or named != wanted:
        raise ManifestError(f"expected the files of {len(wanted)} shards, not of {sorted(found | named)}")


def _render(described: dict[str, Any]) -> bytes:
    text = json.dumps(described, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"sha256": digest, "snapshot": described}, indent=1, sort_keys=True).encode()
