"""The towers in PyTorch, in float32.

Owns normalising pixels, the forward pass and the length of the vectors. Knows nothing of queues, files or gRPC.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from embedder_service.backends import OutOfMemory, Tower
from embedder_service.images import Preprocessing


def engine_build(device: str) -> tuple[str, str]:
    """The version of torch, and the instructions that it uses on this machine, or the accelerator."""
    known = torch.backends.cpu.get_cpu_capability() if device == "cpu" else torch.cuda.get_device_name(device)
    return torch.__version__, known


class TorchBackend:
    """Runs transformers' towers on the CPU or a CUDA device. Raises RuntimeError when torch can't reach the device."""

    def __init__(self, towers: Mapping[Tower, Any], preprocessing: Preprocessing, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        # cuDNN rounds convolutions to TF32 (10 bits) by default; the patch embedding is one.
        torch.backends.cudnn.allow_tf32 = False
        self.device = device
        self.towers = tuple(towers)
        self._models = {tower: model.to(device) for tower, model in towers.items()}
        scale, offset = preprocessing.affine()
        self._scale = torch.tensor(scale, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        self._offset = torch.tensor(offset, dtype=torch.float32, device=device).view(1, 3, 1, 1)

    def forward(self, tower: Tower, batch: np.ndarray) -> np.ndarray:
        """Unit vectors (n, dimension) float32; see Backend.forward."""
        with _out_of_memory_translated(), torch.inference_mode():
            rows = torch.from_numpy(batch).to(self.device)
            if tower is Tower.TEXT:
                # No attention mask: SigLIP was trained to see its padding, and is pooled at the last position.
                pooled = self._models[tower](input_ids=rows).pooler_output
            else:
                pooled = self._models[tower](pixel_values=self.pixel_values(rows)).pooler_output
            vectors: np.ndarray = functional.normalize(pooled.float(), dim=-1).cpu().numpy()
            return vectors

    def pixel_values(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, size, size, 3) uint8 -> (n, 3, size, size) float32, rescaled and normalised by the checkpoint's rule."""
        return pixels.permute(0, 3, 1, 2).float() * self._scale + self._offset


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
