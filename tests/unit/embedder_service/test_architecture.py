"""What config.json states of the towers."""

import json
from typing import Any

import pytest
from transformers import SiglipConfig

from embedder_service.architecture import Encoder, parse_architecture
from embedder_service.checkpoint_files import DEMO_FOLDER

BASE = Encoder(12, 12, "gelu_pytorch_tanh", 1e-6)


def test_what_a_file_leaves_out_has_transformers_defaults() -> None:
    sparse = parse_architecture({"model_type": "siglip", "text_config": {"vocab_size": 256_000}, "vision_config": {}})
    whole = parse_architecture(SiglipConfig(text_config={"vocab_size": 256_000}).to_dict())
    assert sparse == whole
    assert (whole.text, whole.image, whole.dimension) == (BASE, BASE, 768)
    assert (whole.vocabulary, whole.text_length, whole.image_size) == (256_000, 64, 224)


def test_the_demo_checkpoints_own_file() -> None:
    config = json.loads((DEMO_FOLDER / "config.json").read_text("utf-8"))
    architecture = parse_architecture(config)
    assert config["text_config"]["hidden_size"] != architecture.dimension == config["vision_config"]["hidden_size"]
    assert (architecture.image_size, architecture.text_length) == (64, 20)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "siglip2"}, "not 'siglip2'"),
        ({"model_type": "siglip", "vision_config": {"vision_use_head": False}}, "no pooling head"),
        ({"model_type": "siglip", "vision_config": {"num_channels": 1}}, "expected 3 channels, not 1"),
        ({"model_type": "siglip", "text_config": {"projection_size": 512}}, "captions have 512 dimensions, images 768"),
    ],
)
def test_what_cannot_be_served_is_refused_with_both_values(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_architecture(config)
