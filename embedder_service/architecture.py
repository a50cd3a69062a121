"""What a SigLIP checkpoint's config.json states of its two towers.

Owns the fields, their defaults (those of transformers' SiglipTextConfig and SiglipVisionConfig, which published
checkpoints lean on) and what can't be served. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODEL_TYPE = "siglip"
"""Of SigLIP, and of SigLIP 2 in fixed resolution."""

_ACTIVATIONS = ("gelu_pytorch_tanh", "gelu")


@dataclass(frozen=True, slots=True)
class Encoder:
    """A stack of transformer layers."""

    width: int
    inner_width: int
    """Of the feed-forward block."""
    layers: int
    heads: int
    activation: str
    layer_norm_epsilon: float

    def __post_init__(self) -> None:
        """Raises ValueError for what no SigLIP has."""
        if self.width % self.heads:
            raise ValueError(f"expected a hidden_size that {self.heads} heads divide, not {self.width}")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"expected hidden_act {' or '.join(_ACTIVATIONS)}, not {self.activation}")


@dataclass(frozen=True, slots=True)
class Architecture:
    """Both towers."""

    text: Encoder
    vocabulary: int
    text_length: int
    """Tokens of every caption."""
    image: Encoder
    image_size: int
    """Side of the square, in pixels."""
    patch_size: int
    """Side of a patch, in pixels."""
    dimension: int
    """Numbers in a vector of either tower."""


def parse_architecture(config: Mapping[str, Any]) -> Architecture:
    """From the content of config.json. Raises ValueError or TypeError, with both values, for what can't be served."""
    if config.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"expected model_type '{MODEL_TYPE}' (SigLIP, or SigLIP 2 of fixed resolution), "
            f"not {config.get('model_type')!r}"
        )
    text, image = config.get("text_config") or {}, config.get("vision_config") or {}
    if not image.get("vision_use_head", True):
        raise ValueError("the image tower has no pooling head, so its vectors match no caption's")
    if image.get("num_channels", 3) != 3:
        raise ValueError(f"expected 3 channels, not {image['num_channels']}")
    encoder = _encoder(text)
    dimension = int(text.get("projection_size") or encoder.width)
    architecture = Architecture(
        text=encoder,
        vocabulary=int(text.get("vocab_size", 32_000)),
        text_length=int(text.get("max_position_embeddings", 64)),
        image=_encoder(image),
        image_size=int(image.get("image_size", 224)),
        patch_size=int(image.get("patch_size", 16)),
        dimension=dimension,
    )
    if architecture.image.width != dimension:
        raise ValueError(f"captions have {dimension} dimensions, images {architecture.image.width}")
    return architecture


def _encoder(tower: Mapping[str, Any]) -> Encoder:
    return Encoder(
        width=int(tower.get("hidden_size", 768)),
        inner_width=int(tower.get("intermediate_size", 3072)),
        layers=int(tower.get("num_hidden_layers", 12)),
        heads=int(tower.get("num_attention_heads", 12)),
        activation=str(tower.get("hidden_act", "gelu_pytorch_tanh")),
        layer_norm_epsilon=float(tower.get("layer_norm_eps", 1e-6)),
    )
