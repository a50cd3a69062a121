"""Captions with their pictures, and perhaps the vectors that somebody else made of them, from a file.

Owns the columns of that file and every complaint about them. Knows no model.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np


class PairsError(ValueError):
    """The file can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Row i of each is of the same thing."""

    captions: list[str]
    pictures: list[bytes]
    """Encoded."""
    text_vectors: np.ndarray | None
    """(n, dimension) float32, made elsewhere; None where the file has none."""
    image_vectors: np.ndarray | None


def read_pairs(path: Path, most: int) -> Pairs:
    """At most so many rows of a .parquet or .jsonl file, spread evenly. Raises PairsError.

    Columns: caption; image, a path (relative to the file) or the bytes of a picture; text_vector and image_vector,
    both optional, lists of numbers.
    """
    rows = list(_rows(path))
    if len(rows) < 2:
        raise PairsError(f"{path}: expected at least 2 pairs, not {len(rows)}")
    kept = [rows[place] for place in np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]
    return Pairs(
        [_caption(path, row) for row in kept],
        [_picture(path, row) for row in kept],
        _vectors(path, kept, "text_vector"),
        _vectors(path, kept, "image_vector"),
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        if find_spec("pyarrow") is None:
            raise PairsError('reading Parquet needs pyarrow: pip install "eyebright[parquet]"')
        import pyarrow  # not everybody has it
        from pyarrow import parquet

        try:
            yield from parquet.read_table(path).to_pylist()
        except pyarrow.ArrowInvalid as error:
            raise PairsError(f"{path} can't be read: {error}") from error
    elif path.suffix == ".jsonl":
        try:
            yield from (json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip())
        except ValueError as error:
            raise PairsError(f"{path} can't be read: {error}") from error
    else:
        raise PairsError(f"{path}: expected a name that ends in .parquet or .jsonl")


def _caption(path: Path, row: dict[str, Any]) -> str:
    caption = row.get("caption")
    if not isinstance(caption, str) or not caption.strip():
        raise PairsError(f"{path}: expected a column caption with words, not {caption!r}")
    return caption


def _picture(path: Path, row: dict[str, Any]) -> bytes:
    image = row.get("image")
    if isinstance(image, dict):  # as Hugging Face's datasets writes pictures
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes):
        return image
    if isinstance(image, str) and image:
        return (path.parent / image).read_bytes()
    raise PairsError(f"{path}: expected a column image with a path or the bytes of a picture, not {image!r}")


def _vectors(path: Path, rows: list[dict[str, Any]], column: str) -> np.ndarray | None:
    if column not in rows[0]:
        return None
    try:
        vectors = np.array([row[column] for row in rows], np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise PairsError(f"{path}: expected as many numbers in every {column}: {error}") from error
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise PairsError(f"{path}: expected finite numbers in every {column}")
    return vectors
