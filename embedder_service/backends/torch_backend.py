"""The towers in PyTorch.

Owns the way to the device and back, and the length of the vectors. Knows nothing of queues, files or gRPC.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from embedder_service.backends import DeviceLost, OutOfMemory, Precision, Tower
from embedder_service.backends.cuda import CudaDevice
from embedder_service.backends.linear import linear_maker
from embedder_service.backends.pixel_values import PixelValues
from embedder_service.backends.precision import choose_precision, number_type
from embedder_service.backends.siglip import ImageTower, TextTower
from embedder_service.images import Preprocessing
from embedder_service.parallelism import Threads


def engine_build(device: str) -> tuple[str, str]:
    """The version of torch, and the instructions that it uses on this machine, or the accelerator."""
    known = torch.backends.cpu.get_cpu_capability() if device == "cpu" else torch.cuda.get_device_name(device)
    return torch.__version__, known


class TorchBackend:
    """Runs the towers of transformers' models on the CPU or a CUDA device.

    ``precision`` is "auto" or a Precision; passes on the CPU take ``threads`` together. Raises RuntimeError when torch
    can't reach the device, ValueError when the device can't compute in the precision. The models may be dropped
    afterwards.
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
        self.threads = Threads(threads)
        """Of a pass on the CPU."""
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
        self._cuda = None if device == "cpu" else CudaDevice(device)
        self.serial = self._cuda is not None

    def forward(self, tower: Tower, batch: np.ndarray) -> np.ndarray:
        """Unit vectors (n, dimension) float32; see Backend.forward."""
        try:
            return self._forward(tower, batch)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                if self._cuda is not None and self._cuda.is_lost():
                    raise DeviceLost(f"{self.device}: {error}") from error
                raise
            reason = str(error)
        # Not in the handler: the error holds the tensors of the pass, and a smaller one needs their memory.
        raise OutOfMemory(reason)

    def _forward(self, tower: Tower, batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            if self._cuda is not None:
                return self._cuda.run(batch, partial(self._unit_vectors, tower))
            with self.threads.taken() as threads:
                torch.set_num_threads(threads)  # of this thread of Python's alone
                vectors: np.ndarray = self._unit_vectors(tower, torch.from_numpy(batch)).numpy()
            return vectors

    def _unit_vectors(self, tower: Tower, rows: torch.Tensor) -> torch.Tensor:
        parts = rows.split(1) if self._one_by_one else (rows,)
        pooled = torch.cat([self._pooled(tower, part) for part in parts])
        return functional.normalize(pooled.float(), dim=-1)

    def _pooled(self, tower: Tower, rows: torch.Tensor) -> torch.Tensor:
        return self._towers[tower](rows if tower is Tower.TEXT else self.pixel_values(rows))


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed")
"""What torch says where it has no exception of its own for it: on the CPU, of pinned memory, in CUDA's libraries."""


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY)
