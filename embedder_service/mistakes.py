"""The usual mistakes around a SigLIP, made on purpose on somebody's own pairs: what each costs, and which one was made.

Owns the cheap mistakes and the verdict on vectors that were made elsewhere.
``docs/embedding.md`` explains each; recall is task recall, over the pairs alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from embedder_service.checkpoint_files import CheckpointFiles
from embedder_service.pairs import PairsError, read_pairs
from embedder_service.reference_towers import ReferenceTowers
from service_runtime.errors import InvalidArgument

_RIGHT_COSINE = 0.999
"""Of vectors that were made as ours are, in whatever precision."""

_LIKE_COSINE = 0.995
_LENGTH_TOLERANCE = 0.01
_LEAST_SHIFTED = 0.8
"""Share of rows whose vector is that of another row at the same distance, for rows to be out of step."""

RIGHT = "done right"


@dataclass(frozen=True, slots=True)
class Made:
    """Vectors (n, dimension) of all captions or pictures, made in one way; not scaled to length 1."""

    how: str
    vectors: np.ndarray


def of_captions(towers: ReferenceTowers, ids: np.ndarray) -> Iterator[Made]:
    """Captions of token ids (n, length), done right, and with each mistake."""
    yield Made(RIGHT, towers.texts(ids))
    yield Made("captions not padded, one at a time", towers.texts_padded_to_the_longest(ids, 1))
    yield Made("captions padded to the longest of 8", towers.texts_padded_to_the_longest(ids, 8))
    lengths, pad_id = towers.lengths(ids), towers.layout.pad_id
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    yield Made("an attention mask over the padding", towers.texts(ids, mask=mask.astype(np.int64)))
    left = np.stack([np.roll(row, -length) for row, length in zip(ids, lengths, strict=True)])
    yield Made("captions padded on the left", towers.texts(left))
    other = 0 if pad_id else 1
    yield Made(f"captions padded with id {other}, not {pad_id}", towers.texts(np.where(mask, ids, other)))


def of_pictures(towers: ReferenceTowers, pixels: np.ndarray) -> Iterator[Made]:
    """Pictures of pixels (n, size, size, 3) uint8, done right, and with each mistake."""
    yield Made(RIGHT, towers.pictures(pixels))
    mistakes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "values divided by 255 twice": lambda values: towers.normalised(values / 255),
        "values not divided by 255": lambda values: towers.normalised(values * 255),
        "values 0 to 1, not -1 to 1": lambda values: values / 255,
    }
    for how, normalise in mistakes.items():
        yield Made(how, towers.pictures(pixels, normalise=normalise))
    yield Made("blue, green, red", towers.pictures(np.ascontiguousarray(pixels[..., ::-1])))


def check_recall(files: CheckpointFiles, path: Path, most: int, output: TextIO) -> int:
    """Make every mistake on the pairs of a file and write what comes of it; returns the exit status.

    Without vectors in the file 0; with some 0 where they are as ours, else 1. Raises PairsError and CheckpointError.
    """
    pairs = read_pairs(path, most)
    towers = ReferenceTowers(files)
    try:
        ids, pixels = towers.token_ids(pairs.captions), towers.decoded(pairs.pictures)
    except InvalidArgument as error:
        raise PairsError(str(error)) from error
    captions, pictures = list(of_captions(towers, ids)), list(of_pictures(towers, pixels))
    output.write(f"{len(pairs.captions):,} pairs: the share of captions whose own picture is the best, or among ten\n")
    for made in captions:
        _write_recall(output, made.how, unit(made.vectors), unit(pictures[0].vectors))
    for made in pictures[1:]:
        _write_recall(output, made.how, unit(captions[0].vectors), unit(made.vectors))
    raw = captions[0].vectors @ pictures[0].vectors.T * 2 - (pictures[0].vectors ** 2).sum(axis=1)
    _write(output, "vectors not scaled to length 1, L2 distance", raw)
    failed = False
    for column, given, ways in (
        ("text_vector", pairs.text_vectors, captions),
        ("image_vector", pairs.image_vectors, pictures),
    ):
        if given is not None:
            well, said = verdict(given, ways)
            output.write(f"{'ok' if well else 'FAILED':<8}{column}: {said}\n")
            failed |= not well
    return int(failed)


def verdict(given: np.ndarray, ways: Sequence[Made]) -> tuple[bool, str]:
    """Whether vectors (n, dimension) made elsewhere are as ours, and if not, which mistake they look like."""
    right = ways[0].vectors
    if given.shape[1] != right.shape[1]:
        return False, f"{given.shape[1]} dimensions, the checkpoint has {right.shape[1]}: another checkpoint"
    lengths = np.linalg.norm(given, axis=1)
    if not lengths.all():
        return False, "some vectors are zeros"
    cosines = {made.how: float(np.median((unit(given) * unit(made.vectors)).sum(axis=1))) for made in ways}
    likeliest = max(cosines, key=cosines.__getitem__)
    said = f"median cosine to ours {cosines[RIGHT]:.4f}"
    if cosines[RIGHT] >= _RIGHT_COSINE:
        scaled = bool((np.abs(lengths - 1) <= _LENGTH_TOLERANCE).all())
        return scaled, said if scaled else f"{said}, but lengths from {lengths.min():.2f} to {lengths.max():.2f}, not 1"
    if (step := _step(given, right)) is not None:
        return False, f"{said}; out of step: row {step} rows on is the one that fits"
    if likeliest != RIGHT and cosines[likeliest] >= _LIKE_COSINE:
        return False, f"{said}; looks like: {likeliest} (cosine {cosines[likeliest]:.4f})"
    near = f"nearest: {likeliest} (cosine {cosines[likeliest]:.4f})"
    return False, f"{said}; like none of these mistakes, {near}; other weights, or another mistake of docs/embedding.md"


def _step(given: np.ndarray, right: np.ndarray) -> int | None:
    """By how many rows the vectors are shifted; None when they are not."""
    fits = (unit(given) @ unit(right).T).argmax(axis=1)
    steps, counts = np.unique(fits - np.arange(len(fits)), return_counts=True)
    most = int(counts.argmax())
    return int(steps[most]) if steps[most] != 0 and counts[most] >= _LEAST_SHIFTED * len(fits) else None


def _write_recall(output: TextIO, how: str, captions: np.ndarray, pictures: np.ndarray) -> None:
    _write(output, how, captions @ pictures.T)


def _write(output: TextIO, how: str, scores: np.ndarray) -> None:
    before = (scores > np.diag(scores)[:, None]).sum(axis=1)
    one, ten = float((before < 1).mean()), float((before < 10).mean())
    output.write(f"        {how:<48}recall@1 {one:7.1%}  recall@10 {ten:7.1%}\n")
    output.flush()


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1."""
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
