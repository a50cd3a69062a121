"""SigLIP's towers as plain functions over their weights, in any precision.

Owns the forward pass, with nothing in it that is not needed for the pooled vector. transformers' SiglipTextModel and
SiglipVisionModel are where the weights come from and what the vectors are held against; where the way here is another
one than theirs, it is the same number written another way. Knows nothing of files, queues or the length of a vector.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from embedder_service.backends.linear import MakeLinear

_SCORES_BYTES = 4 * 1024 * 1024
"""Attention scores of so many heads are computed at a time, so that they stay in the processor's cache."""


class _LayerNorm:
    def __init__(self, module: Any, dtype: torch.dtype, device: str) -> None:  # noqa: ANN401
        self._shape = tuple(module.normalized_shape)
        self._weight = module.weight.to(device, dtype)
        self._bias = module.bias.to(device, dtype)
        self._epsilon = float(module.eps)

    def __call__(self, rows: Tensor) -> Tensor:
        return functional.layer_norm(rows, self._shape, self._weight, self._bias, self._epsilon)


class _Feed:
    """The two linear layers at the end of a transformer layer, and what stands around them."""

    def __init__(self, norm: _LayerNorm, mlp: Any, make: MakeLinear) -> None:  # noqa: ANN401
        self._norm = norm
        self._up = make(mlp.fc1.weight, mlp.fc1.bias, mlp.config.hidden_act)
        self._down = make(mlp.fc2.weight, mlp.fc2.bias, None)

    def __call__(self, hidden: Tensor) -> Tensor:
        return self._down(self._up(self._norm(hidden)), add=hidden)


class _Layer:
    """A transformer layer. With ``last_only`` its output has the last position alone, (n, 1, width)."""

    def __init__(self, layer: Any, make: MakeLinear, dtype: torch.dtype, device: str, last_only: bool = False) -> None:  # noqa: ANN401
        attention = layer.self_attn
        self._heads = int(attention.num_heads)
        self._last_only = last_only
        self._norm = _LayerNorm(layer.layer_norm1, dtype, device)
        # Scores are scaled through the queries, which are fewer.
        scale = float(attention.scale)
        query = attention.q_proj.weight * scale, attention.q_proj.bias * scale
        key, value = attention.k_proj, attention.v_proj
        if last_only:
            self._query = make(*query, None)
            self._rest = make(torch.cat([key.weight, value.weight]), torch.cat([key.bias, value.bias]), None)
        else:
            self._rest = make(
                torch.cat([query[0], key.weight, value.weight]), torch.cat([query[1], key.bias, value.bias]), None
            )
        self._out = make(attention.out_proj.weight, attention.out_proj.bias, None)
        self._feed = _Feed(_LayerNorm(layer.layer_norm2, dtype, device), layer.mlp, make)

    def __call__(self, hidden: Tensor) -> Tensor:
        normed = self._norm(hidden)
        if self._last_only:
            hidden = hidden[:, -1:].contiguous()
            query = self._query(normed[:, -1:].contiguous())
            key, value = self._rest(normed).chunk(2, -1)
        else:
            query, key, value = self._rest(normed).chunk(3, -1)
        return self._feed(self._out(_attended(query, key, value, self._heads), add=hidden))


