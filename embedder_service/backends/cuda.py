"""The way to a CUDA device and back.

Owns how passes follow each other there: while one is computed, the rows of the next are copied and its kernels queued.
Knows nothing of towers.
"""

from collections.abc import Callable
from threading import Lock

import numpy as np
import torch
from torch import Tensor


class CudaDevice:
    """Computes for several threads, one pass after another; a thread sleeps, without the GIL, until its pass is done.

    Passes share a stream, so that one's working memory is free for the next as soon as that is queued behind it. Rows
    come by a stream of their own. See PyTorch's "CUDA semantics" for what streams, events and pinned memory promise.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._copies = torch.cuda.Stream(self._device)
        self._queueing = Lock()

    def run(self, batch: np.ndarray, compute: Callable[[Tensor], Tensor]) -> np.ndarray:
        """``compute`` of the batch on the device."""
        with torch.cuda.device(self._device):  # a thread begins at device 0, and would take memory there
            staged = torch.from_numpy(batch).pin_memory()
            with torch.cuda.stream(self._copies):
                rows = staged.to(self._device, non_blocking=True)
                copied = self._copies.record_event()
            with self._queueing:  # kernels of two passes in turn would end both of them late
                torch.cuda.current_stream().wait_event(copied)
                computed = compute(rows)
                fetched = torch.empty(computed.shape, dtype=computed.dtype, pin_memory=True)
                fetched.copy_(computed, non_blocking=True)
                done = torch.cuda.Event(blocking=True)
                done.record()
            # The rows' memory belongs to the other stream, which may use it again once they are let go: not before.
            done.synchronize()
        vectors: np.ndarray = fetched.numpy()
        return vectors

    def is_lost(self) -> bool:
        """Whether nothing works in this process any more, as after a fault of a kernel: CUDA then fails every call."""
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError:
            return True
        return False
