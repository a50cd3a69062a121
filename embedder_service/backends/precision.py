"""Which precision the towers compute in.

Owns what `auto` means on a device, and what a device can't do. Knows nothing of how it is done.
"""

import torch

from embedder_service.backends import Precision

DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
"""What the numbers between the layers are kept in."""

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
    if cpu and precision is Precision.FP16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise ValueError("this processor has no products in fp16: expected precision auto, fp32 or bf16, not fp16")
    return precision


def _best_on_cpu(width: int) -> Precision:
    quick = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return Precision.BF16 if quick and width >= _BF16_FROM_WIDTH else Precision.FP32


def _best_on_gpu(device: str) -> Precision:
    with torch.cuda.device(device):
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    return Precision.BF16 if supported else Precision.FP16
