"""Checksums of what a record store holds, to tell a record that a failing disk has changed from one that was written.

Owns what is covered and how; SQLite itself notices damage to its own structure alone. Knows no file.
"""

import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import lt


def text_checksum(
    row: int, record_id: str, caption: str | None, source_uri: str | None, metadata_json: bytes | None
) -> int:
    """Of a record but for its vector. Two records may share one by the way they are put together; damage won't."""
    return zlib.crc32(f"{record_id}\0{caption}\0{source_uri}".encode(), zlib.crc32(metadata_json or b"", row))


def vector_checksums(rows: Sequence[int], vectors: Sequence[bytes]) -> Iterator[int]:
    """Of each record's vector."""
    return map(zlib.crc32, vectors, rows)


def ids_checksum(rows: Sequence[int], ids: Sequence[str]) -> int:
    """Of a set of records' ids and rows, in any order; that of two sets together is the sum of both."""
    return sum(map(zlib.crc32, map(str.encode, ids), rows))


def state_checksum(dimension: int, applied_sequence: int, next_row: int, ids: int) -> int:
    """Of what a store says of itself."""
    return zlib.crc32(f"{dimension} {applied_sequence} {next_row} {ids}".encode())


def ascend(ids: Sequence[str]) -> bool:
    """Whether each id comes after the one before, by the bytes of their UTF-8."""
    return all(lt(one, other) for one, other in pairwise(ids))
