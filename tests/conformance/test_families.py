"""Our towers against transformers' own SiglipModel with its image processor, in the shapes of published checkpoints:
their widths, two layers deep, random weights.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from embedder_service.backends import Tower
from embedder_service.images import ImageDecoder
from service_runtime.cores import usable_cores
from tests.conformance.families import FAMILIES, Family
from tests.unit.embedder_service.pictures import encoded, photo

LARGEST_DIFFERENCE = {"fp32": 1e-6, "bf16": 1e-3, "int8": 1e-2}
"""Of a cosine to 1, by precision."""

NEIGHBOURS = {"fp32": 1e-6, "bf16": 1e-4, "int8": 1e-9}
"""How much of a cosine company in a pass may change: products of another shape are added up in another order, which
bf16 rounds otherwise. int8 is computed item by item."""

_ITEMS = 3


@dataclass(frozen=True)
class Reference:
    """What a family's items become under transformers."""

    family: Family
    model: SiglipModel
    rows: dict[Tower, np.ndarray]
    """What our towers take."""
    vectors: dict[Tower, np.ndarray]
    """(n, dimension) float64 of length 1."""


@pytest.fixture(scope="module", params=FAMILIES)
def reference(request: pytest.FixtureRequest) -> Reference:
    family = FAMILIES[request.param]
    model = family.model(layers=2)
    token_ids = family.token_ids(_ITEMS)
    pictures = [photo(500 + 40 * seed, 400, seed) for seed in range(_ITEMS)]
    side = {"height": family.image_size, "width": family.image_size}
    processor = SiglipImageProcessorPil(size=side, resample=family.resample)
    pixel_values = torch.as_tensor(processor(images=pictures, return_tensors="pt")["pixel_values"])
    with torch.inference_mode():
        theirs = {
            Tower.TEXT: model.get_text_features(input_ids=torch.from_numpy(token_ids)).pooler_output,
            Tower.IMAGE: model.get_image_features(pixel_values=pixel_values).pooler_output,
        }
    decoder = ImageDecoder(family.preprocessing(), 10**8, 10**8)
    rows = {Tower.TEXT: token_ids, Tower.IMAGE: _decoded(decoder, pictures)}
    return Reference(family, model, rows, {tower: _unit(pooled) for tower, pooled in theirs.items()})


def _decoded(decoder: ImageDecoder, pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([decoder.decode(encoded(picture, "PNG"), "picture") for picture in pictures])


def _cosines(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """By row, exact whatever the lengths."""
    some, others = some.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    cosines: np.ndarray = np.einsum("nd,nd->n", some, others) / lengths
    return cosines


def _unit(pooled: torch.Tensor) -> np.ndarray:
    vectors = pooled.double().numpy()
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _skip_without_bytes(precision: str) -> None:
    if precision == "int8" and not torch.cpu._is_vnni_supported():
        pytest.skip("this processor has no products of bytes")


@pytest.mark.parametrize("precision", LARGEST_DIFFERENCE)
def test_vectors_are_transformers_own(reference: Reference, precision: str) -> None:
    _skip_without_bytes(precision)
    backend = reference.family.backend(reference.model, precision, usable_cores())
    for tower, theirs in reference.vectors.items():
        ours = backend.forward(tower, reference.rows[tower])
        difference = float(1 - _cosines(ours, theirs).min())
        print(f"{tower} {precision}: largest cosine difference {difference:.1e}")  # noqa: T201
        assert difference <= LARGEST_DIFFERENCE[precision]
        alone = np.concatenate([backend.forward(tower, row[None]) for row in reference.rows[tower]])
        assert 1 - _cosines(ours, alone).min() <= NEIGHBOURS[precision], "it depends on its neighbours"
        between = theirs @ theirs.T
        assert between.min() < 0.99, "the items are too much alike for a difference to show"
