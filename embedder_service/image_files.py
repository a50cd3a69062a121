"""What the file of a picture says, read without decoding it.

Owns the way through the segments and chunks of each format: how many there may be, which of them the pixels need, and
which way up the picture is. Metadata is the cheapest place to hide work in: a comment costs 4 bytes of a JPEG, a
compressed profile of a megabyte 1,000 bytes of a PNG. So decoders never see it. Knows no Pillow and no pixels.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_MAX_SEGMENTS = 4_096
"""Segments of a JPEG, scans included. A long profile or XMP block takes one for each 64 KiB."""

_MAX_CHUNKS = 65_536
"""Chunks of a PNG or WebP. Pixels come in chunks of 8 KiB where they are written by libpng."""

_MAX_TAGS = 1_024
"""Entries of a TIFF directory; about 20 are in use."""

_MAX_TAG_NUMBERS = 262_144
"""Numbers in one entry; a palette of 16 bits has 196,608."""

_MAX_PROFILE_BYTES = 1_048_576
"""Of an EXIF block that a PNG holds as compressed text, once decompressed."""

_SOS, _EOI, _APP0, _APP1, _APP14, _COM = 0xDA, 0xD9, 0xE0, 0xE1, 0xEE, 0xFE
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)
"""A marker that begins a segment, or EOI: neither stuffing, nor restarts, nor fill."""

_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_EXIF_HEADER = b"Exif\x00\x00"
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\x00"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_ORIENTATION_TAG = 0x0112
_SHORT = 3
_BYTES_TYPES = frozenset({1, 2, 6, 7})
"""Bytes, text and what is not further described: profiles, which stay one value however long."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A file as a decoder may have it."""

    data: bytes
    """Without what the pixels don't need."""
    orientation: int = 1
    """As in EXIF: 1 is upright; 2 to 8 say how it has to be turned or mirrored."""
    scans: int = 0
    """Passes over all pixels; of a JPEG alone."""


def read_jpeg(data: bytes) -> PictureFile:
    """Raises ValueError for too many segments."""
    kept, scans, position, segments = [data[:2]], 0, 2, 0
    exif = xmp = b""
    pixels_begin = len(data)
    while (marker := _JPEG_MARKER.search(data, position)) and (kind := marker[0][1]) != _EOI:
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise ValueError(f"expected at most {_MAX_SEGMENTS} segments, not more")
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
        if kind == _SOS:
            pixels_begin = min(pixels_begin, marker.start())
            scans += 1
        elif not scans:
            segment = data[marker.start() : position]
            if kind in (_APP0, _APP14) or not (_APP0 < kind <= _APP0 + 15 or kind == _COM):
                kept.append(segment)
            elif kind == _APP1:
                exif = exif or _after(segment[4:], _EXIF_HEADER)
                xmp = xmp or _after(segment[4:], _XMP_HEADER)
    kept.append(data[pixels_begin:])
    return PictureFile(b"".join(kept), _orientation(exif, xmp), scans)


def read_png(data: bytes) -> PictureFile:
    """Of an animation its first frame alone. Raises ValueError for too many chunks."""
    kept = [data[:8]]
    exif = xmp = b""
    end = 8
    for kind, begin, end in _chunks(data, 8, ">I4s", checksum_bytes=4):
        if kind in _PNG_PIXELS:
            kept.append(data[begin - 8 : end])
        elif kind == b"eXIf":
            exif = exif or data[begin : end - 4]
        elif kind in (b"zTXt", b"tEXt") and data.startswith(b"Raw profile type exif\x00", begin):
            exif = exif or _raw_profile(data[begin : end - 4], compressed=kind == b"zTXt")
        elif kind == b"iTXt" and data.startswith(b"XML:com.adobe.xmp\x00", begin):
            xmp = xmp or data[begin : end - 4]
        if kind == b"IEND":
            break
    else:
        kept.append(data[end:])  # cut off inside a chunk: for the decoder to judge
    return PictureFile(b"".join(kept), _orientation(exif, xmp))


def read_webp(data: bytes) -> PictureFile:
    """Raises ValueError for too many chunks."""
    exif = xmp = b""
    for kind, begin, end in _chunks(data, 12, "<4sI", checksum_bytes=0):
        if kind == b"EXIF":
            exif = exif or data[begin:end]
        elif kind == b"XMP ":
            xmp = xmp or data[begin:end]
    return PictureFile(data, _orientation(exif, xmp))


def read_tiff(data: bytes) -> PictureFile:
    """Says nothing of the orientation: Pillow turns a TIFF by itself.

    Raises ValueError for a first directory of too many entries, or too large ones.
    """
    for tag, kind, count, _ in _tags(data):
        if kind not in _BYTES_TYPES and count > _MAX_TAG_NUMBERS:
            raise ValueError(f"expected at most {_MAX_TAG_NUMBERS} numbers in tag {tag}, not {count}")
    return PictureFile(data)


def read_plain(data: bytes) -> PictureFile:
    """Of a format whose metadata costs its reader little."""
    return PictureFile(data)


def _chunks(data: bytes, begin: int, header: str, checksum_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, where it ends, checksum included) of the chunks that are there whole."""
    size_first = header[1] == "I"
    for _ in range(_MAX_CHUNKS):
        if begin + 8 > len(data):
            return
        first, second = struct.unpack_from(header, data, begin)
        kind, size = (second, first) if size_first else (first, second)
        end = begin + 8 + size + checksum_bytes
        if end > len(data):
            return
        yield kind, begin + 8, end
        begin = end if size_first else end + size % 2  # RIFF pads to even lengths
    raise ValueError(f"expected at most {_MAX_CHUNKS} chunks, not more")


def _after(content: bytes, header: bytes) -> bytes:
    """What follows a header; nothing where it is not there."""
    return content[len(header) :] if content.startswith(header) else b""


def _raw_profile(content: bytes, *, compressed: bool) -> bytes:
    """ImageMagick's way: hexadecimal lines after a name and a length. Empty when it can't be read."""
    text = content.split(b"\x00", 1)[1]
    try:
        if compressed:
            text = zlib.decompressobj().decompress(text[1:], _MAX_PROFILE_BYTES)
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (ValueError, zlib.error):
        return b""


def _orientation(exif: bytes, xmp: bytes) -> int:
    """What EXIF says, else what XMP says, else upright. A block that can't be read is no fault of the pixels."""
    for _ in range(2):  # some writers say it twice
        exif = exif.removeprefix(_EXIF_HEADER)
    try:
        for tag, kind, count, value in _tags(exif):
            if tag == _ORIENTATION_TAG and kind == _SHORT and count == 1:
                orientation = int.from_bytes(value[:2], "little" if exif[:2] == b"II" else "big")
                return orientation if 1 <= orientation <= 8 else 1
    except ValueError:
        return 1
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1


def _tags(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(tag, type, count, value or where it stands) of the first directory; stops where the file does.

    Raises ValueError for too many entries.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return
    big = data[2:4] in (b"+\x00", b"\x00+")
    at, counter, entry = (8, "Q", "HHQ8s") if big else (4, "H", "HHI4s")
    entry = order + entry
    try:
        (begin,) = struct.unpack_from(order + ("Q" if big else "I"), data, at)
        (entries,) = struct.unpack_from(order + counter, data, begin)
        if entries > _MAX_TAGS:
            raise ValueError(f"expected at most {_MAX_TAGS} tags, not {entries}")
        begin += struct.calcsize(order + counter)
        for number in range(entries):
            yield struct.unpack_from(entry, data, begin + number * struct.calcsize(entry))
    except (struct.error, OverflowError):  # cut off, or pointing far outside
        return
