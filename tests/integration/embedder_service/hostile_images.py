"""Pictures that nobody means well, mixed with good ones that must not suffer for it.

Owns what they are and what has to become of each. Imports no torch. The good ones are odd in every way that is allowed.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from tests.unit.embedder_service.pictures import (
    BAD_IMAGES,
    bmp_in_run_lengths,
    encoded,
    jpeg_of_scans,
    jpeg_segment,
    photo,
    png_chunk,
    png_header_only,
    tiff_tile_only,
    webp_canvas,
)

Fate = Literal["embedded", "refused", "either"]
"""Fuzzed bytes may still be a picture: those have either fate, though no third."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_BOMB = zlib.compress(bytes(1_000_000), 9)


@dataclass(frozen=True, slots=True)
class Picture:
    """A file, and what has to become of it."""

    name: str
    file: bytes
    fate: Fate


def good_pictures() -> list[Picture]:
    """The same every time."""
    made = {
        **{f"{form} of {side}": encoded(photo(side, side - 9, side), form) for form in FORMATS for side in (40, 130)},
        **{f"{width} x {height}": encoded(photo(width, height)) for width, height in ((1, 1), (1, 999), (999, 1))},
        **{f"{mode} PNG": encoded(photo(50, 40, 1, mode)) for mode in ("1", "L", "P", "LA", "RGBA")},
        **{f"animated {form}": _animated(form) for form in ("GIF", "WEBP", "PNG", "TIFF")},
        **{
            f"TIFF, {name}": encoded(photo(70, 50), "TIFF", compression=name)
            for name in ("tiff_lzw", "jpeg", "packbits")
        },
        "16-bit PNG": encoded(Image.linear_gradient("L").convert("I;16"), "PNG"),
        "CMYK JPEG": encoded(photo(50, 40, 2).convert("CMYK"), "JPEG"),
        "progressive JPEG": encoded(photo(90, 60, 3), "JPEG", progressive=True),
        "palette with transparency": encoded(photo(50, 40, 4).quantize(9), "PNG", transparency=3),
        "broken EXIF": _with_chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(40)),
        "EXIF that points at itself": _with_chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08"),
        "broken ICC profile": _with_chunk(b"iCCP", b"broken"),
        "100 profiles of 1 MB": _with_chunk(b"iCCP", b"a\0\0" + _BOMB, 100),
        "100 texts of 1 MB": _with_chunk(b"zTXt", b"\0\0" + _BOMB, 100),
        "JPEG after 4,000 comments": _after_start(jpeg_segment(0xFE, b"") * 4_000),
        "JPEG after 300 EXIF blocks": _after_start(jpeg_segment(0xE1, b"Exif\0\0" + bytes(9_000)) * 300),
        "JPEG and then a zip file": encoded(photo(60, 50), "JPEG") + b"PK\x03\x04" + bytes(5_000),
        "PNG with 30 MB too many of pixels": _png_with_more_pixels(),
        "BMP in run lengths": bmp_in_run_lengths(200, 100),
        "TIFF of tiles": tiff_tile_only(16),
        "GIF whose frame passes its screen": _gif_screen(9, 9),
    }
    return [Picture(name, file, "embedded") for name, file in made.items()]


def bad_pictures() -> list[Picture]:
    """The same every time: what has to be refused."""
    made = {
        **BAD_IMAGES,
        **{name: content + bytes(300) for name, content in _OTHER_FILES.items()},
        **{f"{form} signature and zeros": encoded(photo(9, 9), form)[:12] + bytes(400) for form in FORMATS},
        "PNG bomb": png_header_only(60_000, 60_000),
        "JPEG bomb": _jpeg_of_size(65_500, 65_500),
        "WebP bomb": webp_canvas(16_384, 16_384),
        "GIF bomb": _gif_screen(65_535, 65_535),
        "BMP bomb": _bmp_of_size(60_000, 60_000),
        "BMP of 2**31 pixels a side": _bmp_of_size(2**31 - 1, 2**31 - 1),
        "TIFF bomb": _tiff_of_size(60_000, 60_000),
        "TIFF tile bomb": tiff_tile_only(60_000),
        "PNG without pixels": png_header_only(0, 0),
        "JPEG of 0 rows": _jpeg_of_size(60, 0),
        "JPEG of 300 scans": jpeg_of_scans(300),
    }
    return [Picture(name, file, "refused") for name, file in made.items()]


def storm(seed: int, count: int, good_share: float = 0.3) -> Iterator[Picture]:
    """So many pictures: good ones, bad ones, ones cut off anywhere, and ones with bytes changed."""
    generator = random.Random(seed)
    good, bad = good_pictures(), bad_pictures()
    small = [picture for picture in good if len(picture.file) < 200_000]
    for _ in range(count):
        kind = generator.random()
        if kind < good_share:
            yield generator.choice(good)
        elif kind < good_share + 0.2:
            yield generator.choice(bad)
        elif kind < good_share + 0.4:
            yield cut(generator, generator.choice(small))
        else:
            yield fuzzed(generator, generator.choice(small))


