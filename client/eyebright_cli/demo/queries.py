"""What the demo asks: words, and pictures of the gallery that were altered.

Owns the queries and which pictures are right answers. Knows no service. Needs Pillow.
"""

import io
from collections.abc import Callable, Mapping

from PIL import Image

from eyebright_cli.demo.gallery import Picture
from eyebright_cli.demo.query import DemoQuery

BY_LABEL = {
    "a rocket in space": "rocket",
    "red heart": "red-heart",
    "watermelon": "watermelon",
    "a birthday cake": "birthday-cake",
    "a sailboat": "sailboat",
    "thumbs up": "thumbs-up",
}
"""Words that name one picture."""

BY_TAG = {
    "christmas": "christmas",
    "fruit": "fruit",
    "a flower": "flower",
    "crying, sad": "cry",
    "love": "love",
    "a rainy day": "rain",
}
"""Words that mean what a tag means; every picture with the tag is right."""


def _cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 10, height // 10, width - width // 10, height - height // 10))


def _rotated(image: Image.Image) -> Image.Image:
    return image.rotate(10, resample=Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))


def _shrunk(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2))


def _compressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=20)
    return Image.open(buffer)


BY_PICTURE: dict[str, tuple[str, Callable[[Image.Image], Image.Image]]] = {
    "octopus": ("cropped to 80 %", _cropped),
    "sunflower": ("turned by 10 degrees", _rotated),
    "fire-engine": ("shrunk to half", _shrunk),
    "teddy-bear": ("saved as a poor JPEG", _compressed),
}
"""Key of a picture -> how it is altered before it is searched; the unaltered one is right."""


def demo_queries(gallery: Mapping[str, Picture]) -> list[DemoQuery]:
    """Every query of the demo, words first."""
    queries = [DemoQuery(words, None, frozenset({key})) for words, key in BY_LABEL.items()]
    for words, tag in BY_TAG.items():
        queries.append(
            DemoQuery(words, None, frozenset(key for key, picture in gallery.items() if tag in picture.tags))
        )
    for key, (title, alter) in BY_PICTURE.items():
        picture = gallery[key]
        queries.append(DemoQuery(f"{picture.label}, {title}", _altered(picture.png, alter), frozenset({key})))
    return queries


def _altered(png: bytes, alter: Callable[[Image.Image], Image.Image]) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        alter(_on_white(image)).save(buffer, "PNG")
    return buffer.getvalue()


def _on_white(image: Image.Image) -> Image.Image:
    coloured = image.convert("RGBA")
    white = Image.new("RGBA", coloured.size, "white")
    return Image.alpha_composite(white, coloured).convert("RGB")
