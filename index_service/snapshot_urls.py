"""URLs of snapshots: their form, and which of them the operator allows.

Owns the comparison of a caller's URL with the allowed ones. Reads no file and knows no protocol but the local one.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_URL_CHARACTERS = 2048

_LOCAL_PROTOCOLS = ("file", "local")
_REMOTE = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]+)((?:/[^/]+)*)/?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REFUSED = re.compile(r"[\\*?#\[\]]|::")  # patterns, queries, and fsspec's chains of protocols


@dataclass(frozen=True, slots=True)
class SnapshotUrl:
    """A URL taken apart; of two that mean the same place, the fields are the same."""

    protocol: str
    """"file" for a folder of this machine."""
    parts: tuple[str, ...]
    """The host or bucket, then the path. For a folder the parts of its real path, with no symbolic link among them."""

    @property
    def folder(self) -> Path | None:
        """The folder on this machine; None for any other place."""
        return Path(*self.parts) if self.protocol == "file" else None

    def lies_in(self, other: "SnapshotUrl") -> bool:
        """Whether this is the other place, or one inside it."""
        return self.protocol == other.protocol and self.parts[: len(other.parts)] == other.parts


def parse_snapshot_url(url: str) -> SnapshotUrl:
    """Take a URL apart. Raises ValueError for one that is malformed, or could be read in more than one way."""
    if len(url) > MAX_URL_CHARACTERS:
        raise ValueError(f"expected at most {MAX_URL_CHARACTERS:,} characters, not {len(url):,}")
    if _CONTROL.search(url):
        raise ValueError(f"expected no control characters in {url!r}")
    protocol, separator, rest = url.partition("://")
    if not separator or protocol in _LOCAL_PROTOCOLS:
        return _local(url, rest if separator else url)
    if _REFUSED.search(url):
        raise ValueError(f'expected none of \\ * ? # [ ] and "::" in {url!r}')
    found = _REMOTE.fullmatch(url)
    if found is None:
        raise ValueError(f'expected an absolute path, "file:///folder", or "protocol://place/folder", not {url!r}')
    if "@" in found[2]:
        raise ValueError("expected no name or password before the place: the store's library reads its own credentials")
    parts = (found[2], *found[3].split("/")[1:])
    if {".", ".."} & set(parts):
        raise ValueError(f'expected no "." or ".." between slashes, not {url!r}')
    return SnapshotUrl(found[1], parts)


def is_allowed(url: SnapshotUrl, allowed: Sequence[str]) -> bool:
    """Whether a URL lies in one of the allowed places."""
    return any(url.lies_in(parse_snapshot_url(place)) for place in allowed)


def _local(url: str, path: str) -> SnapshotUrl:
    if not path.startswith("/"):
        raise ValueError(f'expected an absolute path or "file:///folder", not {url!r}')
    return SnapshotUrl("file", Path(os.path.realpath(path)).parts)
