"""The demo gallery: pictures in an art style that the demo checkpoint was not trained on, each with its label and tags.

Owns where the bundled tar lies and what a picture of it is. Sources and licence: ``demo_gallery/NOTICE``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from eyebright_cli.annotations import parse_caption, parse_metadata
from eyebright_cli.webdataset_tar import read_samples


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: ``key`` is its id, ``label`` its caption, ``png`` the encoded image."""

    key: str
    label: str
    tags: frozenset[str]
    png: bytes


@contextmanager
def gallery_tar() -> Iterator[Path]:
    """The bundled tar as a file, also where the package is not unpacked."""
    with resources.as_file(resources.files("eyebright_cli") / "demo_gallery" / "noto.tar") as path:
        yield path


def read_gallery(tar: Path) -> dict[str, Picture]:
    """All pictures by key, in the order of the tar."""
    pictures = {}
    for sample in read_samples(tar):
        label = parse_caption(sample.annotations[".txt"]) or ""
        tags = parse_metadata(sample.annotations[".json"])["tags"]
        pictures[sample.key] = Picture(sample.key, label, frozenset(tags), sample.image)
    return pictures
