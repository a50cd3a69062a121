"""Reads a WebDataset tar: neighbouring members with one key are one sample (``key.png``, ``key.txt``, ``key.json``).

Owns the convention (https://github.com/webdataset/webdataset, "The WebDataset Format"), on the standard library's
tarfile: the webdataset library imports torch when it is installed, and the command must not.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""File name endings, in lower case, of the picture formats that the embedder takes."""

_KEY_AND_SUFFIX = re.compile(r"^((?:.*/)?[^./][^./]*)(\.[^/]*)$")
_ANNOTATION_SUFFIXES = (".txt", ".json")
_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(slots=True)
class Sample:
    """One key of a tar with the members that matter: the first picture, ``.txt`` and ``.json``."""

    key: str
    image_name: str = ""
    image: bytes = b""
    annotations: dict[str, bytes] = field(default_factory=dict)


def looks_like_tar(path: Path) -> bool:
    """Whether the name ends like a tar's, compressed or not."""
    return path.name.lower().endswith(_TAR_ENDINGS)


def count_samples(path: Path) -> int | None:
    """How many samples with a picture the tar holds, from its headers; None when it is compressed or damaged."""
    try:
        with tarfile.open(path, "r:") as tar:
            return sum(1 for _ in _samples(tar, read=False))
    except tarfile.TarError:
        return None


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples that have a picture, in the order of the tar, read as they are asked for.

    Raises tarfile.TarError, EOFError or OSError where the file is damaged; samples before that place were yielded.
    """
    with tarfile.open(path, "r:*") as tar:
        yield from _samples(tar, read=True)


def _samples(tar: tarfile.TarFile, *, read: bool) -> Iterator[Sample]:
    current: Sample | None = None
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
        match = _KEY_AND_SUFFIX.match(member.name) if member.isreg() else None
        if match is None:
            continue
        key, suffix = match[1].removeprefix("./"), match[2].lower()
        if current is None or key != current.key:
            if current is not None and current.image_name:
                yield current
            current = Sample(key)
        if suffix in _ANNOTATION_SUFFIXES:
            current.annotations[suffix] = _content(tar, member) if read else b""
        elif suffix in IMAGE_SUFFIXES and not current.image_name:
            current.image_name = member.name
            current.image = _content(tar, member) if read else b""
    if current is not None and current.image_name:
        yield current


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Bytes of a regular member. Raises tarfile.ReadError when the file ends inside it."""
    stream = tar.extractfile(member)
    content = stream.read() if stream is not None else b""
    if len(content) != member.size:
        raise tarfile.ReadError(f"{member.name} ends after {len(content)} of {member.size} bytes")
    return content
