"""What a backend is: numbers in, unit vectors out.

Owns the contract between the batcher and whatever computes. A backend knows neither queues nor gRPC.
"""

from enum import StrEnum
from typing import Protocol

import numpy as np


class Tower(StrEnum):
    """The two halves of a SigLIP checkpoint."""

    TEXT = "text"
    IMAGE = "image"


class Precision(StrEnum):
    """What the towers compute in; vectors are float32 whatever it is."""

    FP32 = "fp32"
    """The reference."""
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
    """Products alone, of bytes; what lies between them is kept in bf16, or in fp32 where the CPU has no bf16."""


class OutOfMemory(Exception):
    """The device has no memory for a batch of this size; a smaller one may do."""


class DeviceLost(Exception):
    """The device computes nothing any more for this process; another one may have it again."""


class Backend(Protocol):
    """Runs one tower or both on one device. May be called from several threads at a time."""

    device: str
    """Where it runs, e.g. ``cpu`` or ``cuda:0``."""
    towers: tuple[Tower, ...]
    """Those that forward() may be called for."""
    precision: Precision
    """What they compute in."""
    serial: bool
    """Whether passes that several threads ask for are computed one after another: two in flight then keep the device
    busy, as the second is brought there while the first is computed. Else they run side by side."""

    def forward(self, tower: Tower, batch: np.ndarray) -> np.ndarray:
        """Vectors (n, dimension) float32 of Euclidean length 1, each a function of its own row alone.

        ``batch`` is (n, size, size, 3) uint8 RGB for the image tower, (n, text_length) int64 token ids for the text
        tower. Raises OutOfMemory, after which the next call is worth a try, DeviceLost, after which none is, and
        anything else when the device fails.
        """
