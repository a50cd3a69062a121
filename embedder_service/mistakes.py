"""The usual mistakes around a SigLIP, made on purpose on somebody's own pairs: what each costs, and which one was made.

Owns the cheap mistakes, on transformers' own towers in float32, and the verdict on vectors that were made elsewhere.
``docs/embedding.md`` explains each; recall is task recall, over the pairs alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from transformers.models.siglip.modeling_siglip import SiglipModel

from embedder_service.checkpoint import Checkpoint, load_checkpoint
from embedder_service.checkpoint_files import CheckpointFiles
from embedder_service.images import ImageDecoder
from embedder_service.pairs import Pairs, PairsError, read_pairs
from embedder_service.texts import TokenisedCaption
from service_runtime.errors import InvalidArgument

_MAX_TEXT_BYTES = 32 * 1024
_MAX_IMAGE_BYTES = 64 * 1024 * 1024
_MAX_IMAGE_PIXELS = 100_000_000
_BATCH = 16
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


class Towers:
    """A checkpoint as transformers has it, and the items that go in."""

    def __init__(self, files: CheckpointFiles, pairs: Pairs) -> None:
        self._checkpoint: Checkpoint = load_checkpoint(files, _MAX_TEXT_BYTES)
        loaded: Any = SiglipModel.from_pretrained(
            files.folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        self._model = loaded.eval()
        self._layout = self._checkpoint.tokenizer.layout
        self._ids = self._token_ids(pairs.captions)
        decoder = ImageDecoder(self._checkpoint.preprocessing, _MAX_IMAGE_BYTES, _MAX_IMAGE_PIXELS)
        try:
            self._pixels = np.stack(
                [decoder.decode(encoded, f"image {number}") for number, encoded in enumerate(pairs.pictures, 1)]
            )
        except InvalidArgument as error:
            raise PairsError(str(error)) from error

    def captions(self) -> Iterator[Made]:
        """Done right, and with each mistake."""
        ids, lengths = self._ids, (self._ids == self._layout.eos_id).argmax(axis=1) + 1
        yield Made(RIGHT, self._texts(ids))
        yield Made("captions not padded, one at a time", self._short(ids, lengths, 1))
        yield Made("captions padded to the longest of a batch", self._short(ids, lengths, 8))
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        yield Made("an attention mask over the padding", self._texts(ids, mask.astype(np.int64)))
        left = np.stack([np.roll(row, -length) for row, length in zip(ids, lengths, strict=True)])
        yield Made("captions padded on the left", self._texts(left))
        other = 0 if self._layout.pad_id else 1
        yield Made(
            f"captions padded with id {other}, not {self._layout.pad_id}", self._texts(np.where(mask, ids, other))
        )

    def pictures(self) -> Iterator[Made]:
        """Done right, and with each mistake."""
        scale, offset = (torch.tensor(values).view(3, 1, 1) for values in self._checkpoint.preprocessing.affine())
        yield Made(RIGHT, self._images(self._pixels, lambda values: values * scale + offset))
        mistakes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "values divided by 255 twice": lambda values: values / 255 * scale + offset,
            "values not divided by 255": lambda values: values * 255 * scale + offset,
            "values 0 to 1, not -1 to 1": lambda values: values / 255,
        }
        for how, normalise in mistakes.items():
            yield Made(how, self._images(self._pixels, normalise))
        swapped = np.ascontiguousarray(self._pixels[..., ::-1])
        yield Made("blue, green, red", self._images(swapped, lambda values: values * scale + offset))

    def _token_ids(self, captions: Sequence[str]) -> np.ndarray:
        rows = []
        for outcome in self._checkpoint.tokenizer.tokenise(captions, "caption"):
            if not isinstance(outcome, TokenisedCaption):
                raise PairsError(str(outcome))
            rows.append(outcome.token_ids)
        return np.stack(rows)

    def _short(self, ids: np.ndarray, lengths: np.ndarray, batch: int) -> np.ndarray:
        parts = range(0, len(ids), batch)
        return np.concatenate(
            [self._texts(ids[begin : begin + batch, : lengths[begin : begin + batch].max()]) for begin in parts]
        )

    def _texts(self, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        def run(begin: int) -> torch.Tensor:
            masked = {} if mask is None else {"attention_mask": torch.from_numpy(mask[begin : begin + _BATCH])}
            ours = torch.from_numpy(np.ascontiguousarray(ids[begin : begin + _BATCH]))
            output: torch.Tensor = self._model.text_model(input_ids=ours, **masked).pooler_output
            return output

        return _in_batches(len(ids), run)

    def _images(self, pixels: np.ndarray, normalise: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        def run(begin: int) -> torch.Tensor:
            values = normalise(torch.from_numpy(pixels[begin : begin + _BATCH]).permute(0, 3, 1, 2).float())
            output: torch.Tensor = self._model.vision_model(pixel_values=values).pooler_output
            return output

        return _in_batches(len(pixels), run)


def check_recall(files: CheckpointFiles, path: Path, most: int, output: TextIO) -> int:
    """Make every mistake on the pairs of a file and write what comes of it; returns the exit status.

    Without vectors in the file 0; with some 0 where they are as ours, else 1. Raises PairsError and CheckpointError.
    """
    pairs = read_pairs(path, most)
    towers = Towers(files, pairs)
    captions, pictures = list(towers.captions()), list(towers.pictures())
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


def _in_batches(count: int, run: Callable[[int], torch.Tensor]) -> np.ndarray:
    with torch.inference_mode():
        vectors: np.ndarray = torch.cat([run(begin) for begin in range(0, count, _BATCH)]).numpy()
    return vectors


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1."""
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
