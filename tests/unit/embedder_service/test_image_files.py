"""Files as they are read before a decoder sees them: orientation, what is left out, limits."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from embedder_service.image_files import PictureFile, read_jpeg, read_png, read_tiff, read_webp
from tests.unit.embedder_service.pictures import encoded, jpeg_segment, photo, png_chunk

READERS = {"JPEG": read_jpeg, "PNG": read_png, "WEBP": read_webp}
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def after_header(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with more chunks behind its IHDR."""
    return png[:33] + b"".join(chunks) + png[33:]


def exif_of(orientation: int, endian: str) -> bytes:
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112], exif[0x0131] = "a maker whose name takes an offset", orientation, "x"
    return exif.tobytes()


@pytest.mark.parametrize("form", READERS)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 9])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_orientation_is_the_one_that_pillow_reads(form: str, orientation: int, endian: str) -> None:
    file = encoded(photo(20, 16), form, exif=exif_of(orientation, endian))
    theirs = Image.open(io.BytesIO(file)).getexif()[0x0112]
    assert theirs == orientation
    assert READERS[form](file).orientation == (theirs if theirs <= 8 else 1)


@pytest.mark.parametrize("form", READERS)
def test_xmp_says_the_orientation_where_exif_does_not(form: str) -> None:
    if form == "PNG":
        file = after_header(encoded(photo(20, 16)), png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP))
    else:
        file = encoded(photo(20, 16), form, xmp=XMP)
    assert Image.open(io.BytesIO(file)).getexif()[0x0112] == READERS[form](file).orientation == 6


@pytest.mark.parametrize("compressed", [True, False])
def test_exif_in_imagemagicks_text_chunk(compressed: bool) -> None:
    exif = exif_of(8, "<")
    text = f"\nexif\n{len(exif):8d}\n{exif.hex()}\n".encode()
    content = b"Raw profile type exif\0" + (b"\0" + zlib.compress(text) if compressed else text)
    file = after_header(encoded(photo(20, 16)), png_chunk(b"zTXt" if compressed else b"tEXt", content))
    assert Image.open(io.BytesIO(file)).getexif()[0x0112] == read_png(file).orientation == 8


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0+\0\x08\0\0" + b"\xff" * 8,
        b"II*\0\x08\0\0\0\xff\xff" + bytes(12),
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0",
        b"Exif\0\0" * 1000,
    ],
    ids=["empty", "cut", "outside", "far outside", "too many tags", "cut in a tag", "headers alone"],
)
def test_exif_that_cannot_be_read_is_no_fault(exif: bytes) -> None:
    for file in (
        after_header(encoded(photo(20, 16)), png_chunk(b"eXIf", exif)),
        encoded(photo(20, 16), "JPEG", exif=b"Exif\0\0" + exif),
        encoded(photo(20, 16), "WEBP", exif=exif),
    ):
        kind = {b"\x89": read_png, b"\xff": read_jpeg, b"R": read_webp}[file[:1]]
        assert kind(file).orientation == 1


def test_a_png_keeps_what_its_pixels_need() -> None:
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    plain = encoded(palette, transparency=0)
    bomb = zlib.compress(bytes(50_000_000))
    chunks = [png_chunk(b"iCCP", b"a\0\0" + bomb), png_chunk(b"zTXt", b"a\0\0" + bomb), png_chunk(b"tIME", bytes(7))]
    assert read_png(after_header(plain, *chunks)) == read_png(plain) == PictureFile(plain)


def test_a_jpeg_keeps_what_its_pixels_need() -> None:
    plain = encoded(photo(30, 20).convert("CMYK"), "JPEG", progressive=True)  # its colours need the Adobe segment
    segments = [jpeg_segment(marker, b"x" * 60_000) for marker in (0xFE, 0xE2, 0xEF)]
    longer = plain[:2] + b"".join(segments) + b"junk" + plain[2:]
    assert read_jpeg(longer).data == read_jpeg(plain).data == plain
    np.testing.assert_array_equal(Image.open(io.BytesIO(plain)), Image.open(io.BytesIO(read_jpeg(longer).data)))


def test_of_an_animated_png_the_first_frame_is_kept() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    file = encoded(frames[0], save_all=True, append_images=frames[1:])
    alone = Image.open(io.BytesIO(read_png(file).data))
    assert getattr(alone, "n_frames", 1) == 1
    np.testing.assert_array_equal(alone.convert("RGB"), frames[0])


def test_scans_are_counted() -> None:
    assert read_jpeg(encoded(photo(20, 16), "JPEG")).scans == 1
    assert read_jpeg(encoded(photo(20, 16), "JPEG", progressive=True)).scans == 10


def test_too_many_parts_are_refused_with_their_limit() -> None:
    jpeg, png, webp = (encoded(photo(20, 16), form) for form in READERS)
    with pytest.raises(ValueError, match="at most 4096 segments"):
        read_jpeg(jpeg[:2] + jpeg_segment(0xFE, b"") * 5_000 + jpeg[2:])
    with pytest.raises(ValueError, match="at most 65536 chunks"):
        read_png(after_header(png, png_chunk(b"tEXt", b"a\0") * 66_000))
    with pytest.raises(ValueError, match="at most 65536 chunks"):
        read_webp(webp + b"none\0\0\0\0" * 66_000)


def test_a_tiff_of_too_many_tags_or_numbers_is_refused() -> None:
    tags = struct.pack("<HHII", 60_000, 1, 1, 0) * 2_000
    with pytest.raises(ValueError, match="at most 1024 tags, not 2000"):
        read_tiff(b"II*\0" + struct.pack("<IH", 8, 2_000) + tags)
    with pytest.raises(ValueError, match="at most 262144 numbers in tag 273, not 9000000"):
        read_tiff(b"MM\0*" + struct.pack(">IHHHII", 8, 1, 273, 4, 9_000_000, 30))
    profile = struct.pack("<HHII", 34_675, 7, 9_000_000, 30)
    assert read_tiff(b"II*\0" + struct.pack("<IH", 8, 1) + profile).orientation == 1
