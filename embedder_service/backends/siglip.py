"""The two towers of SigLIP as PyTorch modules, for inference.

Owns the forward pass. Names of modules are those of transformers' SiglipModel, so that its safetensors load as they
are; transformers itself takes longer to import than all the rest of the service takes to start. Sources: SigLIP (arXiv
2303.15343), the pooling head of big_vision, transformers' modeling_siglip.py, which the tests compare vectors with.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedder_service.architecture import Architecture, Encoder


class Siglip(nn.Module):
    """Both towers, the scale and the bias."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.text_model = TextTower(architecture)
        self.vision_model = VisionTower(architecture)
        self.logit_scale = nn.Parameter(torch.empty(1))
        self.logit_bias = nn.Parameter(torch.empty(1))


class TextTower(nn.Module):
    """Captions of one length -> vectors, read off the last position, padding or not."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        shape = architecture.text
        self.embeddings = _TokenEmbeddings(architecture)
        self.encoder = _Layers(shape)
        self.final_layer_norm = nn.LayerNorm(shape.width, shape.layer_norm_epsilon)
        self.head = nn.Linear(shape.width, architecture.dimension)

    def forward(self, token_ids: Tensor) -> Tensor:
        """(n, text_length) int64 -> (n, dimension). No attention mask: SigLIP was trained to see its padding."""
        hidden = self.encoder(self.embeddings(token_ids))
        pooled: Tensor = self.head(self.final_layer_norm(hidden)[:, -1])
        return pooled


class VisionTower(nn.Module):
    """Square images -> vectors, pooled by attention."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        shape = architecture.image
        self.embeddings = _PatchEmbeddings(architecture)
        self.encoder = _Layers(shape)
        self.post_layernorm = nn.LayerNorm(shape.width, shape.layer_norm_epsilon)
        self.head = _PoolingHead(shape)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(n, 3, size, size) -> (n, dimension)."""
        hidden = self.encoder(self.embeddings(pixel_values))
        pooled: Tensor = self.head(self.post_layernorm(hidden))
        return pooled


class _TokenEmbeddings(nn.Module):
    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(architecture.vocabulary, architecture.text.width)
        self.position_embedding = nn.Embedding(architecture.text_length, architecture.text.width)

    def forward(self, token_ids: Tensor) -> Tensor:
        tokens: Tensor = self.token_embedding(token_ids)
        return tokens + self.position_embedding.weight


class _PatchEmbeddings(nn.Module):
    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, patch = architecture.image.width, architecture.patch_size
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch)
        self.position_embedding = nn.Embedding((architecture.image_size // patch) ** 2, width)

    def forward(self, pixel_values: Tensor) -> Tensor:
        patches: Tensor = self.patch_embedding(pixel_values)
        return patches.flatten(2).transpose(1, 2) + self.position_embedding.weight


class _Layers(nn.Module):
    def __init__(self, shape: Encoder) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class _Layer(nn.Module):
    def __init__(self, shape: Encoder) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(shape.width, shape.layer_norm_epsilon)
        self.self_attn = _Attention(shape)
        self.layer_norm2 = nn.LayerNorm(shape.width, shape.layer_norm_epsilon)
        self.mlp = _FeedForward(shape)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        result: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        return result


class _Attention(nn.Module):
    def __init__(self, shape: Encoder) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_proj = nn.Linear(shape.width, shape.width)
        self.k_proj = nn.Linear(shape.width, shape.width)
        self.v_proj = nn.Linear(shape.width, shape.width)
        self.out_proj = nn.Linear(shape.width, shape.width)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (
            projection(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return result


class _FeedForward(nn.Module):
    def __init__(self, shape: Encoder) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.width, shape.inner_width)
        self.fc2 = nn.Linear(shape.inner_width, shape.width)
        self.approximate = "tanh" if shape.activation == "gelu_pytorch_tanh" else "none"

    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.fc2(functional.gelu(self.fc1(hidden), approximate=self.approximate))
        return result


class _PoolingHead(nn.Module):
    """One learned query attends to all patches."""

    def __init__(self, shape: Encoder) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, shape.width))
        self.attention = nn.MultiheadAttention(shape.width, shape.heads, batch_first=True)
        self.layernorm = nn.LayerNorm(shape.width, shape.layer_norm_epsilon)
        self.mlp = _FeedForward(shape)

    def forward(self, hidden: Tensor) -> Tensor:
        probe = self.probe.expand(len(hidden), -1, -1)
        attended = self.attention(probe, hidden, hidden, need_weights=False)[0]
        result: Tensor = attended + self.mlp(self.layernorm(attended))
        return result[:, 0]
