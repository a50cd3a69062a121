"""What a lower precision may cost, measured on the trained demo checkpoint and its whole gallery."""

import pytest
import torch

from embedder_service.backends import Precision, Tower
from service_runtime.cores import usable_cores
from tests.conformance.gallery import Gallery, Vectors, least_cosine, recall_at_1

GATES = {Precision.BF16: (0.999, 0.002), Precision.INT8: (0.99, 0.01)}
"""By precision: (least cosine to fp32, largest change of recall@1)."""


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return Gallery.read()


@pytest.fixture(scope="module")
def exact(gallery: Gallery) -> Vectors:
    return gallery.vectors(gallery.backend(Precision.FP32, usable_cores()))


@pytest.mark.parametrize("precision", GATES)
def test_a_precision_passes_its_gate(gallery: Gallery, exact: Vectors, precision: Precision) -> None:
    if precision is Precision.INT8 and not torch.cpu._is_vnni_supported():
        pytest.skip("this processor has no products of bytes")
    cosine, change = GATES[precision]
    backend = gallery.backend(precision, usable_cores())
    assert backend.precision is precision
    vectors = gallery.vectors(backend)
    for tower in Tower:
        assert cosine <= least_cosine(vectors[tower], exact[tower]) < 1 - 1e-9, (
            "nothing changed: is it computed in fp32?"
        )
    assert abs(recall_at_1(vectors) - recall_at_1(exact)) <= change
