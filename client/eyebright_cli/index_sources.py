"""Where pictures come from: a folder, one file, a WebDataset tar, or a glob over either.

Owns ids, captions, metadata and source_uri of what is found, and reads it lazily: a folder's pictures are opened by the
SDK when their turn comes. Knows nothing of services.
"""

import glob
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from eyebright_client import ImageItem

from eyebright_cli.annotations import parse_caption, parse_metadata
from eyebright_cli.errors import SourceError
from eyebright_cli.webdataset_tar import IMAGE_SUFFIXES, Sample, count_samples, looks_like_tar, read_samples


@dataclass(frozen=True, slots=True)
class SourceFailure:
    """A picture, or a place, that could not be read."""

    id: str
    reason: str


class ImageSource(Protocol):
    """Pictures to index.

    ``total`` counts them, None where only reading would tell; ``failures`` grows while ``items`` is read.
    """

    total: int | None
    failures: list[SourceFailure]

    def items(self) -> Iterator[ImageItem]:
        """The pictures that can be offered, in a fixed order."""


def open_source(path: str) -> ImageSource:
    """The source behind a path or a glob. Raises SourceError when nothing there can be indexed."""
    if not path:
        raise SourceError('expected a folder, a picture, a tar or a glob, not an empty PATH; "." is this folder')
    place = Path(path)
    if place.is_dir():
        return _counted(FolderSource(place), path)
    if place.is_file():
        if not (_is_image(place.name) or tarfile.is_tarfile(place)):
            raise SourceError(f"{path} is neither a folder, a picture ({', '.join(IMAGE_SUFFIXES)}) nor a tar")
        return _counted(FilesSource(place.parent, [place]), path)
    if not glob.has_magic(path):
        raise SourceError(f"{path} does not exist")
    matches = sorted(Path(match) for match in glob.iglob(path, recursive=True))  # noqa: PTH207 - keeps ** and hidden rules
    files = [match for match in matches if match.is_file() and (_is_image(match.name) or looks_like_tar(match))]
    if not files:
        found = f"matches {len(matches)} names, none of them a picture or a tar" if matches else "matches nothing"
        raise SourceError(f"{path} {found}")
    return _counted(FilesSource(_fixed_folder(path), files), path)


@dataclass(slots=True)
class FolderSource:
    """Every picture under a folder; hidden files and folders are left out, links to folders are not followed."""

    root: Path
    total: int | None = None
    failures: list[SourceFailure] = field(default_factory=list)

    def count(self) -> int:
        """By walking the folder once."""
        return sum(1 for _ in self._walk([]))

    def items(self) -> Iterator[ImageItem]:
        """In the order of the names, folder by folder."""
        for path in self._walk(self.failures):
            yield from _file_items(path, self.root, self.failures)

    def _walk(self, failures: list[SourceFailure]) -> Iterator[Path]:
        def unreadable(error: OSError) -> None:
            failures.append(SourceFailure(_printable(os.fspath(error.filename)), f"can't be listed: {error.strerror}"))

        for folder, subfolders, names in os.walk(self.root, onerror=unreadable):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                if _is_image(name):
                    yield Path(folder, name)


@dataclass(slots=True)
class FilesSource:
    """Pictures and WebDataset tars by name; ids of pictures are relative to ``root``."""

    root: Path
    paths: list[Path]
    total: int | None = None
    failures: list[SourceFailure] = field(default_factory=list)

    def count(self) -> int | None:
        """From the tars' headers; None when a tar is compressed or damaged."""
        total = 0
        for path in self.paths:
            count = 1 if _is_image(path.name) else count_samples(path)
            if count is None:
                return None
            total += count
        return total

    def items(self) -> Iterator[ImageItem]:
        """File by file; a damaged tar is reported and the next one read."""
        keys: set[str] = set()
        for path in self.paths:
            if _is_image(path.name):
                yield from _file_items(path, self.root, self.failures)
            else:
                yield from self._tar_items(path, keys)

    def _tar_items(self, path: Path, keys: set[str]) -> Iterator[ImageItem]:
        """``keys`` holds those of earlier samples: a second picture of one key would pass for indexed already."""
        try:
            for sample in read_samples(path):
                try:
                    if sample.key in keys:
                        raise ValueError(f"its key stands twice, the second time in {path}")
                    keys.add(sample.key)
                    yield _sample_item(sample, path)
                except ValueError as error:
                    self.failures.append(SourceFailure(_printable(sample.key), str(error)))
        except (tarfile.TarError, EOFError, OSError) as error:
            self.failures.append(SourceFailure(_printable(str(path)), f"the tar can't be read further: {error}"))


def _file_items(path: Path, root: Path, failures: list[SourceFailure]) -> Iterator[ImageItem]:
    """The item of one file, or none and a failure."""
    identifier = path.relative_to(root).as_posix()
    try:
        _check_text(identifier)
        if path.exists() and not path.is_file():
            raise ValueError("it is not a regular file")
        caption, metadata = _sibling(path, ".txt"), _sibling(path, ".json")
        item = ImageItem(
            identifier,
            path,
            caption=None if caption is None else parse_caption(caption),
            metadata=None if metadata is None else parse_metadata(metadata),
            source_uri=str(path.absolute()),
        )
    except (ValueError, OSError) as error:
        failures.append(SourceFailure(_printable(identifier), str(error)))
    else:
        yield item


def _sibling(path: Path, suffix: str) -> bytes | None:
    """Bytes of the file that differs in its suffix only; None when there is none."""
    try:
        return path.with_suffix(suffix).read_bytes()
    except FileNotFoundError:
        return None


def _sample_item(sample: Sample, tar: Path) -> ImageItem:
    """The item of one sample. Raises ValueError when its name, caption or metadata can't be used."""
    _check_text(sample.image_name)
    caption, metadata = sample.annotations.get(".txt"), sample.annotations.get(".json")
    return ImageItem(
        sample.key,
        sample.image,
        caption=None if caption is None else parse_caption(caption),
        metadata=None if metadata is None else parse_metadata(metadata),
        source_uri=f"{tar.absolute()}#{sample.image_name}",
    )


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def _check_text(name: str) -> None:
    """Raise ValueError when a name from the file system is not UTF-8 and so can't be an id."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("its name is not UTF-8") from None


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _fixed_folder(pattern: str) -> Path:
    """The folder that every match of a glob lies in: the parts before the first wildcard."""
    parts = Path(pattern).parts[:-1]
    fixed = next((at for at, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:fixed])


def _counted(source: FolderSource | FilesSource, path: str) -> ImageSource:
    """The source with its total. Raises SourceError when it holds nothing."""
    source.total = source.count()
    if source.total == 0:
        raise SourceError(_emptiness(source, path))
    return source


def _emptiness(source: FolderSource | FilesSource, path: str) -> str:
    message = f"{path} holds no picture ({', '.join(IMAGE_SUFFIXES)})"
    if isinstance(source, FolderSource) and any(looks_like_tar(file) for file in source.root.iterdir()):
        pattern = f"{path.rstrip('/')}/*.tar*"
        return f'{message}; to read its tars: eyebright index "{pattern}"'
    return message
