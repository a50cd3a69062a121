"""Encoded images -> the pixels a SigLIP checkpoint looks at.

Owns what is accepted as an image and how it becomes (size, size, 3) uint8. Thread-safe: changes no state of Pillow's.
Knows nothing of models, queues or gRPC.
"""

import io
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from service_runtime.errors import InvalidArgument

# A reader is called directly rather than through Image.open, whose check against decompression bombs warns through
# process-wide state and knows another limit than ours.
_READERS: tuple[tuple[bytes, int, type[ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, PngImageFile),
    (b"\xff\xd8\xff", 0, JpegImageFile),
    (b"WEBP", 8, WebPImageFile),
    (b"GIF8", 0, GifImageFile),
    (b"BM", 0, BmpImageFile),
    (b"II*\x00", 0, TiffImageFile),
    (b"MM\x00*", 0, TiffImageFile),
    (b"II+\x00", 0, TiffImageFile),
    (b"MM\x00+", 0, TiffImageFile),
)
"""(signature, its offset, reader)."""

_MAX_SIDE = 65_535
"""Longest side in pixels: JPEG's own limit. Resizing takes 32 bytes for each pixel of a side, so that an image of one
row within max_image_pixels would take gigabytes."""

_MAX_JPEG_SCANS = 100
"""A progressive JPEG has about 10. Each is a pass over all pixels and may take no more than 14 bytes of the file, so
that one within max_image_bytes would be decoded for hours."""

_SOS, _EOI = 0xDA, 0xD9
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)
"""A marker that begins a segment, or EOI: neither stuffing, nor restarts, nor fill."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes an EXIF orientation; 1 needs nothing."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a checkpoint wants its images: squash-resized to a square, rescaled, normalised by channel."""

    size: int
    """Side of the square, in pixels."""
    resample: Image.Resampling
    """Bicubic for SigLIP, bilinear for SigLIP 2; read from the checkpoint."""
    rescale_factor: float
    """What a channel value 0 to 255 is multiplied by."""
    mean: tuple[float, float, float]
    """Subtracted from each channel after rescaling."""
    std: tuple[float, float, float]
    """Each channel is divided by it last."""

    def affine(self) -> tuple[list[float], list[float]]:
        """(scale, offset) by channel: value * scale + offset is the rescaled, normalised value."""
        scale = [self.rescale_factor / std for std in self.std]
        offset = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        return scale, offset


class ImageDecoder:
    """Decodes, turns upright, flattens on white and resizes, within limits."""

    def __init__(self, preprocessing: Preprocessing, max_bytes: int, max_pixels: int) -> None:
        self._preprocessing = preprocessing
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels

    @property
    def row_bytes(self) -> int:
        """Bytes of a decoded image."""
        return 3 * self._preprocessing.size**2

    def decode(self, encoded: bytes, field: str) -> np.ndarray:
        """The pixels (size, size, 3) uint8 RGB of the first frame.

        Raises InvalidArgument, naming ``field``, for what is no image, is damaged, or passes a limit.
        """
        reader = self._check_bytes(encoded, field)
        try:
            with reader(io.BytesIO(encoded)) as image:
                self._check_pixels(*image.size, field)
                self._check_work(image, encoded, field)
                image.load()
                pixels = self._to_pixels(image)
        except InvalidArgument:
            raise
        except Image.DecompressionBombError as error:  # some readers check against Pillow's own limit
            raise InvalidArgument(f"expected at most {self._max_pixels} pixels: {error}", field=field) from error
        except Exception as error:  # Pillow's readers raise nearly anything on damaged input
            name = reader.format or reader.__name__
            raise InvalidArgument(
                f"expected a whole {name} image, not one that breaks: {error}", field=field
            ) from error
        return pixels

    def _check_bytes(self, encoded: bytes, field: str) -> type[ImageFile]:
        if not encoded:
            raise InvalidArgument("expected an encoded image, not 0 bytes", field=field)
        if len(encoded) > self._max_bytes:
            raise InvalidArgument(f"expected at most {self._max_bytes} bytes, not {len(encoded)}", field=field)
        for signature, offset, reader in _READERS:
            if encoded[offset : offset + len(signature)] == signature:
                return reader
        raise InvalidArgument(
            f"expected PNG, JPEG, WebP, GIF, BMP or TIFF, not {len(encoded)} bytes that begin with "
            f"0x{encoded[:8].hex()}",
            field=field,
        )

    def _check_pixels(self, width: int, height: int, field: str) -> None:
        pixels = width * height
        if pixels > self._max_pixels:
            raise InvalidArgument(
                f"expected at most {self._max_pixels} pixels, not {pixels} ({width} x {height})", field=field
            )
        if max(width, height) > _MAX_SIDE:
            raise InvalidArgument(f"expected sides of at most {_MAX_SIDE} pixels, not {width} x {height}", field=field)

    def _check_work(self, image: ImageFile, encoded: bytes, field: str) -> None:
        """Raise InvalidArgument for a file that is far more work than its pixels say."""
        if isinstance(image, JpegImageFile) and (scans := _jpeg_scans(encoded)) > _MAX_JPEG_SCANS:
            raise InvalidArgument(f"expected at most {_MAX_JPEG_SCANS} scans, not {scans}", field=field)
        if isinstance(image, TiffImageFile):  # a tile is decoded whole, however little of it lies inside the image
            tags = image.tag_v2
            self._check_pixels(tags.get(TILEWIDTH, 0), tags.get(TILELENGTH, 0), field)

    def _to_pixels(self, image: Image.Image) -> np.ndarray:
        side = self._preprocessing.size
        upright = _rgb(_upright(image))
        return np.asarray(upright.resize((side, side), self._preprocessing.resample))


def _jpeg_scans(encoded: bytes) -> int:
    """How many scans a JPEG has up to its end marker; what follows that, e.g. a video, is no part of it."""
    scans, position = 0, 2
    while (marker := _JPEG_MARKER.search(encoded, position)) and (kind := marker[0][1]) != _EOI:
        scans += kind == _SOS
        position = marker.end() + int.from_bytes(encoded[marker.end() : marker.end() + 2])
    return scans


def _upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says; as it is when the EXIF block can't be read."""
    try:
        orientation = image.getexif().get(Base.Orientation, 1)
    except Exception:  # a broken EXIF block is no fault of the pixels
        orientation = 1
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, transparency flattened on white, 16 bits a channel cut to their upper 8."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"expected 8 or 16 bits a channel, not 32 (mode {image.mode})")
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")  # convert() would copy
        return Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer).convert("RGB")
    return image.convert("RGB")
