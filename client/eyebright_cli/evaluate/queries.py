"""Captions with the ids of the pictures they describe, from a Parquet, CSV, TSV or JSON Lines file.

Owns the columns and every complaint about them. Knows no service.
"""

import csv
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyebright_cli.errors import CliError, MissingExtraError

ID_COLUMNS = ("id", "image_id", "filename", "image")
CAPTION_COLUMNS = ("caption", "captions", "text", "sentence")
"""The first of each that a file has is read: what Flickr8k, Flickr30k and COCO files call them."""

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class CaptionQuery:
    """A caption, and the id of the record whose picture it describes."""

    id: str
    caption: str


def read_queries(path: Path) -> list[CaptionQuery]:
    """All captions of a file, in its order; a row may hold one caption or a list of them.

    Raises CliError when it can't be read, lacks a column, or a row holds no id or no caption.
    """
    reader = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines}.get(
        path.suffix.lower()
    )
    if reader is None:
        raise CliError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    queries: list[CaptionQuery] = []
    try:
        for number, row in enumerate(reader(path), 1):
            queries += _of_row(path, number, row)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise CliError(f"{path} can't be read: {error}") from error
    if not queries:
        raise CliError(f"{path} holds no caption")
    return queries


def _of_row(path: Path, number: int, row: dict[str, Any]) -> Iterator[CaptionQuery]:
    identifier = row[_column(path, row, ID_COLUMNS)]
    captions = row[_column(path, row, CAPTION_COLUMNS)]
    if isinstance(identifier, int):
        identifier = str(identifier)
    if not isinstance(identifier, str) or not identifier:
        raise CliError(f"{path}, row {number}: expected an id, not {identifier!r}")
    for caption in captions if isinstance(captions, list) else [captions]:
        if not isinstance(caption, str) or not caption.strip():
            raise CliError(f"{path}, row {number}: expected a caption, not {caption!r}")
        yield CaptionQuery(identifier, caption)


def _column(path: Path, row: dict[str, Any], names: tuple[str, ...]) -> str:
    name = next((name for name in names if name in row), None)
    if name is None:
        given = ", ".join(str(key) for key in row) or "none"
        raise CliError(f"{path}: expected a column called {' or '.join(names)}, not only {given}")
    return name


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError('reading Parquet needs pyarrow: pip install "eyebright[parquet]"')
    import pyarrow  # it takes a second to import, and not everybody has it
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            wanted = [name for name in file.schema_arrow.names if name in (*ID_COLUMNS, *CAPTION_COLUMNS)]
            for batch in file.iter_batches(columns=wanted or None):
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise CliError(f"{path} can't be read: {error}") from error


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise CliError(f"{path}, row {number}: expected an object, not a {type(row).__name__}")
                yield row
