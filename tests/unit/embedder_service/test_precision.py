"""What precision a device gets, and linear layers of every kind."""

import pytest
import torch

from embedder_service.backends import Precision
from embedder_service.backends.linear import PackedLinear, PlainLinear, QuantisedLinear
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


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("processor", ["none"], indirect=True)
def test_int8_is_refused_where_bytes_would_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(ValueError, match="not int8: it is for CPUs with VNNI or AMX"):
        choose_precision("int8", "cpu", 768)


def test_int8_is_refused_on_a_gpu() -> None:
    with pytest.raises(ValueError, match="not int8: it is for CPUs"):
        choose_precision("int8", "cuda:0", 768)


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this processor has no products of bytes")
class TestQuantisedLinear:
    @pytest.mark.parametrize("activation", [None, "gelu_pytorch_tanh", "gelu", "relu", "quick_gelu"])
    @pytest.mark.parametrize(("low", "high"), [(-3.0, 3.0), (-0.2, 9.0), (1.0, 2.0), (-2.0, -1.0), (0.0, 0.0)])
    def test_it_computes_nearly_the_same(self, activation: str | None, low: float, high: float) -> None:
        torch.manual_seed(0)
        weight, bias = torch.randn(48, 64) / 8, torch.randn(48)
        given = torch.rand(1, 7, 64) * (high - low) + low
        exact = PlainLinear(weight, bias, activation, torch.float32, "cpu")(given)
        layer = QuantisedLinear(weight, bias, activation, torch.float32)
        torch.testing.assert_close(layer(given), exact, rtol=0.02, atol=0.02 * max(abs(low), abs(high), 0.1))
        if activation is None:
            add = torch.randn(1, 7, 48)
            kept = add.clone()
            torch.testing.assert_close(layer(given, add=add), layer(given) + kept)
            torch.testing.assert_close(add, kept)

    def test_several_items_at_once_are_refused(self) -> None:
        layer = QuantisedLinear(torch.randn(8, 8), torch.zeros(8), None, torch.float32)
        with pytest.raises(ValueError, match="expected one item, not 2"):
            layer(torch.randn(2, 3, 8))


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
