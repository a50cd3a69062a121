"""Whatever the bytes, the decoder returns pixels or refuses them: nothing else, and nothing of the process's end."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from embedder_service.image_files import read_jpeg, read_png, read_tiff, read_webp
from embedder_service.images import ImageDecoder, Preprocessing
from service_runtime.errors import InvalidArgument
from tests.integration.embedder_service.hostile_images import FORMATS, Picture, fuzzed
from tests.unit.embedder_service.pictures import encoded, photo

SIDE = 16
DECODER = ImageDecoder(
    Preprocessing(SIDE, Image.Resampling.BICUBIC, 1 / 255, (0.5,) * 3, (0.5,) * 3), max_bytes=10**6, max_pixels=10**6
)
WHOLE = {form: encoded(photo(24, 17, 1), form) for form in FORMATS}
SIGNATURES = {"PNG": 16, "JPEG": 4, "WEBP": 16, "GIF": 6, "BMP": 14, "TIFF": 8}


def decode(file: bytes) -> None:
    try:
        pixels = DECODER.decode(file, "images[0]")
    except InvalidArgument:
        return
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_a_picture_with_changed_bytes(form: str, seed: int) -> None:
    decode(fuzzed(random.Random(seed), Picture(form, WHOLE[form], "embedded")).file)


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_anything_behind_a_signature(form: str, content: bytes) -> None:
    decode(WHOLE[form][: SIGNATURES[form]] + content)


@pytest.mark.parametrize("read", [read_jpeg, read_png, read_webp, read_tiff])
@settings(max_examples=200, deadline=None)
@given(st.sampled_from([file[:40] for file in WHOLE.values()] + [b""]), st.binary(max_size=200), st.integers(0, 40))
def test_a_file_of_anything_is_read_or_refused(read: object, head: bytes, content: bytes, kept: int) -> None:
    assert callable(read)
    try:
        file = read(head[:kept] + content)
    except ValueError:
        return
    assert 1 <= file.orientation <= 8
