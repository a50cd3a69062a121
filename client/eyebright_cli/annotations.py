"""The caption and the metadata that stand beside a picture, as ``.txt`` and ``.json``.

Owns what their bytes mean. Does not know whether they lay in a folder or in a tar.
"""

import json
from typing import Any


def parse_caption(content: bytes) -> str | None:
    """The caption in a ``.txt``, without the white space around it; None when it is blank. Raises ValueError."""
    try:
        return content.decode("utf-8-sig").strip() or None
    except UnicodeDecodeError as error:
        raise ValueError(f"its .txt is not UTF-8: {error}") from error


def parse_metadata(content: bytes) -> dict[str, Any]:
    """The object in a ``.json``, integers kept exactly. Raises ValueError when it is anything else."""
    try:
        metadata = json.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("its .json is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"its .json can't be read: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"its .json holds a {type(metadata).__name__}, expected an object")
    return metadata
