"""Images as a caller may give them, and their encoded bytes.

Owns reading files and encoding image objects. Knows no service, and does not import Pillow: an image object is anything
with Pillow's ``save``.
"""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Protocol, TypeAlias, runtime_checkable

from eyebright_client._exceptions import ImageUnreadable, InvalidArgument

_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_TIFF_MODES = frozenset({"CMYK", "LAB", "I", "F"})


@runtime_checkable
class EncodableImage(Protocol):
    """What this package needs of a ``PIL.Image.Image``."""

    @property
    def mode(self) -> str:
        """How pixels are stored, e.g. ``RGB``."""

    def save(self, fp: IO[bytes], format: str | None = None, **params: Any) -> None:  # noqa: A002 (Pillow's own name)
        """Encode the image into a file object."""


Image: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | EncodableImage
"""A path, an encoded image (PNG, JPEG, WebP, GIF, BMP, TIFF), or a PIL image."""


@dataclass(frozen=True, slots=True)
class ImageItem:
    """An image to index, with what is to be stored beside its vector.

    ``id`` is 1 to 512 bytes of UTF-8, ``caption`` at most 32 KiB, ``source_uri`` at most 4 KiB, ``metadata`` a JSON
    object of at most 64 KiB and 32 levels.
    """

    id: str
    image: Image
    caption: str | None = None
    metadata: Mapping[str, Any] | None = None
    source_uri: str | None = None


def image_bytes(image: Image, max_bytes: int, position: int | None = None) -> bytes:
    """The encoded image.

    A PIL image is encoded without loss (PNG, or TIFF for the modes that PNG lacks), with its EXIF orientation. Raises
    ImageUnreadable when that fails or a file can't be read, InvalidArgument when the result is larger than
    ``max_bytes``.
    """
    match image:
        case bytes() | bytearray() | memoryview():
            data = bytes(image)
        case str() | os.PathLike():
            data = _read_file(image, max_bytes, position)
        case EncodableImage():
            data = _encode(image, position)
        case _:
            raise InvalidArgument(
                f"expected a path, bytes, or a PIL image, not {type(image).__name__}", position=position
            )
    if len(data) > max_bytes:
        raise InvalidArgument(
            f"expected at most {max_bytes} bytes of encoded image, not {len(data)}", position=position
        )
    return data


def held_bytes(image: object) -> int:
    """About how much memory an image keeps: nothing for a path."""
    if isinstance(image, bytes | bytearray | memoryview):
        return len(image)
    size = getattr(image, "size", None)
    return size[0] * size[1] * 4 if isinstance(size, tuple) else 0


def _read_file(path: str | os.PathLike[str], max_bytes: int, position: int | None) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (any PathLike will do)
            data = file.read(max_bytes + 1)
            size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ImageUnreadable(f"can't read {os.fspath(path)!r}: {error}", position=position) from error
    if len(data) > max_bytes:
        raise InvalidArgument(
            f"expected at most {max_bytes} bytes of encoded image, not {max(size, len(data))} ({os.fspath(path)!r})",
            position=position,
        )
    return data


def _encode(image: EncodableImage, position: int | None) -> bytes:
    buffer = io.BytesIO()
    try:
        orientation = {"exif": image.getexif()} if hasattr(image, "getexif") else {}
        if image.mode in _TIFF_MODES:
            image.save(buffer, format="TIFF", compression="tiff_lzw", **orientation)
        else:
            drawn = image if image.mode in _PNG_MODES or not hasattr(image, "convert") else image.convert("RGBA")
            drawn.save(buffer, format="PNG", compress_level=1, **orientation)
    except Exception as error:  # the object is foreign: whatever its plug-ins raise means the same here
        raise ImageUnreadable(
            f"can't encode a {type(image).__name__} of mode {image.mode}: {error}", position=position
        ) from error
    return buffer.getvalue()
