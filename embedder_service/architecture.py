"""What a SigLIP checkpoint's config.json states of its two towers.

Owns the fields that decide where a vector lies or what is fed to a tower, their defaults (those of transformers'
SiglipTextConfig and SiglipVisionConfig, which published checkpoints lean on) and what can't be served. The rest of the
file is read by transformers alone. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODEL_TYPE = "siglip"
"""Of SigLIP, and of SigLIP 2 in fixed resolution."""

_NAFLEX = "siglip2"
"""Of SigLIP 2 in variable resolution alone, whatever the name suggests."""

_WIDTH = 768


@dataclass(frozen=True, slots=True)
class Encoder:
    """What the weights of a stack of transformer layers don't say."""

    layers: int
    """The first so many of the weights are used."""
    heads: int
    activation: str
    layer_norm_epsilon: float


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
    dimension: int
    """Numbers in a vector of either tower."""


def parse_architecture(config: Mapping[str, Any]) -> Architecture:
    """From the content of config.json. Raises ValueError or TypeError, with both values, for what can't be served."""
    if config.get("model_type") == _NAFLEX:
        raise ValueError(
            f"expected model_type '{MODEL_TYPE}', not '{_NAFLEX}': this is a NaFlex checkpoint (variable resolution), "
            "which is not served; take a SigLIP 2 of fixed resolution, e.g. google/siglip2-base-patch16-256"
        )
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
    dimension = int(text.get("projection_size") or text.get("hidden_size", _WIDTH))
    if (width := int(image.get("hidden_size", _WIDTH))) != dimension:
        raise ValueError(f"captions have {dimension} dimensions, images {width}")
    return Architecture(
        text=_encoder(text),
        vocabulary=int(text.get("vocab_size", 32_000)),
        text_length=int(text.get("max_position_embeddings", 64)),
        image=_encoder(image),
        image_size=int(image.get("image_size", 224)),
        dimension=dimension,
    )


def _encoder(tower: Mapping[str, Any]) -> Encoder:
    return Encoder(
        layers=int(tower.get("num_hidden_layers", 12)),
        heads=int(tower.get("num_attention_heads", 12)),
        activation=str(tower.get("hidden_act", "gelu_pytorch_tanh")),
        layer_norm_epsilon=float(tower.get("layer_norm_eps", 1e-6)),
    )
