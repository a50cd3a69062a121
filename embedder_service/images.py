"""Encoded images -> the pixels a SigLIP checkpoint looks at.

Owns what is accepted as an image and how it becomes (size, size, 3) uint8. Thread-safe: changes no state of Pillow's.
Knows nothing of models, queues or gRPC.
"""

import ctypes
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Lock

import numpy as np
from PIL import Image, _imaging
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import COMPRESSION, TILELENGTH, TILEWIDTH, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from embedder_service.image_files import PictureFile, read_jpeg, read_plain, read_png, read_tiff, read_webp
from service_runtime.errors import InvalidArgument

# Pillow warns of what is odd in a file, and Python keeps each text for ever: a way to fill memory and the log.
warnings.filterwarnings("ignore", module=r"PIL\.")

# libtiff writes what it finds wrong in a file to standard error, among the lines of the log; Pillow raises all the
# same. A libtiff that can't be reached through Pillow keeps doing so.
if (_set_error_handler := getattr(ctypes.CDLL(_imaging.__file__), "TIFFSetErrorHandler", None)) is not None:
    _set_error_handler(None)

# A reader is called directly rather than through Image.open, whose check against decompression bombs warns through
# process-wide state and knows another limit than ours.
_READERS: tuple[tuple[bytes, int, type[ImageFile], Callable[[bytes], PictureFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, PngImageFile, read_png),
    (b"\xff\xd8\xff", 0, JpegImageFile, read_jpeg),
    (b"WEBP", 8, WebPImageFile, read_webp),
    (b"GIF8", 0, GifImageFile, read_plain),
    (b"BM", 0, BmpImageFile, read_plain),
    (b"II*\x00", 0, TiffImageFile, read_tiff),
    (b"MM\x00*", 0, TiffImageFile, read_tiff),
    (b"II+\x00", 0, TiffImageFile, read_tiff),
    (b"MM\x00+", 0, TiffImageFile, read_tiff),
)
"""(signature, its offset, Pillow's reader, ours that goes first)."""

_MAX_SIDE = 65_535
"""Longest side in pixels: JPEG's own limit. Resizing takes 32 bytes for each pixel of a side, so that an image of one
row within max_image_pixels would take gigabytes."""

_MAX_JPEG_SCANS = 100
"""A progressive JPEG has about 10. Each is a pass over all pixels and may take no more than 14 bytes of the file, so
that one within max_image_bytes would be decoded for hours."""

_MAX_RUN_LENGTH_PIXELS = 4_000_000
"""Of a BMP coded in run lengths, which Pillow decodes in Python: 0.2 s a million pixels."""

_TIFF_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000}
"""None, the three of fax, LZW, JPEG, deflate (by both numbers), PackBits, zstd. The others that libtiff knows are rare,
old and little tested."""

_MAX_TIFF_TILES = 65_536
"""Tiles or strips of an uncompressed TIFF. Pillow takes 10 us for each."""

_MAX_TIFF_PLANES = 6
"""How often the tiles of an uncompressed TIFF may cover it: once for each channel. Nothing else keeps each of them from
being the same 20 MB of the file."""

_STRIP_PIXELS = 1_000_000
"""Colours are converted so many pixels at a time, since Pillow keeps all other threads waiting meanwhile, and makes
copies."""

_LARGE_AT_A_TIME = 2
"""So many images of max_image_pixels may be in memory, or many smaller ones."""

