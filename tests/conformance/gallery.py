"""The demo gallery as both towers take it, and what a precision costs on it."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from eyebright_cli.demo.gallery import gallery_tar, read_gallery

from embedder_service.backends import Backend, Tower
from embedder_service.backends.torch_backend import TorchBackend
from embedder_service.checkpoint import Checkpoint, load_checkpoint
from embedder_service.checkpoint_files import DEMO, find_checkpoint
from embedder_service.images import ImageDecoder
from embedder_service.texts import TokenisedCaption

_BATCH = 32

Vectors = dict[Tower, np.ndarray]
"""(n, dimension) float32 of length 1: captions, and their pictures in the same order."""


@dataclass(frozen=True)
class Gallery:
    """All captions and pictures, with the checkpoint that they are for."""

    checkpoint: Checkpoint
    rows: dict[Tower, np.ndarray]

    @classmethod
    def read(cls) -> Self:
        """Decode and tokenise everything."""
        checkpoint = load_checkpoint(find_checkpoint(DEMO), 1 << 20)
        decoder = ImageDecoder(checkpoint.preprocessing, 1 << 20, 1 << 20)
        with gallery_tar() as tar:
            pictures = sorted(read_gallery(tar).values(), key=lambda picture: picture.key)
        captions = checkpoint.tokenizer.tokenise([picture.label for picture in pictures], "captions")
        token_ids = [caption.token_ids for caption in captions if isinstance(caption, TokenisedCaption)]
        pixels = [decoder.decode(picture.png, picture.key) for picture in pictures]
        assert len(token_ids) == len(pixels)
        return cls(checkpoint, {Tower.TEXT: np.stack(token_ids), Tower.IMAGE: np.stack(pixels)})

    def backend(self, precision: str, threads: int) -> TorchBackend:
        """The demo checkpoint's towers."""
        return TorchBackend(self.checkpoint.towers, self.checkpoint.preprocessing, "cpu", threads, precision)

    def vectors(self, backend: Backend) -> Vectors:
        """What everything becomes."""
        return {
            tower: np.concatenate(
                [backend.forward(tower, rows[begin : begin + _BATCH]) for begin in range(0, len(rows), _BATCH)]
            )
            for tower, rows in self.rows.items()
        }


def recall_at_1(vectors: Vectors) -> float:
    """Share of captions whose own picture is the nearest."""
    nearest = (vectors[Tower.TEXT] @ vectors[Tower.IMAGE].T).argmax(axis=1)
    return float((nearest == np.arange(len(nearest))).mean())


def least_cosine(some: np.ndarray, others: np.ndarray) -> float:
    """Between two vectors of the same item."""
    return float((some.astype(np.float64) * others).sum(axis=1).min())
