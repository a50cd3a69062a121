"""Encoded images -> pixels: what is accepted, and that it looks as transformers would see it."""

import io
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedder_service.images import ImageDecoder, Preprocessing
from service_runtime.errors import InvalidArgument
from tests.unit.embedder_service.pictures import (
    BAD_IMAGES,
    bmp_in_run_lengths,
    encoded,
    jpeg_of_scans,
    photo,
    png_chunk,
    png_header_only,
    tiff_of_strips,
    tiff_tile_only,
)

SIDE = 24
PREPROCESSING = Preprocessing(SIDE, Image.Resampling.BICUBIC, 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def decoder() -> ImageDecoder:
    return ImageDecoder(PREPROCESSING, max_bytes=20 * 1024 * 1024, max_pixels=64_000_000)


def squashed(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
def test_every_accepted_format_decodes_to_its_own_pixels(decoder: ImageDecoder, form: str) -> None:
    original = photo(90, 60)
    file = encoded(original, form, **({"lossless": True} if form == "WEBP" else {}))
    pixels = decoder.decode(file, "images[0]")
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8
    loss = {"JPEG": 12.0, "GIF": 12.0}.get(form, 0.0)
    assert np.abs(pixels.astype(int) - squashed(original)).mean() <= loss


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 500), (500, 1), (SIDE, SIDE)])
def test_any_shape_is_squashed_to_the_square(decoder: ImageDecoder, size: tuple[int, int]) -> None:
    image = photo(*size)
    np.testing.assert_array_equal(decoder.decode(encoded(image), "images[0]"), squashed(image))


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image_names_its_field(decoder: ImageDecoder, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decoder.decode(BAD_IMAGES[name], "images[2]")
    assert caught.value.field == "images[2]"
    assert caught.value.message.startswith("images[2]: expected ")


def test_the_message_states_both_pixel_counts(decoder: ImageDecoder) -> None:
    with pytest.raises(InvalidArgument, match=r"at most 64000000 pixels, not 2500000000 \(50000 x 50000\)"):
        decoder.decode(png_header_only(50_000, 50_000), "images[0]")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (png_header_only(1, 64_000_000), "sides of at most 65535 pixels, not 1 x 64000000"),
        (tiff_tile_only(26_000), r"at most 64000000 pixels, not 676000000 \(26000 x 26000\)"),
        (jpeg_of_scans(500), "at most 100 scans, not 506"),
        (bmp_in_run_lengths(8_000, 8_000), "at most 4000000 pixels coded in run lengths, not 64000000"),
        (tiff_of_strips(1_000), "tiles of at most 60600 pixels in all, not 5050000"),
        (tiff_of_strips(70_000), "at most 65536 tiles, not 70000"),
    ],
    ids=[
        "a row whose resizing takes gigabytes",
        "a tile larger than the image",
        "a pass over all pixels a scan",
        "a decoder in Python",
        "the same strip again and again",
        "many strips",
    ],
)
def test_a_small_file_of_few_pixels_cannot_ask_for_much_work(decoder: ImageDecoder, file: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        decoder.decode(file, "images[0]")


def test_a_tiled_image_of_ordinary_tiles_is_taken(decoder: ImageDecoder) -> None:
    np.testing.assert_array_equal(decoder.decode(tiff_tile_only(16), "images[0]"), np.zeros((SIDE, SIDE, 3)))


def test_only_scans_before_the_end_marker_count(decoder: ImageDecoder) -> None:
    image = photo(50, 40)
    file = encoded(image, "JPEG", progressive=True)
    plain = decoder.decode(file, "images[0]")
    comment = b"\xff\xfe" + (2 + 3 * 200).to_bytes(2) + b"\xff\xda\x00" * 200
    for longer in (file + jpeg_of_scans(200), file[:2] + comment + file[2:]):
        np.testing.assert_array_equal(decoder.decode(longer, "images[0]"), plain)


def test_the_message_states_both_byte_counts() -> None:
    file = encoded(photo(40, 40))
    with pytest.raises(InvalidArgument, match=f"at most 100 bytes, not {len(file)}"):
        ImageDecoder(PREPROCESSING, max_bytes=100, max_pixels=10**6).decode(file, "images[0]")


def test_limits_are_inclusive() -> None:
    file = encoded(photo(40, 25))
    exact = ImageDecoder(PREPROCESSING, max_bytes=len(file), max_pixels=1000)
    assert exact.decode(file, "images[0]").shape == (SIDE, SIDE, 3)
    with pytest.raises(InvalidArgument):
        ImageDecoder(PREPROCESSING, max_bytes=len(file), max_pixels=999).decode(file, "images[0]")


def test_an_image_past_pillows_own_limit_is_refused_by_ours_without_a_warning(decoder: ImageDecoder) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    assert limit < 95_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidArgument, match="at most 64000000 pixels, not 95000000"):
            decoder.decode(png_header_only(10_000, 9_500), "images[0]")
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(decoder: ImageDecoder, form: str, orientation: int) -> None:
    corners = np.zeros((64, 64, 3), np.uint8)
    corners[:32, :32], corners[:32, 32:], corners[32:, :32] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    upright = Image.fromarray(corners)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decoder.decode(encoded(stored, form, exif=exif), "images[0]")
    assert np.abs(pixels.astype(int) - squashed(upright)).mean() < 8


