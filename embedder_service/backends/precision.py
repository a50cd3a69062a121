"""Which precision the towers compute in.

Owns what `auto` means on a device, and what a device can't do. Knows nothing of how it is done.
"""

import torch

from embedder_service.backends import Precision

_DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}

AUTO = "auto"

_BF16_FROM_WIDTH = 384
"""Narrower towers stay in float32 on a CPU: the demo's take about a millisecond an item in either, and so make the
same vectors on every machine."""


def choose_precision(asked: str, device: str, width: int) -> Precision:
    """The precision for a setting ("auto" or a Precision), a device and the width of the wider tower.

    Raises ValueError, with what to ask for instead, for a precision that the device can't compute in.
    """
    cpu = torch.device(device).type == "cpu"
    if asked == AUTO:
        return _best_on_cpu(width) if cpu else _best_on_gpu(device)
    precision = Precision(asked)
    if precision is Precision.INT8 and not (cpu and _multiplies_bytes()):
        raise ValueError("expected precision auto, fp32 or bf16, not int8: it is for CPUs with VNNI or AMX")
    if cpu and precision is Precision.FP16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise ValueError("this processor has no products in fp16: expected precision auto, fp32 or bf16, not fp16")
    return precision


def number_type(precision: Precision) -> torch.dtype:
    """What the numbers between the products are kept in."""
    if precision is Precision.INT8:
        return torch.bfloat16 if _multiplies_bf16() else torch.float32
    return _DTYPES[precision]


def _multiplies_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _multiplies_bytes() -> bool:
    """Without one of these, products of bytes saturate at 16 bits."""
    return torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()


def _best_on_cpu(width: int) -> Precision:
    return Precision.BF16 if _multiplies_bf16() and width >= _BF16_FROM_WIDTH else Precision.FP32


def _best_on_gpu(device: str) -> Precision:
    with torch.cuda.device(device):
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    return Precision.BF16 if supported else Precision.FP16
