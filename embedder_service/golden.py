"""Golden vectors: what a few captions and pictures must become under a checkpoint.

Owns the file they are kept in, ``golden.json`` beside the weights, and how close is close enough at which precision.
The file is self-contained, so that ``eyebright doctor --golden`` can hold a running server against it. Imports no
torch.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedder_service.backends import Backend, Tower
from embedder_service.checkpoint_files import CheckpointError
from embedder_service.images import ImageDecoder
from embedder_service.texts import CaptionTokenizer

FILE_NAME = "golden.json"

_FORMAT = 1
_VECTOR_DTYPE = np.dtype("<f4")

LEAST_COSINE: Mapping[str, float] = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.999, "int8": 0.99}
"""Least cosine between a vector and its golden one, by the precision of the towers."""


@dataclass(frozen=True, slots=True)
class GoldenCaption:
    """A caption and what it must become; None where that is not known yet."""

    text: str
    token_ids: tuple[int, ...] | None = None
    """As the text tower takes them, padding included."""
    vector: np.ndarray | None = None
    """(dimension,) float32 of length 1."""


@dataclass(frozen=True, slots=True)
class GoldenPicture:
    """An encoded picture and what it must become; None where that is not known yet."""

    name: str
    encoded: bytes
    pixels_sha256: str | None = None
    """sha-256 of the (size, size, 3) uint8 that the image tower takes, in hexadecimal."""
    vector: np.ndarray | None = None
    """(dimension,) float32 of length 1."""


@dataclass(frozen=True, slots=True)
class Golden:
    """The golden vectors of one vector space."""

    fingerprint: str
    made_by: str
    """How, and with which versions of the libraries."""
    captions: tuple[GoldenCaption, ...]
    pictures: tuple[GoldenPicture, ...]

    @property
    def vectors(self) -> list[np.ndarray | None]:
        """Those of the captions, then those of the pictures."""
        return [caption.vector for caption in self.captions] + [picture.vector for picture in self.pictures]


def cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of two vectors (dimension,), in float64."""
    product = float(ours.astype(np.float64) @ theirs.astype(np.float64))
    return product / float(np.linalg.norm(ours.astype(np.float64)) * np.linalg.norm(theirs.astype(np.float64)))


def computed(
    items: Golden, tokenizer: CaptionTokenizer, decoder: ImageDecoder, backend: Backend, fingerprint: str, made_by: str
) -> Golden:
    """The items with what they become under a checkpoint, each alone in its pass.

    Items of a tower that the backend lacks become no vector. Raises InvalidArgument for an item that is refused.
    """
    return Golden(
        fingerprint,
        made_by,
        tuple(_computed_caption(caption, tokenizer, backend) for caption in items.captions),
        tuple(_computed_picture(picture, decoder, backend) for picture in items.pictures),
    )


def _computed_caption(caption: GoldenCaption, tokenizer: CaptionTokenizer, backend: Backend) -> GoldenCaption:
    (tokenised,) = tokenizer.tokenise([caption.text], "captions")
    if isinstance(tokenised, Exception):
        raise tokenised
    row = tokenised.token_ids
    vector = backend.forward(Tower.TEXT, np.stack([row]))[0] if Tower.TEXT in backend.towers else None
    return GoldenCaption(caption.text, tuple(row.tolist()), vector)


def _computed_picture(picture: GoldenPicture, decoder: ImageDecoder, backend: Backend) -> GoldenPicture:
    row = decoder.decode(picture.encoded, picture.name)
    digest = hashlib.sha256(row.tobytes()).hexdigest()
    vector = backend.forward(Tower.IMAGE, np.stack([row]))[0] if Tower.IMAGE in backend.towers else None
    return GoldenPicture(picture.name, picture.encoded, digest, vector)


def read_golden(path: Path) -> Golden:
    """The golden vectors in a file. Raises CheckpointError, naming it, when it is none of this format."""
    try:
        stated = json.loads(path.read_text("utf-8"))
        if stated["format"] != _FORMAT:
            raise ValueError(f"expected format {_FORMAT}, not {stated['format']!r}")
        return Golden(
            fingerprint=str(stated["fingerprint"]),
            made_by=str(stated.get("made_by", "")),
            captions=tuple(_caption(entry) for entry in stated["captions"]),
            pictures=tuple(_picture(entry) for entry in stated["pictures"]),
        )
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{path}: {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} holds no golden vectors: {error}") from error


def write_golden(path: Path, golden: Golden) -> None:
    """Write the file."""
    captions = [
        {"text": caption.text} | _if_known("token_ids", caption.token_ids) | _stated_vector(caption.vector)
        for caption in golden.captions
    ]
    pictures = [
        {"name": picture.name, "data": base64.b64encode(picture.encoded).decode()}
        | _if_known("pixels_sha256", picture.pixels_sha256)
        | _stated_vector(picture.vector)
        for picture in golden.pictures
    ]
    path.write_text(
        f'{{"format": {_FORMAT},\n"fingerprint": {_json(golden.fingerprint)},\n"made_by": {_json(golden.made_by)},\n'
        f'"captions": {_lines(captions)},\n"pictures": {_lines(pictures)}}}\n',
        "utf-8",
    )


def _lines(entries: Sequence[Mapping[str, Any]]) -> str:
    """A JSON array with an entry a line."""
    return "[\n" + ",\n".join(map(_json, entries)) + "\n]"


def _json(value: Any) -> str:  # noqa: ANN401
    return json.dumps(value, ensure_ascii=False)


def _caption(entry: Mapping[str, Any]) -> GoldenCaption:
    token_ids = entry.get("token_ids")
    return GoldenCaption(
        text=str(entry["text"]),
        token_ids=None if token_ids is None else tuple(map(int, token_ids)),
        vector=_vector(entry.get("vector")),
    )


def _picture(entry: Mapping[str, Any]) -> GoldenPicture:
    return GoldenPicture(
        name=str(entry["name"]),
        encoded=_bytes(entry["data"]),
        pixels_sha256=entry.get("pixels_sha256"),
        vector=_vector(entry.get("vector")),
    )


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"expected base64: {error}") from error


def _vector(text: str | None) -> np.ndarray | None:
    if text is None:
        return None
    vector = np.frombuffer(_bytes(text), _VECTOR_DTYPE)
    length = float(np.linalg.norm(vector))
    if not abs(length - 1) < 1e-3:
        raise ValueError(f"expected vectors of length 1, not {length:.4g}")
    return vector


def _stated_vector(vector: np.ndarray | None) -> dict[str, str]:
    """In base64: little-endian float32, one after another."""
    return _if_known("vector", vector if vector is None else _base64(vector))


def _base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype(_VECTOR_DTYPE).tobytes()).decode()


def _if_known(name: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
    return {} if value is None else {name: value}