def test_a_broken_exif_block_is_no_fault_of_the_pixels(decoder: ImageDecoder) -> None:
    image = photo(50, 40)
    file = encoded(image, "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(decoder.decode(file, "images[0]"), squashed(image))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_flattened_on_white(decoder: ImageDecoder, mode: str) -> None:
    image = Image.new(mode, (40, 40), (0,) * len(mode))
    np.testing.assert_array_equal(decoder.decode(encoded(image), "images[0]"), np.full((SIDE, SIDE, 3), 255))


def test_palette_transparency_is_flattened_on_white(decoder: ImageDecoder) -> None:
    image = Image.new("P", (40, 40), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    for file in (encoded(image, "PNG", transparency=0), encoded(image, "GIF", transparency=0)):
        np.testing.assert_array_equal(decoder.decode(file, "images[0]"), np.full((SIDE, SIDE, 3), 255))
    np.testing.assert_array_equal(decoder.decode(encoded(image), "images[0]")[0, 0], [10, 20, 30])


def test_rgb_with_a_transparent_colour(decoder: ImageDecoder) -> None:
    file = encoded(Image.new("RGB", (9, 9), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    np.testing.assert_array_equal(decoder.decode(file, "images[0]"), np.full((SIDE, SIDE, 3), 255))


def test_cmyk_becomes_rgb(decoder: ImageDecoder) -> None:
    file = encoded(Image.new("RGB", (30, 30), (200, 30, 60)).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decoder.decode(file, "images[0]").astype(int) - [200, 30, 60]).max() <= 6


def test_16_bit_gray_keeps_its_upper_8(decoder: ImageDecoder) -> None:
    gray = np.linspace(0, 65_535, 40 * 40).astype(np.uint16).reshape(40, 40)
    upper = Image.fromarray((gray >> 8).astype(np.uint8))
    for form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(
            decoder.decode(encoded(Image.fromarray(gray), form), "images[0]"), squashed(upper)
        )


def test_32_bit_channels_are_refused(decoder: ImageDecoder) -> None:
    file = encoded(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF")
    with pytest.raises(InvalidArgument, match="8 or 16 bits a channel, not 32"):
        decoder.decode(file, "images[0]")


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(decoder: ImageDecoder, form: str) -> None:
    first, second = Image.new("RGB", (20, 20), (255, 0, 0)), Image.new("RGB", (20, 20), (0, 0, 255))
    options = {"lossless": True} if form == "WEBP" else {}
    file = encoded(first, form, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(decoder.decode(file, "images[0]")[0, 0], [255, 0, 0])


def test_many_threads_get_the_same_pixels(decoder: ImageDecoder) -> None:
    files = [encoded(photo(120, 90, seed), form) for seed, form in enumerate(["PNG", "JPEG", "GIF", "BMP"] * 5)]
    alone = [decoder.decode(file, "images[0]") for file in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda file: decoder.decode(file, "images[0]"), files * 4))
    for position, pixels in enumerate(together):
        np.testing.assert_array_equal(pixels, alone[position % len(files)])


def test_metadata_of_any_size_is_no_fault(decoder: ImageDecoder) -> None:
    image = photo(50, 40)
    png = encoded(image)
    file = png[:33] + png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(40_000_000))) + png[33:]
    np.testing.assert_array_equal(decoder.decode(file, "images[0]"), squashed(image))


def test_rare_tiff_compressions_are_refused_by_number(decoder: ImageDecoder) -> None:
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        assert decoder.decode(encoded(photo(40, 30), "TIFF", compression=compression), "images[0]").any()
    with pytest.raises(InvalidArgument, match=r"a TIFF compression of \[1, 2, .*\], not 34925"):
        decoder.decode(encoded(photo(40, 30), "TIFF", compression="lzma"), "images[0]")


def test_a_broken_tiff_writes_nothing_among_the_lines_of_the_log(
    decoder: ImageDecoder, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = encoded(photo(64, 64), "TIFF", compression="tiff_lzw")
    broken = whole[:500] + bytes(2_500) + whole[3_000:]
    with pytest.raises(InvalidArgument, match="not one that breaks: decoder error"):
        decoder.decode(broken, "images[0]")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_file_cut_anywhere_is_taken_only_where_pillow_takes_it(decoder: ImageDecoder, form: str) -> None:
    file = encoded(photo(40, 30), form)
    taken = {True: 0, False: 0}
    for length in range(0, len(file), max(1, len(file) // 150)):
        try:
            with Image.open(io.BytesIO(file[:length])) as image:
                theirs: np.ndarray | None = squashed(image)
        except Exception:
            theirs = None
        try:
            ours: np.ndarray | None = decoder.decode(file[:length], "images[0]")
        except InvalidArgument:
            ours = None
        taken[ours is not None] += 1
        assert (ours is None) == (theirs is None), f"{form} cut to {length} of {len(file)} bytes"
        if ours is not None and theirs is not None:
            np.testing.assert_array_equal(ours, theirs)
    assert taken[False] > 100


@pytest.mark.parametrize("mode", ["RGBA", "L", "I;16", "P"])
def test_colours_of_a_large_image_are_converted_as_those_of_a_small_one(decoder: ImageDecoder, mode: str) -> None:
    shape = (1500, 1400, 4) if mode == "RGBA" else (1500, 1400)
    values = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(values.astype(np.uint16) * 256 + 77 if mode == "I;16" else values)
    image = image.convert("P") if mode == "P" else image
    assert image.mode == mode
    if mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        expected = squashed(Image.alpha_composite(white, image))
    else:
        expected = squashed(Image.fromarray(values) if mode == "I;16" else image)
    np.testing.assert_array_equal(decoder.decode(encoded(image, compress_level=1), "images[0]"), expected)


@pytest.mark.parametrize(("side", "reduced"), [(SIDE * 8 - 1, False), (SIDE * 8, True), (SIDE * 40, True)])
def test_a_large_jpeg_is_decoded_small_with_hardly_a_difference(side: int, reduced: bool) -> None:
    image = photo(side, side)
    file = encoded(image, "JPEG", quality=90)
    whole = squashed(Image.open(io.BytesIO(file))).astype(int)
    difference = np.abs(ImageDecoder(PREPROCESSING, len(file), side * side).decode(file, "images[0]") - whole)
    assert difference.any() == reduced
    assert difference.mean() < 1
    assert difference.max() <= 4


def test_large_images_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = ImageDecoder(PREPROCESSING, max_bytes=10**6, max_pixels=10_000)
    inside, most, watched = 0, 0, threading.Lock()
    both_are_in = threading.Barrier(2)
    to_pixels = decoder._to_pixels

    def watching(*arguments: Any) -> np.ndarray:
        nonlocal inside, most
        with watched:
            inside += 1
            most = max(most, inside)
        both_are_in.wait(30)
        try:
            return to_pixels(*arguments)
        finally:
            with watched:
                inside -= 1

    monkeypatch.setattr(decoder, "_to_pixels", watching)
    large = encoded(photo(100, 100))
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: decoder.decode(large, "images[0]"), range(12)))
    assert len(done) == 12
    assert most == 2
