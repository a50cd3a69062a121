"""The network that is trained: a small SiglipModel, how its weights begin, and its towers as the trainer calls them.

Owns the configuration, the initialisation and the token-dropping forward pass. Knows nothing of data or losses.
Sources: SigLIP (arXiv 2303.15343) for the model; mimetic initialisation (arXiv 2305.09828); FLIP (arXiv 2212.00794)
for dropping patches.
"""

import math

import torch
from torch import nn
from transformers import SiglipConfig, SiglipModel
from transformers.models.siglip.modeling_siglip import SiglipAttention

IMAGE_SIZE = 64
PATCH_SIZE = 8
TEXT_LENGTH = 20
VOCABULARY = 4096
PAD_ID, EOS_ID = 1, 2


def new_model() -> SiglipModel:
    """A SiglipModel of 3.4 M parameters with initial scale 10 and bias -10, drawn from torch's global generator."""
    config = SiglipConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": TEXT_LENGTH,
            "projection_size": 192,
            "pad_token_id": PAD_ID,
            "bos_token_id": EOS_ID,
            "eos_token_id": EOS_ID,
        },
        vision_config={
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
        },
    )
    model = SiglipModel(config)
    for module in model.modules():
        if isinstance(module, SiglipAttention):
            _mimetic(module)
    vision, text = model.vision_model.embeddings, model.text_model.embeddings
    with torch.no_grad():
        vision.position_embedding.weight.copy_(0.5 * _waves_2d(IMAGE_SIZE // PATCH_SIZE, 192))
        text.position_embedding.weight.copy_(0.05 * _waves(torch.arange(TEXT_LENGTH).float(), 128))
        nn.init.normal_(text.token_embedding.weight, std=0.05)
        model.logit_scale.fill_(math.log(10.0))
        model.logit_bias.fill_(-10.0)
    return model


def _mimetic(attention: SiglipAttention) -> None:
    """Let each head begin by attending to what resembles its query, and the block by subtracting some of its input."""
    width, heads = attention.embed_dim, attention.num_heads
    depth = width // heads
    with torch.no_grad():
        for head in range(heads):
            rows = slice(head * depth, (head + 1) * depth)
            product = 0.7 * torch.randn(width, width) / math.sqrt(width) + 0.7 * torch.eye(width)
            left, values, right = torch.linalg.svd(product)
            attention.q_proj.weight[rows] = (left[:, :depth] * values[:depth].sqrt()).T
            attention.k_proj.weight[rows] = right[:depth] * values[:depth].sqrt()[:, None]
        product = 0.4 * torch.randn(width, width) / math.sqrt(width) - 0.4 * torch.eye(width)
        left, values, right = torch.linalg.svd(product)
        attention.out_proj.weight.copy_(left * values.sqrt())
        attention.v_proj.weight.copy_(right * values.sqrt()[:, None])
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
            linear.bias.zero_()


def _waves(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Sine-cosine position vectors, shape (positions, width)."""
    frequency = 1.0 / 10_000 ** (torch.arange(width // 2) / (width // 2))
    angles = positions[:, None] * frequency
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def _waves_2d(side: int, width: int) -> torch.Tensor:
    """Sine-cosine vectors for a square grid, row-major, shape (side * side, width)."""
    row, column = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    return torch.cat((_waves(row.flatten(), width // 2), _waves(column.flatten(), width // 2)), dim=1)


def embed_pixels(model: SiglipModel, pixels: torch.Tensor, keep: int, generator: torch.Generator) -> torch.Tensor:
    """Unit vectors (n, 192) of (n, 3, 64, 64) pixels in [-1, 1], seen through ``keep`` patches drawn per picture."""
    vision = model.vision_model
    tokens = vision.embeddings(pixels)
    count, total, width = tokens.shape
    if keep < total:
        kept = torch.rand(count, total, generator=generator).topk(keep, dim=1).indices
        tokens = tokens.gather(1, kept.unsqueeze(-1).expand(count, keep, width))
    hidden = vision.encoder(inputs_embeds=tokens).last_hidden_state
    return nn.functional.normalize(vision.head(vision.post_layernorm(hidden)), dim=-1)


def embed_ids(model: SiglipModel, ids: torch.Tensor) -> torch.Tensor:
    """Unit vectors (n, 192) of (n, 20) token ids, padded to the full length, without an attention mask."""
    return nn.functional.normalize(model.text_model(input_ids=ids).pooler_output, dim=-1)
