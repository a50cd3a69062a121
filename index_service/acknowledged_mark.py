"""How far a shard's writes were acknowledged, noted beside its store.

SQLite reads its write-ahead log up to the first frame that is damaged and takes the rest for what a crash cut off: of a
log that lost acknowledged writes it says nothing. The mark does. It is written after the write is on disk and never
made durable itself, so that it costs nothing, survives the death of the process, and after a loss of power may be older
than the store but never newer.

Owns that file. Knows no store.
"""

import os
import zlib
from contextlib import suppress
from pathlib import Path

_SEQUENCE_BYTES = 8
_CHECKSUM_BYTES = 4


class AcknowledgedMark:
    """The mark of one store. One thread at a time writes it."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises OSError."""
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "rb+", buffering=0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> int:
        """The number of writes acknowledged; 0 when there is no mark, or one that can't be read."""
        data = os.pread(self._file.fileno(), _SEQUENCE_BYTES + _CHECKSUM_BYTES, 0)
        sequence, checksum = data[:_SEQUENCE_BYTES], data[_SEQUENCE_BYTES:]
        if len(sequence) != _SEQUENCE_BYTES or zlib.crc32(sequence).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
            return 0
        return int.from_bytes(sequence, "little")

    def write(self, sequence: int) -> None:
        """Note that so many writes are on disk. A disk that refuses leaves an older mark, which does no harm."""
        encoded = sequence.to_bytes(_SEQUENCE_BYTES, "little")
        with suppress(OSError):
            os.pwrite(self._file.fileno(), encoded + zlib.crc32(encoded).to_bytes(_CHECKSUM_BYTES, "little"), 0)
