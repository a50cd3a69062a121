"""What precision a device gets, and linear layers of every kind."""

import pytest
import torch

from embedder_service.backends import Precision
from embedder_service.backends.linear import PackedLinear, PlainLinear
from embedder_service.backends.precision import choose_precision


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A processor that multiplies in what the parameter names."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param == "bf16")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: request.param == "amx")


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize(
    ("processor", "width", "expected"),
    [("bf16", 768, "bf16"), ("amx", 1152, "bf16"), ("none", 768, "fp32"), ("bf16", 192, "fp32")],
    indirect=["processor"],
)
def test_auto_is_bf16_where_the_cpu_and_the_towers_gain(width: int, expected: str) -> None:
    assert choose_precision("auto", "cpu", width) == expected


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("processor", ["none"], indirect=True)
def test_what_is_asked_for_by_name_is_taken() -> None:
    assert choose_precision("bf16", "cpu", 192) is Precision.BF16
    assert choose_precision("fp32", "cpu", 768) is Precision.FP32


def test_fp16_is_refused_where_a_cpu_would_emulate_it() -> None:
    if torch.ops.mkldnn._is_mkldnn_fp16_supported():
        pytest.skip("this processor multiplies in fp16")
    with pytest.raises(ValueError, match="expected precision auto, fp32 or bf16, not fp16"):
        choose_precision("fp16", "cpu", 768)


@pytest.mark.parametrize("activation", [None, "gelu_pytorch_tanh", "gelu", "relu", "quick_gelu", "silu"])
@pytest.mark.parametrize("rows", [1, 5])
def test_every_kind_of_layer_computes_the_same(activation: str | None, rows: int) -> None:
    torch.manual_seed(0)
    weight, bias, given = torch.randn(24, 16), torch.randn(24), torch.randn(2, rows, 16)
    plain = PlainLinear(weight, bias, activation, torch.float32, "cpu")
    packed = PackedLinear(weight, bias, activation, torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(packed(given), plain(given))
        if activation is None:
            add = torch.randn(2, rows, 24)
            kept = add.clone()
            expected = given @ weight.T + bias + add
            for layer in (plain, packed):
                torch.testing.assert_close(layer(given, add=add), expected)
            torch.testing.assert_close(add, kept)
