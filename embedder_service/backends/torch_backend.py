"""The towers in PyTorch.

Owns the way to the device and back, and the length of the vectors. Knows nothing of queues, files or gRPC.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from embedder_service.backends import OutOfMemory, Precision, Tower
from embedder_service.backends.linear import linear_maker
from embedder_service.backends.pixel_values import PixelValues
from embedder_service.backends.precision import choose_precision, number_type
from embedder_service.backends.siglip import ImageTower, TextTower
from embedder_service.images import Preprocessing


def engine_build(device: str) -> tuple[str, str]:
    """The version of torch, and the instructions that it uses on this machine, or the accelerator."""
    known = torch.backends.cpu.get_cpu_capability() if device == "cpu" else torch.cuda.get_device_name(device)
    return torch.__version__, known


class TorchBackend:
    """Runs the towers of transformers' models on the CPU or a CUDA device.

    ``precision`` is "auto" or a Precision. Raises RuntimeError when torch can't reach the device, ValueError when the
    device can't compute in the precision. The models may be dropped afterwards.
    """

    def __init__(
        self,
        towers: Mapping[Tower, Any],
        preprocessing: Preprocessing,
        device: str,
        threads: int,
        precision: str = Precision.FP32,
    ) -> None:
        torch.set_num_threads(threads)
        self.device = device
        self.towers = tuple(towers)
        width = max(model.config.hidden_size for model in towers.values())
        self.precision = choose_precision(precision, device, width)
        dtype = number_type(self.precision)
        self._one_by_one = self.precision is Precision.INT8  # see QuantisedLinear
        make = linear_maker(dtype, device, quantised=self._one_by_one)
        kinds: dict[Tower, type[TextTower | ImageTower]] = {Tower.TEXT: TextTower, Tower.IMAGE: ImageTower}
        with torch.inference_mode():
            self._towers = {tower: kinds[tower](model, make, dtype, device) for tower, model in towers.items()}
        self.pixel_values = PixelValues(preprocessing, device)
        """(n, size, size, 3) uint8 -> (n, 3, size, size) float32."""

    def set_threads(self, threads: int) -> None:
        """Have a pass on the CPU take so many threads, in whatever thread its first pass runs from now on."""
        torch.set_num_threads(threads)

    def forward(self, tower: Tower, batch: np.ndarray) -> np.ndarray:
        """Unit vectors (n, dimension) float32; see Backend.forward."""
        with _out_of_memory_translated(), torch.inference_mode():
            rows = torch.from_numpy(batch).to(self.device)
            parts = rows.split(1) if self._one_by_one else (rows,)
            pooled = torch.cat([self._pooled(tower, part) for part in parts])
            vectors: np.ndarray = functional.normalize(pooled.float(), dim=-1).cpu().numpy()
            return vectors

    def _pooled(self, tower: Tower, rows: torch.Tensor) -> torch.Tensor:
        return self._towers[tower](rows if tower is Tower.TEXT else self.pixel_values(rows))


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What torch says on devices where it has no exception of its own for it, the CPU among them."""


@contextmanager
def _out_of_memory_translated() -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(str(error)) from error
    except RuntimeError as error:
        if any(words in str(error).lower() for words in _OUT_OF_MEMORY):
            raise OutOfMemory(str(error)) from error
        raise
