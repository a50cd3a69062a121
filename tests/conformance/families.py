"""Checkpoints of the real families' shapes, with random weights.

The shapes are those of the published config.json files; the vocabulary is small, since nothing but the size of a table
hangs on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import SiglipConfig, SiglipModel

from embedder_service.backends import Tower
from embedder_service.backends.torch_backend import TorchBackend
from embedder_service.images import Preprocessing

VOCABULARY = 1000
TEXT_LENGTH = 64
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}


@dataclass(frozen=True)
class Family:
    """What a published checkpoint looks like."""

    encoder: Mapping[str, int]
    image_size: int
    patch_size: int
    resample: Image.Resampling
    image_gflop: float
    """Of one image through the whole depth."""
    text_gflop: float
    """Of one caption."""
    pad_id: int

    def model(self, layers: int | None = None, seed: int = 0) -> SiglipModel:
        """transformers' model with random weights, of the whole depth or of the first layers alone."""
        encoder = dict(self.encoder) | ({"num_hidden_layers": layers} if layers else {})
        torch.manual_seed(seed)
        model: Any = SiglipModel(
            SiglipConfig(
                text_config=encoder
                | {
                    "vocab_size": VOCABULARY,
                    "max_position_embeddings": TEXT_LENGTH,
                    "projection_size": encoder["hidden_size"],
                    "bos_token_id": 1,
                    "eos_token_id": 1,
                    "pad_token_id": self.pad_id,
                },
                vision_config=encoder | {"image_size": self.image_size, "patch_size": self.patch_size},
            )
        )
        # Fresh norms and biases are ones and zeros, under which an error of theirs would not show.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        whole: SiglipModel = model.eval()
        return whole

    def backend(self, model: SiglipModel, precision: str, threads: int) -> TorchBackend:
        """Our towers over its weights, on the CPU."""
        towers = {Tower.TEXT: model.text_model, Tower.IMAGE: model.vision_model}
        return TorchBackend(towers, self.preprocessing(), "cpu", threads, precision)

    def preprocessing(self) -> Preprocessing:
        """The published one."""
        half = (0.5, 0.5, 0.5)
        return Preprocessing(self.image_size, self.resample, 1 / 255, half, half)

    def token_ids(self, count: int, seed: int = 0) -> np.ndarray:
        """Captions of all lengths (count, TEXT_LENGTH) int64, ended by EOS 1 and padded."""
        draw = np.random.default_rng(seed)
        rows = draw.integers(2, VOCABULARY, (count, TEXT_LENGTH))
        for row, length in zip(rows, np.linspace(1, TEXT_LENGTH - 1, count).astype(int), strict=True):
            row[length:] = self.pad_id
            row[length] = 1
        return rows


FAMILIES = {
    "siglip-base-patch16-224": Family(_BASE, 224, 16, Image.Resampling.BICUBIC, 35.4, 11.0, pad_id=1),
    "siglip-so400m-patch14-384": Family(_SO400M, 384, 14, Image.Resampling.BICUBIC, 670.0, 53.1, pad_id=1),
    "siglip2-base-patch16-256": Family(_BASE, 256, 16, Image.Resampling.BILINEAR, 46.8, 11.0, pad_id=0),
}
"""By the name they have on the hub, without their owner."""
