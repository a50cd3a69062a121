"""Makes the pictures that `eyebright doctor` embeds, and the items of the golden files, without their vectors:
``python -m tests.conformance.make_pictures``, then ``python -m embedder_service golden``.

Each picture is small, and differs from its partner in exactly one thing that an embedder must heed (how it is turned,
what lies behind transparency) or must not (the container).
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from embedder_service.checkpoint_files import DEMO_FOLDER
from embedder_service.golden import FILE_NAME, Golden, GoldenCaption, GoldenPicture, write_golden

_PICTURES = Path(__file__).parents[2] / "client/eyebright_cli/doctor/pictures"

_GOLDEN_PICTURES = ("landscape.png", "panorama.jpg", "turned.jpg", "transparent.png", "gray.png")

_GOLDEN_CAPTIONS = (
    "a red heart",
    "a slice of pizza",
    "x",
    "THE EIFFEL TOWER AT NIGHT",
    "  a dog \t that sleeps\non a sofa ",
    "a bowl of soup (with noodles), seen from above!",
    "an old man who mends a fishing net beside the harbour while gulls wait on the wall for what he may drop, and the "
    "evening light lies on the water, and nobody says a word about the storm that took the other boats last winter",
    "Ärger über Öl — naïve café",
    "東京の夜 🦊",
    "قطة على أريكة حمراء",
    "Собака на пляже",
    "एक लाल दिल",
)

_ORIENTATION = 0x0112
_TURNED_RIGHT = 6  # to be seen upright, it must be turned by 90 degrees to the right


def scene(width: int, height: int) -> Image.Image:
    """A sky, a sun, a hill and a house: no two of its quarters are alike."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = 90 + 60 * y // height
    picture[..., 1] = 150 + 50 * y // height
    picture[..., 2] = 230 - 40 * x // width
    sun = (4 * x - width) ** 2 + (4 * y - height) ** 2 < (height // 2) ** 2
    picture[sun] = (250, 215, 60)
    hill = y > height * 2 // 3 + (x - width // 2) ** 2 // (2 * width)
    picture[hill] = (70, 150, 50)
    house = (x > width * 5 // 8) & (x < width * 7 // 8) & (y > height // 2) & (y < height * 5 // 6)
    picture[house] = (180, 60, 50)
    door = (x > width * 23 // 32) & (x < width * 25 // 32) & (y > height * 2 // 3) & (y < height * 5 // 6)
    picture[door] = (60, 40, 30)
    return Image.fromarray(picture)


def _encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def _transparent(picture: Image.Image) -> Image.Image:
    """Nothing but the scene's lower right is opaque; behind the rest the colour is black."""
    pixels = np.array(picture.convert("RGBA"))
    height, width = pixels.shape[:2]
    hidden = np.ones((height, width), bool)
    hidden[height * 2 // 5 :, width // 2 :] = False
    pixels[hidden] = 0
    return Image.fromarray(pixels)


def _on(colour: tuple[int, int, int], layer: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", layer.size, (*colour, 255))
    return Image.alpha_composite(ground, layer).convert("RGB")


def pictures() -> dict[str, bytes]:
    """Encoded pictures by file name."""
    landscape, portrait = scene(96, 72), scene(64, 96)
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURNED_RIGHT
    lying = portrait.transpose(Image.Transpose.ROTATE_90)
    layer = _transparent(landscape)
    jpeg = {"quality": 95, "subsampling": 0}
    return {
        "landscape.png": _encoded(landscape, "PNG", optimize=True),
        "landscape.webp": _encoded(landscape, "WEBP", lossless=True),
        "gray.png": _encoded(landscape.convert("L"), "PNG", optimize=True),
        "panorama.jpg": _encoded(scene(180, 40), "JPEG", **jpeg),
        "upright.jpg": _encoded(portrait, "JPEG", **jpeg),
        "turned.jpg": _encoded(lying, "JPEG", exif=exif, **jpeg),
        "lying.jpg": _encoded(lying, "JPEG", **jpeg),
        "transparent.png": _encoded(layer, "PNG", optimize=True),
        "on-white.png": _encoded(_on((255, 255, 255), layer), "PNG", optimize=True),
        "on-black.png": _encoded(_on((0, 0, 0), layer), "PNG", optimize=True),
    }


if __name__ == "__main__":
    made = pictures()
    for name, content in made.items():
        (_PICTURES / name).write_bytes(content)
    captions = tuple(GoldenCaption(text) for text in _GOLDEN_CAPTIONS)
    golden_pictures = tuple(GoldenPicture(name, made[name]) for name in _GOLDEN_PICTURES)
    write_golden(DEMO_FOLDER / FILE_NAME, Golden("", "", captions, golden_pictures))