_REDUCED_FROM = 4
"""A JPEG that is to become this many times smaller at least is decoded at a half, a quarter or an eighth of its size,
though not under this many times the size it will have: a third of the time for a photograph of 12 million pixels. The
demo checkpoint's vectors of 10 photographs kept a cosine of 0.99994 at least; with 2 instead of 4 it was 0.9994."""

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
    """Decodes, turns upright, flattens on white and resizes, within limits.

    A pixel takes up to 16 bytes meanwhile (a WebP with transparency; others 8). Threads that decode large images wait
    for each other.
    """

    def __init__(self, preprocessing: Preprocessing, max_bytes: int, max_pixels: int) -> None:
        self._preprocessing = preprocessing
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._room = _Room(_LARGE_AT_A_TIME * max_pixels)

    @property
    def row_bytes(self) -> int:
        """Bytes of a decoded image."""
        return 3 * self._preprocessing.size**2

    def decode(self, encoded: bytes, field: str) -> np.ndarray:
        """The pixels (size, size, 3) uint8 RGB of the first frame.

        Raises InvalidArgument, naming ``field``, for what is no image, is damaged, or passes a limit.
        """
        reader, read_file = self._check_bytes(encoded, field)
        try:
            file = read_file(encoded)
        except ValueError as error:
            raise InvalidArgument(str(error), field=field) from error
        try:
            with reader(io.BytesIO(file.data)) as image:
                self._check_pixels(*image.size, field)
                self._check_work(image, file, field)
                with self._room.taken(image.width * image.height):
                    return self._to_pixels(image, file.orientation)
        except InvalidArgument:
            raise
        except Image.DecompressionBombError as error:  # some readers check against Pillow's own limit
            raise InvalidArgument(f"expected at most {self._max_pixels} pixels: {error}", field=field) from error
        except Exception as error:  # Pillow's readers raise nearly anything on damaged input
            name = reader.format or reader.__name__
            raise InvalidArgument(
                f"expected a whole {name} image, not one that breaks: {error}", field=field
            ) from error

    def _check_bytes(self, encoded: bytes, field: str) -> tuple[type[ImageFile], Callable[[bytes], PictureFile]]:
        if not encoded:
            raise InvalidArgument("expected an encoded image, not 0 bytes", field=field)
        if len(encoded) > self._max_bytes:
            raise InvalidArgument(f"expected at most {self._max_bytes} bytes, not {len(encoded)}", field=field)
        for signature, offset, reader, read_file in _READERS:
            if encoded[offset : offset + len(signature)] == signature:
                return reader, read_file
        raise InvalidArgument(
            f"expected PNG, JPEG, WebP, GIF, BMP or TIFF, not {len(encoded)} bytes that begin with "
            f"0x{encoded[:8].hex()}",
            field=field,
        )

    def _check_pixels(self, width: int, height: int, field: str) -> None:
        pixels = width * height
        if not pixels:
            raise InvalidArgument(f"expected at least one pixel, not {width} x {height}", field=field)
        if pixels > self._max_pixels:
            raise InvalidArgument(
                f"expected at most {self._max_pixels} pixels, not {pixels} ({width} x {height})", field=field
            )
        if max(width, height) > _MAX_SIDE:
            raise InvalidArgument(f"expected sides of at most {_MAX_SIDE} pixels, not {width} x {height}", field=field)

    def _check_work(self, image: ImageFile, file: PictureFile, field: str) -> None:
        """Raise InvalidArgument for a file that is far more work than its pixels say."""
        pixels = image.width * image.height
        match image:
            case JpegImageFile() if file.scans > _MAX_JPEG_SCANS:
                raise InvalidArgument(f"expected at most {_MAX_JPEG_SCANS} scans, not {file.scans}", field=field)
            case BmpImageFile() if image.tile[0].codec_name == "bmp_rle" and pixels > _MAX_RUN_LENGTH_PIXELS:
                raise InvalidArgument(
                    f"expected at most {_MAX_RUN_LENGTH_PIXELS} pixels coded in run lengths, not {pixels}", field=field
                )
            case TiffImageFile():
                self._check_tiff(image, field)

    def _check_tiff(self, image: TiffImageFile, field: str) -> None:
        tags = image.tag_v2
        # A tile is decoded whole, however little of it lies inside the image.
        self._check_pixels(tags.get(TILEWIDTH, 1), tags.get(TILELENGTH, 1), field)
        if (compression := tags.get(COMPRESSION, 1)) not in _TIFF_COMPRESSIONS:
            raise InvalidArgument(
                f"expected a TIFF compression of {sorted(_TIFF_COMPRESSIONS)}, not {compression}", field=field
            )
        if len(image.tile) > _MAX_TIFF_TILES:
            raise InvalidArgument(f"expected at most {_MAX_TIFF_TILES} tiles, not {len(image.tile)}", field=field)
        extents = [tile.extents or (0, 0, *image.size) for tile in image.tile]
        covered = sum((right - left) * (bottom - top) for left, top, right, bottom in extents)
        if covered > (most := _MAX_TIFF_PLANES * image.width * image.height):
            raise InvalidArgument(f"expected tiles of at most {most} pixels in all, not {covered}", field=field)

    def _to_pixels(self, image: ImageFile, orientation: int) -> np.ndarray:
        side = self._preprocessing.size
        if isinstance(image, JpegImageFile):
            image.draft(None, (_REDUCED_FROM * side, _REDUCED_FROM * side))
        image.load()
        method = _UPRIGHT.get(orientation)
        upright = image if method is None else image.transpose(method)
        return np.asarray(_rgb(upright).resize((side, side), self._preprocessing.resample))


class _Room:
    """How many pixels may be in memory at a time."""

    def __init__(self, pixels: int) -> None:
        self._limit = pixels
        self._used = 0
        self._turn = Lock()
        self._left = Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait for room, and have it for the length of the block. Who came first goes first, so that small images
        don't pass a large one for ever.
        """
        with self._turn, self._left:
            self._left.wait_for(lambda: self._used + pixels <= self._limit)
            self._used += pixels
        try:
            yield
        finally:
            with self._left:
                self._used -= pixels
                self._left.notify()


def _rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, transparency flattened on white, 16 bits a channel cut to their upper 8."""
    rows = max(1, _STRIP_PIXELS // image.width)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if rows >= image.height:
        return _strip_to_rgb(image)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        rgb.paste(_strip_to_rgb(image.crop(box)), box)
    return rgb


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"expected 8 or 16 bits a channel, not 32 (mode {image.mode})")
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")  # convert() would copy
        return Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer).convert("RGB")
    return image.convert("RGB")