def _attended(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Each query (n, t, width), scaled already, over keys and values (n, length, width), by head: (n, t, width)."""
    n, count, width = query.shape
    query, key, value = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    if query.device.type != "cpu":
        mixed = functional.scaled_dot_product_attention(query, key, value, scale=1.0)
        return mixed.transpose(1, 2).reshape(n, count, width)
    # Three plain products: measured a third to a quarter of the time of PyTorch's flash attention on a CPU.
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))
    mixed = torch.empty_like(query)
    step = max(1, _SCORES_BYTES // (count * key.shape[1] * key.element_size()))
    for begin in range(0, len(query), step):
        chunk = slice(begin, begin + step)
        scores = torch.bmm(query[chunk], key[chunk].transpose(1, 2))
        torch.bmm(torch.softmax(scores, -1, out=scores), value[chunk], out=mixed[chunk])
    by_head: Tensor = mixed.unflatten(0, (n, heads))
    return by_head.transpose(1, 2).reshape(n, count, width)


class _Pooling:
    """The image tower's head: one learned query over all positions.

    The query is the same for every image, so the products of keys and values go over to the query and to what has been
    pooled: far fewer rows. A bias of the keys adds the same to every score, so it changes nothing.
    """

    def __init__(self, head: Any, make: MakeLinear, dtype: torch.dtype, device: str) -> None:  # noqa: ANN401
        attention = head.attention
        heads, width = int(attention.num_heads), int(attention.embed_dim)
        query_weight, key_weight, value_weight = attention.in_proj_weight.unflatten(0, (3, width))
        query_bias, _, value_bias = attention.in_proj_bias.unflatten(0, (3, width))
        query = functional.linear(head.probe.view(width), query_weight, query_bias).view(heads, 1, -1)
        query = query * query.shape[2] ** -0.5
        key_weight = key_weight.unflatten(0, (heads, -1))
        self._probe = (query @ key_weight).squeeze(1).to(device, dtype)
        """(heads, width)"""
        self._value = value_weight.unflatten(0, (heads, -1)).transpose(1, 2).to(device, dtype)
        """(heads, width, width of a head)"""
        self._value_bias = value_bias.to(device, dtype)
        self._out = make(attention.out_proj.weight, attention.out_proj.bias, None)
        self._feed = _Feed(_LayerNorm(head.layernorm, dtype, device), head.mlp, make)

    def __call__(self, hidden: Tensor) -> Tensor:
        """(n, length, width) -> (n, width)."""
        shares = torch.softmax(functional.linear(hidden, self._probe), 1, torch.float32).to(hidden.dtype)
        pooled = shares.transpose(1, 2) @ hidden
        values = torch.bmm(pooled.transpose(0, 1), self._value)
        return self._feed(self._out(values.transpose(0, 1).flatten(1) + self._value_bias))


class TextTower:
    """Captions' token ids (n, length) -> pooled (n, dimension), not yet of length 1."""

    def __init__(self, model: Any, make: MakeLinear, dtype: torch.dtype, device: str) -> None:  # noqa: ANN401
        embeddings = model.embeddings
        self._tokens = embeddings.token_embedding.weight.to(device, dtype)
        self._positions = embeddings.position_embedding.weight.to(device, dtype)
        # SigLIP pools the last position, padding or not, so the last layer computes no other.
        last = len(model.encoder.layers) - 1
        self._layers = [_Layer(layer, make, dtype, device, i == last) for i, layer in enumerate(model.encoder.layers)]
        self._norm = _LayerNorm(model.final_layer_norm, dtype, device)
        self._head = make(model.head.weight, model.head.bias, None)

    def __call__(self, token_ids: Tensor) -> Tensor:
        """No attention mask: SigLIP was trained to see its padding."""
        hidden = functional.embedding(token_ids, self._tokens) + self._positions[: token_ids.shape[1]]
        for layer in self._layers:
            hidden = layer(hidden)
        return self._head(self._norm(hidden[:, -1]))


class ImageTower:
    """Pixel values (n, 3, size, size) of any type -> pooled (n, dimension), not yet of length 1."""

    def __init__(self, model: Any, make: MakeLinear, dtype: torch.dtype, device: str) -> None:  # noqa: ANN401
        embeddings = model.embeddings
        self._dtype = dtype
        self._patch = int(embeddings.patch_size)
        self._embed = make(embeddings.patch_embedding.weight.flatten(1), embeddings.patch_embedding.bias, None)
        self._positions = embeddings.position_embedding.weight.to(device, dtype)
        self._layers = [_Layer(layer, make, dtype, device) for layer in model.encoder.layers]
        self._norm = _LayerNorm(model.post_layernorm, dtype, device)
        self._pool = _Pooling(model.head, make, dtype, device)

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """See the class."""
        hidden = self._embed(self._patches(pixel_values)) + self._positions
        for layer in self._layers:
            hidden = layer(hidden)
        return self._pool(self._norm(hidden))

    def _patches(self, pixel_values: Tensor) -> Tensor:
        """(n, patches, 3 x patch x patch), in the order of a convolution's weights."""
        side, patch = pixel_values.shape[-1] // self._patch, self._patch
        whole: Tensor = pixel_values[..., : side * patch, : side * patch].to(self._dtype)  # 384 is no multiple of 14
        grid: Tensor = whole.unflatten(3, (side, patch)).unflatten(2, (side, patch))
        return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
