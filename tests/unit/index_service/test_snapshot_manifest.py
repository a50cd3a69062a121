import json
import re
from dataclasses import replace

import pytest

from index_service.snapshot_manifest import FileDigest, ManifestError, ShardPoint, SnapshotManifest, parse_manifest
from index_service.vector_space import Metric, VectorSpace

SEGMENT = "shard-001/segments/" + "0a" * 16
FILES = {
    name: FileDigest(size, "ef" * 32)
    for size, name in enumerate(
        [
            "index.json",
            "shard-000/records.sqlite",
            "shard-001/records.sqlite",
            "shard-001/manifest.json",
            f"{SEGMENT}/vectors.faiss",
            f"{SEGMENT}/id-ends.u64",
        ],
        1,
    )
}
MANIFEST = SnapshotManifest(
    "pets",
    VectorSpace(7, "ab" * 32, Metric.L2),
    1_234_567_890_123_456_789,
    (ShardPoint(3, 40), ShardPoint(0, 0)),
    "files-" + "1c" * 16,
    FILES,
)


def test_what_is_rendered_is_read_again() -> None:
    again = parse_manifest(MANIFEST.render())
    assert again == MANIFEST
    assert (again.size_bytes, again.record_count) == (21, 40)


def test_no_byte_of_it_can_change_unnoticed() -> None:
    data = MANIFEST.render()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(ManifestError):
            parse_manifest(bytes(changed))
    for end in range(0, len(data), 7):
        with pytest.raises(ManifestError):
            parse_manifest(data[:end])
    with pytest.raises(ManifestError):
        parse_manifest(data + b"\n")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "shard-000/../../x",
        "shard-000/records.sqlite/../x",
        "shard-000/./records.sqlite",
        "shard-000/records.sqlite-wal",
        "shard-000/segments/../x",
        "shard-000/segments/" + "0a" * 16 + "/../x",
        "shard-000/segments/" + "0a" * 16 + "/.hidden",
        "collection.json",
        "lock",
        "index.json\n",
        "",
    ],
)
def test_a_name_that_is_no_file_of_a_collection_is_refused(name: str) -> None:
    with pytest.raises(ManifestError, match="expected the name of a file"):
        parse_manifest(replace(MANIFEST, files={**FILES, name: FileDigest(1, "00" * 32)}).render())


@pytest.mark.parametrize(
    "folder", ["..", "", ".", "/etc", "files-1", "files-" + "1c" * 16 + "/..", "files-" + "1C" * 16]
)
def test_a_folder_of_another_name_is_refused(folder: str) -> None:
    with pytest.raises(ManifestError, match="expected a folder like"):
        parse_manifest(replace(MANIFEST, folder=folder).render())


@pytest.mark.parametrize(
    "changed",
    [
        replace(MANIFEST, shards=()),
        replace(MANIFEST, shards=MANIFEST.shards[:1]),
        replace(MANIFEST, shards=(*MANIFEST.shards, ShardPoint(0, 0))),
        replace(MANIFEST, files={name: file for name, file in FILES.items() if "shard-000" not in name}),
        replace(MANIFEST, files={}),
        replace(MANIFEST, files={**FILES, "shard-002/manifest.json": FileDigest(1, "00" * 32)}),
    ],
    ids=["no shards", "fewer", "more", "no records", "no files", "a shard too many"],
)
def test_files_must_be_those_of_its_shards(changed: SnapshotManifest) -> None:
    with pytest.raises(ManifestError, match="expected the files of"):
        parse_manifest(changed.render())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (replace(MANIFEST, collection="../../x"), "expected the name of a collection, not '../../x'"),
        (replace(MANIFEST, collection=""), "expected the name of a collection, not ''"),
        (replace(MANIFEST, collection=7), "it is no manifest"),  # type: ignore[arg-type]
        (replace(MANIFEST, space=VectorSpace(7, "/x", Metric.L2)), "expected 64 hexadecimal digits, not '/x'"),
        (replace(MANIFEST, space=VectorSpace("7", "ab" * 32, Metric.L2)), "expected numbers"),  # type: ignore[arg-type]
        (replace(MANIFEST, space=VectorSpace(True, "ab" * 32, Metric.L2)), "expected numbers"),
        (replace(MANIFEST, create_time_ns=2**63), "expected numbers"),
        (replace(MANIFEST, create_time_ns=-1), "expected numbers"),
        (replace(MANIFEST, files={**FILES, "index.json": FileDigest(None, "")}), "expected numbers"),  # type: ignore[arg-type]
    ],
)
def test_what_no_collection_has_is_refused(changed: SnapshotManifest, message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(message)):
        parse_manifest(changed.render())


def test_another_format_is_named() -> None:
    described = json.loads(MANIFEST.render())
    described["snapshot"]["format"] = 2
    with pytest.raises(ManifestError, match="expected format 1, not 2"):
        parse_manifest(json.dumps(described).encode())


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b'{"snapshot": []}', b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(data)
