import json

import pytest

from index_service.metadata import MAX_METADATA_BYTES, MAX_METADATA_DEPTH, MetadataError, check_metadata


def nested(levels: int) -> bytes:
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b' {"a": [1, 2.5, "x", null, true]} ',
        b'{"id": 9007199254740993, "most": -' + b"9" * 4_300 + b"}",
        b'{"digits of a fraction": 0.' + b"9" * 10_000 + b', "digits in text": "' + b"9" * 10_000 + b'"}',
        '{"käfer": "🐞"}'.encode(),
        nested(MAX_METADATA_DEPTH),
        b'{"brackets in text": "' + b"[{" * 100 + b'\\"' + b"[" * 100 + b'"}',
        b'{"wide": [' + b",".join([b"{}"] * 100) + b"]}",
        b'{"a":"' + b"x" * (MAX_METADATA_BYTES - 8) + b'"}',
    ],
    ids=["empty", "mixed", "long integers", "digits", "unicode", "deepest", "brackets in text", "wide", "largest"],
)
def test_sound_metadata_passes_and_can_be_read(data: bytes) -> None:
    check_metadata(data)
    json.loads(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (nested(MAX_METADATA_DEPTH + 1), "at most 32 levels, not 33"),
        (nested(1_000), "at most 32 levels, not 1000"),
        (b"[" * MAX_METADATA_BYTES, f"at most 32 levels, not {MAX_METADATA_BYTES}"),
        (nested(100_000), "bytes, not 599996"),
        (
            b'{"a":"' + b"x" * (MAX_METADATA_BYTES - 7) + b'"}',
            f"{MAX_METADATA_BYTES} bytes, not {MAX_METADATA_BYTES + 1}",
        ),
        (b'{"a": NaN}', "not NaN"),
        (b'{"a": [Infinity]}', "not Infinity"),
        (b'{"a": -Infinity}', "not -Infinity"),
        (b'{"a": [1, ' + b"9" * 4_301 + b"]}", "integers of at most 4300 digits, not 4301"),
        (b'{"a": -' + b"1" * 10_000 + b"}", "integers of at most 4300 digits, not 10000"),
        (b"[1]", "not a list"),
        (b'"text"', "not a string"),
        (b"12", "not a number"),
        (b"null", "not null"),
        (b"true", "not a boolean"),
        (b"{'a': 1}", "character 1"),
        (b'{"a": 1} x', "Extra data"),
        (b" ", "character 1"),
        (b'{"a": "\xff"}', "byte 0xff at 7"),
        ('{"a": 1}'.encode("utf-16"), "expected UTF-8"),
        ("\ufeff{}".encode(), "BOM"),
    ],
)
def test_broken_metadata_is_refused_with_the_reason(data: bytes, message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        check_metadata(data)


@pytest.mark.parametrize("piece", [b'\\"', b'"', b"\\", b'{"'], ids=["escapes", "quotes", "backslashes", "objects"])
def test_the_depth_scan_passes_over_each_byte_once(piece: bytes) -> None:
    """A scan that began again at each quote would take longer than the test's time limit."""
    data = (b'{"a":"' + b"[" * 40 + piece * MAX_METADATA_BYTES)[:MAX_METADATA_BYTES]
    for _ in range(20):
        with pytest.raises(MetadataError):
            check_metadata(data)
