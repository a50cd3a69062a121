"""The towers on a CUDA device: against the reference on the CPU, two passes in flight, without memory, after a fault.
Skipped where there is none.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from embedder_service.backends import OutOfMemory, Precision, Tower
from embedder_service.backends.reference import ReferenceBackend
from embedder_service.backends.torch_backend import TorchBackend
from embedder_service.sweep import sweep
from tests.conformance.families import FAMILIES, Family
from tests.conformance.gallery import least_cosine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")

LEAST_COSINE = {"fp32": 1 - 1e-5, "bf16": 0.999, "fp16": 0.999}
"""To the reference, by precision."""

_FAMILY = FAMILIES["siglip-base-patch16-224"]
_LAST_DEVICE = f"cuda:{max(torch.cuda.device_count() - 1, 0)}"


@pytest.fixture(scope="module")
def rows() -> dict[Tower, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 224, 224, 3), dtype=np.uint8)
    return {Tower.TEXT: _FAMILY.token_ids(12), Tower.IMAGE: pixels}


@pytest.fixture(scope="module")
def reference() -> ReferenceBackend:
    model = _FAMILY.model(layers=2)
    return ReferenceBackend({Tower.TEXT: model.text_model, Tower.IMAGE: model.vision_model}, _FAMILY.preprocessing())


def _backend(precision: str, family: Family = _FAMILY) -> TorchBackend:
    model = family.model(layers=2)
    towers = {Tower.TEXT: model.text_model, Tower.IMAGE: model.vision_model}
    return TorchBackend(towers, family.preprocessing(), _LAST_DEVICE, 1, precision)


@pytest.mark.parametrize("precision", LEAST_COSINE)
@pytest.mark.parametrize("tower", list(Tower))
def test_vectors_are_the_references(
    reference: ReferenceBackend, rows: dict[Tower, np.ndarray], tower: Tower, precision: str
) -> None:
    vectors = _backend(precision).forward(tower, rows[tower])
    assert vectors.dtype == np.float32
    assert least_cosine(vectors, reference.forward(tower, rows[tower])) >= LEAST_COSINE[precision]


def test_auto_is_a_half_precision() -> None:
    assert _backend("auto").precision in (Precision.BF16, Precision.FP16)


def test_two_in_flight_give_the_vectors_of_one(rows: dict[Tower, np.ndarray]) -> None:
    backend = _backend("fp32")
    assert backend.serial
    work = [(tower, rows[tower][begin : begin + 4]) for begin in (0, 4, 8) for tower in Tower] * 20
    alone = [backend.forward(*each) for each in work]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda each: backend.forward(*each), work))
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)


def test_a_process_takes_memory_on_its_own_device_alone(rows: dict[Tower, np.ndarray]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device")
    before = torch.cuda.mem_get_info(0)[0]
    backend = _backend("fp32")
    with ThreadPoolExecutor(1) as thread:
        thread.submit(backend.forward, Tower.IMAGE, rows[Tower.IMAGE]).result()
    assert torch.cuda.mem_get_info(0)[0] == before


def test_out_of_memory_is_told_and_a_smaller_batch_then_fits(rows: dict[Tower, np.ndarray]) -> None:
    backend = _backend("fp32")
    torch.cuda.empty_cache()
    used = torch.cuda.memory_reserved(_LAST_DEVICE)
    total = torch.cuda.get_device_properties(_LAST_DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((used + (1 << 30)) / total, _LAST_DEVICE)
    try:
        large = np.resize(rows[Tower.IMAGE], (2048, 224, 224, 3))
        with pytest.raises(OutOfMemory) as caught:
            backend.forward(Tower.IMAGE, large)
        assert caught.value.__context__ is None  # which would hold the tensors of the pass
        assert len(backend.forward(Tower.IMAGE, large[:16])) == 16
        cost = sweep(backend, Tower.IMAGE, rows[Tower.IMAGE][0], (1, 16, 2048), 600.0)
        assert cost.batch_limit <= 16
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, _LAST_DEVICE)


_FAULT = """
import torch
from embedder_service.backends import DeviceLost, Tower
from tests.conformance.test_cuda import _FAMILY, _backend

backend = _backend("fp32")
rows = _FAMILY.token_ids(2)
rows[1, 3] = 10**9  # past the end of the table
for _ in range(2):
    try:
        backend.forward(Tower.TEXT, rows)
    except DeviceLost:
        print("lost")
    rows[1, 3] = 2
"""


def test_a_fault_of_a_kernel_loses_the_device() -> None:
    process = subprocess.run([sys.executable, "-c", _FAULT], capture_output=True, text=True, timeout=300, check=False)
    assert process.stdout.split() == ["lost", "lost"], process.stderr
