"""The fingerprint of a vector space: equal when, and only when, vectors may be compared.

Owns the digests and what goes into them. Knows neither torch nor gRPC: weights are read as the bytes they are stored
in.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 16 * 1024 * 1024
_VERSION = 1
"""Moves when the way of computing the fingerprint does."""


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """Everything that decides where a vector lies. Precision of computation is no part of it: it moves vectors by less
    than a comparison notices.
    """

    weights: str
    """Digest of every weight of both towers, scale and bias: see weights_digest()."""
    architecture: Mapping[str, Any]
    """What the weights alone don't say: heads, activation, lengths."""
    preprocessing: Mapping[str, Any]
    """Size, resample, rescale factor, mean and std of images."""
    text_layout: Mapping[str, Any]
    """Length, EOS, padding and punctuation of captions."""
    text_normalisation: int
    """Version of the rule that captions are normalised by."""
    tokenizer: str
    """Digest of the tokenizer's file."""
    pooling: str = "pooler_output"
    """Which output of a tower is the vector."""
    normalisation: str = "l2"
    """What is done to it."""

    def fingerprint(self) -> str:
        """64 lower-case hexadecimal digits."""
        stated = json.dumps({"version": _VERSION, **asdict(self)}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(stated.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(files: Iterable[Path]) -> str:
    """sha-256 over the name, type, shape and bytes of every tensor, by name, in hexadecimal.

    The same weights give the same digest however many safetensors files hold them, and in whatever order. Raises
    ValueError for a file that is not safetensors, or a tensor that stands in two of them. Layout of the files:
    https://huggingface.co/docs/safetensors#format.
    """
    found: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for path in files:
        data_begin, header = _read_header(path)
        for name, entry in header.items():
            if name in found:
                raise ValueError(f"tensor {name} stands in {found[name][0].name} and in {path.name}")
            found[name] = (path, data_begin, entry)
    digest = hashlib.sha256()
    for name in sorted(found):
        path, data_begin, entry = found[name]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        begin, end = entry["data_offsets"]
        _update(digest, path, data_begin + begin, end - begin)
    return digest.hexdigest()


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """(offset of the tensors' bytes, {tensor name: entry}) of a safetensors file."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError(f"its header of {length} bytes is longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
    except (struct.error, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path.name} is no safetensors file: {error}") from error
    return 8 + length, header


def _update(digest: "hashlib._Hash", path: Path, offset: int, length: int) -> None:
    with path.open("rb") as file:
        file.seek(offset)
        while length > 0:
            chunk = file.read(min(length, _CHUNK_BYTES))
            if not chunk:
                raise ValueError(f"{path.name} ends {length} bytes early")
            digest.update(chunk)
            length -= len(chunk)
