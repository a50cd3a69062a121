"""Golden vectors: what captions and pictures must become in one vector space.

Owns the file they are kept in: JSON that holds the items too, so that it says everything that is needed to check a
server. ``python -m embedder_service golden`` writes such a file from a checkpoint, ``eyebright doctor --record`` from a
running server.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from eyebright_cli.errors import CliError

_FORMAT = 1
_VECTOR_DTYPE = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class Golden:
    """Captions and pictures with their vectors, and the fingerprint of the space these lie in."""

    fingerprint: str
    captions: tuple[str, ...]
    caption_vectors: np.ndarray
    """(n, dimension) float32, in the order of the captions."""
    pictures: tuple[tuple[str, bytes], ...]
    """(name, encoded picture)."""
    picture_vectors: np.ndarray
    """(n, dimension) float32, in the order of the pictures."""


def bundled_golden() -> Golden:
    """The golden vectors of the demo checkpoint."""
    text = (resources.files("eyebright_cli") / "doctor" / "demo-golden.json").read_text("utf-8")
    return _parsed(json.loads(text))


def read_golden(path: Path) -> Golden:
    """The golden vectors in a file. Raises CliError, naming it, when it holds none."""
    try:
        return _parsed(json.loads(path.read_text("utf-8")))
    except KeyError as error:
        raise CliError(f"{path} holds no golden vectors: {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise CliError(f"{path} holds no golden vectors: {error}") from error


def write_golden(path: Path, golden: Golden, made_by: str) -> None:
    """Write the file."""
    captions = zip(golden.captions, golden.caption_vectors, strict=True)
    pictures = zip(golden.pictures, golden.picture_vectors, strict=True)
    stated = {
        "format": _FORMAT,
        "fingerprint": golden.fingerprint,
        "made_by": made_by,
        "captions": [{"text": text, "vector": _base64(vector)} for text, vector in captions],
        "pictures": [
            {"name": name, "data": base64.b64encode(encoded).decode(), "vector": _base64(vector)}
            for (name, encoded), vector in pictures
        ],
    }
    path.write_text(json.dumps(stated, ensure_ascii=False, indent=1) + "\n", "utf-8")


def _parsed(stated: Mapping[str, Any]) -> Golden:
    """Raises ValueError, TypeError or KeyError for what is no golden file. Items without a vector are left out."""
    if stated["format"] != _FORMAT:
        raise ValueError(f"expected format {_FORMAT}, not {stated['format']!r}")
    captions = [entry for entry in stated["captions"] if "vector" in entry]
    pictures = [entry for entry in stated["pictures"] if "vector" in entry]
    return Golden(
        fingerprint=str(stated["fingerprint"]),
        captions=tuple(str(entry["text"]) for entry in captions),
        caption_vectors=_vectors(captions),
        pictures=tuple((str(entry["name"]), _bytes(entry["data"])) for entry in pictures),
        picture_vectors=_vectors(pictures),
    )


def _vectors(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    rows = [np.frombuffer(_bytes(entry["vector"]), _VECTOR_DTYPE) for entry in entries]
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"expected base64: {error}") from error


def _base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype(_VECTOR_DTYPE).tobytes()).decode()
