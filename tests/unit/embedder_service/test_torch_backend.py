"""What becomes of a pass that fails. On a CUDA device: tests/conformance/test_cuda.py."""

import weakref

import numpy as np
import pytest
import torch

from embedder_service.backends import OutOfMemory, Tower
from embedder_service.backends.torch_backend import TorchBackend
from embedder_service.checkpoint import Checkpoint

OUT_OF_MEMORY = {
    "torch's own": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "Python's": MemoryError(),
    "the CPU's": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
    ),
    "pinned": RuntimeError("CUDA error: out of memory"),
    "cuBLAS's": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


class FailingBackend(TorchBackend):
    """The real one, whose passes fail at their end."""

    error: Exception
    activations: weakref.ref[torch.Tensor]

    def _pooled(self, tower: Tower, rows: torch.Tensor) -> torch.Tensor:
        activations = super()._pooled(tower, rows)
        self.activations = weakref.ref(activations)
        raise self.error


@pytest.fixture
def failing(checkpoint: Checkpoint) -> FailingBackend:
    return FailingBackend(checkpoint.towers, checkpoint.preprocessing, "cpu", 1)


def fail(backend: FailingBackend, checkpoint: Checkpoint) -> None:
    backend.forward(Tower.TEXT, np.zeros((2, checkpoint.tokenizer.layout.length), np.int64))


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_out_of_memory_is_told_by_one_name_and_nothing_of_the_pass_is_held(
    failing: FailingBackend, checkpoint: Checkpoint, error: Exception
) -> None:
    failing.error = type(error)(*error.args)
    with pytest.raises(OutOfMemory) as caught:
        fail(failing, checkpoint)
    assert str(caught.value) == str(error)
    assert caught.value.__context__ is None
    del failing.error  # the test's own hold on the frames of the pass
    assert failing.activations() is None


def test_any_other_failure_stays_what_it_is(failing: FailingBackend, checkpoint: Checkpoint) -> None:
    failing.error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fail(failing, checkpoint)