def cut(generator: random.Random, picture: Picture) -> Picture:
    """Ended early. Where Pillow alone can't read it, it has to be refused."""
    file = picture.file[: generator.randrange(len(picture.file))]
    try:
        with Image.open(io.BytesIO(file)) as image:
            image.load()
        fate: Fate = "either"
    except Exception:
        fate = "refused" if not picture.name.startswith(("100", "broken", "EXIF")) else "either"
    return Picture(f"{picture.name}, cut to {len(file)} bytes", file, fate)


def fuzzed(generator: random.Random, picture: Picture) -> Picture:
    """With bytes changed, left out, doubled, or moved."""
    file = bytearray(picture.file)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        # Half of the changes come early, where headers are.
        place = int(len(file) * generator.random() ** generator.choice((1, 4)))
        _CHANGES[generator.randrange(len(_CHANGES))](generator, file, place)
    return Picture(f"{picture.name}, fuzzed", bytes(file), "either")


def _set(generator: random.Random, file: bytearray, place: int) -> None:
    file[place : place + 1] = bytes([generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))])


def _set_number(generator: random.Random, file: bytearray, place: int) -> None:
    number = generator.choice((0, 1, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF))
    file[place : place + 4] = struct.pack(generator.choice("<>") + "I", number)


def _flip(generator: random.Random, file: bytearray, place: int) -> None:
    if place < len(file):
        file[place] ^= 1 << generator.randrange(8)


def _leave_out(generator: random.Random, file: bytearray, place: int) -> None:
    del file[place : place + generator.randrange(1, 40)]


def _double(generator: random.Random, file: bytearray, place: int) -> None:
    file[place:place] = file[place : place + generator.randrange(1, 400)]


def _overwrite(generator: random.Random, file: bytearray, place: int) -> None:
    begin = generator.randrange(len(file) + 1)
    part = file[begin : begin + generator.randrange(1, 100)]
    file[place : place + len(part)] = part


_CHANGES: tuple[Callable[[random.Random, bytearray, int], None], ...] = (
    _set,
    _set_number,
    _flip,
    _leave_out,
    _double,
    _overwrite,
)

_OTHER_FILES = {
    "HTML": b"<!DOCTYPE html><img src=x>",
    "PDF": b"%PDF-1.7\n",
    "zip": b"PK\x03\x04",
    "ELF": b"\x7fELF\x02\x01\x01",
    "HEIC": b"\0\0\0\x18ftypheic",
    "AVIF": b"\0\0\0\x18ftypavif",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "ICO": b"\0\0\x01\0\x01\0",
    "PSD": b"8BPS\0\x01",
    "EPS, which would start Ghostscript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "PPM": b"P6 10 10 255\n",
    "pickle": b"\x80\x04\x95",
    "RIFF that is no WebP": b"RIFF\x24\0\0\0WAVEfmt ",
    "UTF-16 text": "\ufeffhello".encode("utf-16-le"),
}


def _animated(form: str) -> bytes:
    frames = [photo(40, 30, 7 + number) for number in range(3)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:])


def _with_chunk(kind: bytes, content: bytes, times: int = 1) -> bytes:
    file = encoded(photo(50, 40, 5))
    return file[:33] + png_chunk(kind, content) * times + file[33:]


def _after_start(segments: bytes) -> bytes:
    file = encoded(photo(50, 40, 6), "JPEG")
    return file[:2] + segments + file[2:]


def _png_with_more_pixels() -> bytes:
    header = struct.pack(">IIBBBBB", 30, 30, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(30_000_000), 9)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def _jpeg_of_size(width: int, height: int) -> bytes:
    file = bytearray(encoded(photo(64, 48), "JPEG"))
    place = file.index(b"\xff\xc0") + 5
    file[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(file)


def _gif_screen(width: int, height: int) -> bytes:
    file = encoded(photo(30, 20), "GIF")
    return file[:6] + struct.pack("<HH", width, height) + file[10:]


def _bmp_of_size(width: int, height: int) -> bytes:
    file = encoded(photo(30, 20), "BMP")
    return file[:18] + struct.pack("<ii", width, height) + file[26:]


def _tiff_of_size(width: int, height: int) -> bytes:
    entries = (
        (256, width),
        (257, height),
        (258, 8),
        (259, 8),
        (262, 1),
        (273, 150),
        (277, 1),
        (278, height),
        (279, 60),
    )
    folder = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    content = zlib.compress(bytes(1_000))
    return (b"II*\0" + struct.pack("<IH", 8, len(entries)) + folder + bytes(4)).ljust(150, b"\0") + content
