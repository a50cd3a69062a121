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

LARGEST_DIFFERENCE = {"fp32": 1e-6, "bf16": 1e-3}
"""Of a cosine to 1, by precision."""

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


def _unit(pooled: torch.Tensor) -> np.ndarray:
    vectors = pooled.double().numpy()
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@pytest.mark.parametrize("precision", LARGEST_DIFFERENCE)
def test_vectors_are_transformers_own(reference: Reference, precision: str) -> None:
    backend = reference.family.backend(reference.model, precision, usable_cores())
    for tower, theirs in reference.vectors.items():
        ours = backend.forward(tower, reference.rows[tower])
        difference = float(1 - (ours * theirs).sum(axis=1).min())
        print(f"{tower} {precision}: largest cosine difference {difference:.1e}")  # noqa: T201
        assert difference <= LARGEST_DIFFERENCE[precision]
        between = theirs @ theirs.T
        assert between.min() < 0.99, "the items are too much alike for a difference to show"
