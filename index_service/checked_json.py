"""Small JSON files that say when a disk has changed them.

Owns the checksum in them. Knows nothing of what they hold.
"""

import json
import zlib
from collections.abc import Set
from typing import Any

_CHECKSUM = "crc32"


def render(described: dict[str, Any]) -> str:
    """The text of a file that holds this and a checksum of it."""
    return json.dumps({**described, _CHECKSUM: _checksum(described)}, indent=1)


def parse(text: str, *, unchecked: Set[str] = frozenset()) -> dict[str, Any]:
    """What ``render`` was given. Raises ValueError when the text is not what it made.

    ``unchecked`` are the names in a file of an earlier release, which had no checksum.
    """
    described = json.loads(text)
    if not isinstance(described, dict):
        raise ValueError(f"expected an object, not {type(described).__name__}")
    if unchecked and described.keys() == unchecked:
        return described
    checksum = described.pop(_CHECKSUM, None)
    if checksum != _checksum(described):
        raise ValueError(f"expected {_CHECKSUM} {_checksum(described)!r}, not {checksum!r}")
    return described


def _checksum(described: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(described, sort_keys=True).encode()):08x}"
