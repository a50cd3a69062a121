"""Encoded images for tests, good and bad. Imports no torch."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def photo(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture with soft gradients, hard edges and noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    channels = [128 + 100 * np.sin(x / (7 + i) + y / (11 + 3 * i)) for i in range(3)]
    values = np.stack(channels, axis=2) + generator.normal(0, 12, (height, width, 3))
    values[height // 3 : height // 2, width // 4 : width // 2] = generator.integers(0, 256, 3)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """The image's file in a format."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_header_only(width: int, height: int) -> bytes:
    """A few hundred bytes that claim to be width x height pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(300)))
        + png_chunk(b"IEND", b"")
    )


def webp_canvas(width: int, height: int) -> bytes:
    """An extended WebP of nothing but a canvas of width x height."""
    extended = struct.pack("<I", 0x10) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", len(extended)) + extended
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_tile_only(side: int) -> bytes:
    """A TIFF of 10 x 10 gray pixels that lie in one tile of side x side."""
    entries = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 150, 325: 0}
    data = zlib.compress(bytes(1000))
    entries[325] = len(data)
    folder = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return (b"II*\x00" + struct.pack("<IH", 8, len(entries)) + folder + bytes(4)).ljust(150, b"\x00") + data


def jpeg_of_scans(extra: int) -> bytes:
    """A progressive JPEG whose last scan is repeated; each repetition changes nothing and costs a pass."""
    file = encoded(photo(16, 16, 0, "L"), "JPEG", progressive=True)
    last = file[file.rindex(b"\xff\xda") : -2]
    return file[:-2] + last * extra + b"\xff\xd9"


def bmp_in_run_lengths(width: int, height: int) -> bytes:
    """A gray BMP whose rows begin with a pixel of 5 and are empty after it."""
    runs = b"\x01\x05\x00\x00" * height
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    palette = b"".join(bytes([value, value, value, 0]) for value in range(256))
    begin = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", begin + len(runs), 0, 0, begin) + header + palette + runs


def tiff_of_strips(count: int) -> bytes:
    """An uncompressed TIFF of 100 x 101 gray pixels, each of whose strips is the same 90 rows."""
    entries = ((256, 1, 100), (257, 1, 101), (258, 1, 8), (262, 1, 1), (273, count, 200), (278, 1, 90), (279, 1, 9000))
    folder = b"".join(struct.pack("<HHII", tag, 4, numbers, value) for tag, numbers, value in entries)
    begin = 200 + 4 * count
    strips = struct.pack("<I", begin) * count
    return (
        (b"II*\x00" + struct.pack("<IH", 8, len(entries)) + folder + bytes(4)).ljust(200, b"\x00")
        + strips
        + bytes(9000)
    )


def jpeg_segment(marker: int, content: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


_WHOLE = encoded(photo(400, 300), "JPEG")

BAD_IMAGES = {
    "zero bytes": b"",
    "not an image": b"hello, this is no picture at all",
    "SVG, which is not taken": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "truncated JPEG": _WHOLE[: len(_WHOLE) // 2],
    "truncated PNG": encoded(photo(300, 200))[:2000],
    "PNG signature alone": b"\x89PNG\r\n\x1a\n",
    "JPEG signature alone": b"\xff\xd8\xff",
    "50,000 x 50,000": png_header_only(50_000, 50_000),
    "just past 64 megapixels": png_header_only(8_001, 8_000),
    "WebP of 16,384 x 16,384 without a frame": webp_canvas(16_384, 16_384),
    "one row of 64 megapixels": png_header_only(64_000_000, 1),
    "TIFF with a tile of 8,001 x 8,001": tiff_tile_only(8_001),
    "JPEG of 106 scans": jpeg_of_scans(100),
    "BMP of 5 megapixels in run lengths": bmp_in_run_lengths(5_000, 1_000),
    "TIFF whose strips overlap": tiff_of_strips(1_000),
    "JPEG of 5,000 comments": _WHOLE[:2] + jpeg_segment(0xFE, b"") * 5_000 + _WHOLE[2:],
    "scrambled PNG": encoded(photo(60, 40))[:60] + bytes(range(200)) + encoded(photo(60, 40))[260:],
    "21 MB of zeros after a PNG": encoded(photo(8, 8)) + bytes(21 * 1024 * 1024),
}
"""Each must fail alone, with INVALID_ARGUMENT."""
