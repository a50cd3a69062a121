"""Images as callers give them."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from eyebright_client import ImageUnreadable, InvalidArgument
from eyebright_client._images import image_bytes
from PIL import Image as Pillow

LIMIT = 1_000_000


def drawn(mode: str) -> Pillow.Image:
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    return Pillow.fromarray(pixels).convert(mode)


def test_paths_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"pixels")
    for image in (file, str(file), b"pixels", bytearray(b"pixels"), memoryview(b"pixels")):
        assert image_bytes(image, LIMIT) == b"pixels"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I", "F"])
def test_pillow_images_are_encoded_without_loss(mode: str) -> None:
    image = Pillow.new("LAB", (6, 8), (90, 20, 30)) if mode == "LAB" else drawn(mode)
    back = Pillow.open(io.BytesIO(image_bytes(image, LIMIT)))
    assert back.mode == image.mode
    assert np.array_equal(np.asarray(back), np.asarray(image))


@pytest.mark.parametrize("mode", ["HSV", "YCbCr"])
def test_modes_that_no_file_keeps_are_converted(mode: str) -> None:
    back = Pillow.open(io.BytesIO(image_bytes(drawn(mode), LIMIT)))
    assert back.size == (6, 8)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_orientation_travels_along(mode: str) -> None:
    buffer = io.BytesIO()
    exif = Pillow.Exif()
    exif[0x0112] = 6
    drawn(mode).save(buffer, "JPEG", exif=exif)
    opened = Pillow.open(io.BytesIO(buffer.getvalue()))
    back = Pillow.open(io.BytesIO(image_bytes(opened, LIMIT)))
    assert back.getexif()[0x0112] == 6


def test_a_palette_keeps_its_transparency() -> None:
    image = drawn("P")
    image.info["transparency"] = 3
    back = Pillow.open(io.BytesIO(image_bytes(image, LIMIT)))
    assert np.array_equal(np.asarray(back.convert("RGBA")), np.asarray(image.convert("RGBA")))


def test_what_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable, match=r"missing\.png") as caught:
        image_bytes(tmp_path / "missing.png", LIMIT, 4)
    assert caught.value.position == 4
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(ImageUnreadable):
        image_bytes(tmp_path, LIMIT)
    with pytest.raises(ImageUnreadable):
        image_bytes("a\0b", LIMIT)


def test_a_truncated_pillow_image_is_unreadable() -> None:
    whole = io.BytesIO()
    Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole, "PNG")
    image = Pillow.open(io.BytesIO(whole.getvalue()[:2000]))
    with pytest.raises(ImageUnreadable, match="mode RGB"):
        image_bytes(image, LIMIT)


def test_too_large_is_refused_with_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="at most 10 bytes of encoded image, not 11"):
        image_bytes(b"x" * 11, 10)
    file = tmp_path / "sparse.bin"
    with file.open("wb") as sparse:
        os.truncate(sparse.fileno(), 2**40)  # a terabyte that no one may read
    with pytest.raises(InvalidArgument, match=f"at most 10 bytes of encoded image, not {2**40}"):
        image_bytes(file, 10)


@pytest.mark.parametrize("image", [None, 7, object(), ["a"]])
def test_other_things_are_no_images(image: object) -> None:
    with pytest.raises(InvalidArgument, match="expected a path, bytes, or a PIL image"):
        image_bytes(image, LIMIT)  # type: ignore[arg-type]
