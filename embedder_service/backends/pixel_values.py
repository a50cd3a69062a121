"""Pixels as they are decoded -> numbers as a tower takes them.

Owns rescaling and normalising by a checkpoint's rule. Knows nothing of towers.
"""

import torch
from torch import Tensor

from embedder_service.images import Preprocessing


class PixelValues:
    """A checkpoint's rule, on a device."""

    def __init__(self, preprocessing: Preprocessing, device: str) -> None:
        scale, offset = preprocessing.affine()
        self._scale = torch.tensor(scale, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        self._offset = torch.tensor(offset, dtype=torch.float32, device=device).view(1, 3, 1, 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        """(n, size, size, 3) uint8 -> (n, 3, size, size) float32, rescaled and normalised."""
        return pixels.permute(0, 3, 1, 2).float() * self._scale + self._offset
