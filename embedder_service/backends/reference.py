"""The reference: transformers' own towers, in float32 on the CPU.

Owns nothing but the call. What is served is held against it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from embedder_service.backends import Precision, Tower
from embedder_service.backends.pixel_values import PixelValues
from embedder_service.images import Preprocessing


class ReferenceBackend:
    """A Backend over transformers' models as they are loaded; takes no memory of its own."""

    device = "cpu"
    precision = Precision.FP32
    serial = False

    def __init__(self, towers: Mapping[Tower, Any], preprocessing: Preprocessing) -> None:
        self.towers = tuple(towers)
        self._models = towers
        self._pixel_values = PixelValues(preprocessing, self.device)

    def forward(self, tower: Tower, batch: np.ndarray) -> np.ndarray:
        """See Backend.forward."""
        with torch.inference_mode():
            rows = torch.from_numpy(batch)
            given = {"input_ids": rows} if tower is Tower.TEXT else {"pixel_values": self._pixel_values(rows)}
            vectors: np.ndarray = functional.normalize(self._models[tower](**given).pooler_output, dim=-1).numpy()
            return vectors
