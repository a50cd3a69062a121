"""Linear layers, by what computes them best.

Owns how weights are kept and multiplied: by PyTorch's own product, or laid out once for oneDNN, whose products are
about twice as fast as the default ones on an AMD processor in float32, and take the activation and the residual along.
Knows nothing of transformers, pictures or captions.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers.activations import ACT2FN

_FUSED = {"gelu_pytorch_tanh": ("gelu", "tanh"), "gelu": ("gelu", "none"), "relu": ("relu", "")}
"""What oneDNN computes along, by transformers' name: (attribute, algorithm)."""


class Linear(Protocol):
    """rows (..., inputs) -> (..., outputs), of the type that it was made with."""

    def __call__(self, rows: Tensor, add: Tensor | None = None) -> Tensor:
        """The product plus bias, activated where it was made so, plus ``add`` (..., outputs).

        No layer both activates and adds.
        """
        ...


MakeLinear = Callable[[Tensor, Tensor, str | None], Linear]
"""(weight (outputs, inputs), bias (outputs,), name of the activation) -> a layer; both are float32."""


class PlainLinear:
    """By PyTorch's own product, on any device."""

    def __init__(self, weight: Tensor, bias: Tensor, activation: str | None, dtype: torch.dtype, device: str) -> None:
        self._weight = weight.to(device, dtype)
        self._bias = bias.to(device, dtype)
        self._activate = ACT2FN[activation] if activation else None

    def __call__(self, rows: Tensor, add: Tensor | None = None) -> Tensor:
        """See Linear."""
        product = functional.linear(rows, self._weight, self._bias)
        if self._activate is not None:
            return self._activate(product)  # type: ignore[no-any-return]
        return product if add is None else product.add_(add)


class PackedLinear:
    """By oneDNN on the CPU, from weights in the layout that it multiplies fastest."""

    def __init__(self, weight: Tensor, bias: Tensor, activation: str | None, dtype: torch.dtype) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), None)
        self._bias = bias.to(dtype)
        self._fused = _FUSED.get(activation, ("none", "")) if activation else ("none", "")
        self._activate = ACT2FN[activation] if activation and activation not in _FUSED else None

    def __call__(self, rows: Tensor, add: Tensor | None = None) -> Tensor:
        """See Linear."""
        if add is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(  # type: ignore[no-any-return]
                rows, add, self._weight, self._bias, "add"
            )
        attribute, algorithm = self._fused
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, attribute, [], algorithm)
        return product if self._activate is None else self._activate(product)


def linear_maker(dtype: torch.dtype, device: str) -> MakeLinear:
    """The kind of layer for a device and a type of numbers."""
    if device == "cpu" and torch.backends.mkldnn.is_available():
        return lambda weight, bias, activation: PackedLinear(weight, bias, activation, dtype)
    return lambda weight, bias, activation: PlainLinear(weight, bias, activation, dtype, device)
