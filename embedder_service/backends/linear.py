"""Linear layers, by what computes them best.

Owns how weights are kept and multiplied: by PyTorch's own product, or laid out once for oneDNN, whose products are
about twice as fast as the default ones on an AMD processor in float32, and take the activation and the residual along;
as bytes they are twice as fast again as in bfloat16. Knows nothing of transformers, pictures or captions.
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


class QuantisedLinear:
    """By oneDNN on the CPU, from bytes: the weights by output, rounded once; the rows by item, as they come.

    Takes one item at a time, (1, ...): one scale for several would make an item's vector depend on its neighbours.
    """

    def __init__(self, weight: Tensor, bias: Tensor, activation: str | None, dtype: torch.dtype) -> None:
        self._scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        rounded = (weight / self._scales[:, None]).round().to(torch.int8).contiguous()
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = bias.float()
        self._dtype = dtype
        self._fused = _FUSED.get(activation, ("none", "")) if activation else ("none", "")
        self._activate = ACT2FN[activation] if activation and activation not in _FUSED else None

    def __call__(self, rows: Tensor, add: Tensor | None = None) -> Tensor:
        """See Linear. Raises ValueError for several items."""
        if len(rows) != 1:
            raise ValueError(f"expected one item, not {len(rows)}")
        given = *_quantised(rows), self._weight, self._scales, self._zeros
        if add is not None:
            return torch.ops.onednn.qlinear_pointwise.binary(  # type: ignore[no-any-return]
                *given, add, self._bias, 1.0, 0, self._dtype, 1.0, 0, "add", 1.0, "none", [], ""
            )
        attribute, algorithm = self._fused
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            *given, self._bias, 1.0, 0, self._dtype, attribute, [], algorithm
        )
        return product if self._activate is None else self._activate(product)


def _quantised(rows: Tensor) -> tuple[Tensor, float, int]:
    """(uint8, scale, zero point): a value is (byte - zero point) * scale, to half a scale."""
    low, high = (float(bound) for bound in torch.aminmax(rows))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 254, torch.finfo(torch.float32).tiny)  # 255 would leave no room for rounding the zero
    zero = round(-low / scale)
    # Through int8, since PyTorch converts to uint8 several times more slowly.
    shifted = torch.add(torch.tensor([zero - 128.0]), rows, alpha=1 / scale)
    return shifted.round_().to(torch.int8).view(torch.uint8).bitwise_xor_(128), scale, zero


def linear_maker(dtype: torch.dtype, device: str, quantised: bool = False) -> MakeLinear:
    """The kind of layer for a device and a type of numbers; with ``quantised`` these are what products give."""
    if quantised:
        return lambda weight, bias, activation: QuantisedLinear(weight, bias, activation, dtype)
    if device == "cpu" and torch.backends.mkldnn.is_available():
        return lambda weight, bias, activation: PackedLinear(weight, bias, activation, dtype)
    return lambda weight, bias, activation: PlainLinear(weight, bias, activation, dtype, device)
