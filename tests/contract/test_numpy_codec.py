"""VectorBatch <-> numpy: what goes in comes out, and what contradicts itself is refused with both values."""

import numpy as np
import pytest
from eyebright.vectors.numpy_codec import FLOAT16, FLOAT32, VectorBatchError, decode_vectors, encode_vectors
from eyebright.vectors.v1.vectors_pb2 import VectorBatch
from hypothesis import given
from hypothesis import strategies as st

FINGERPRINT = "0" * 64


@given(st.integers(0, 20), st.integers(1, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_round_trip(count: int, dimension: int, half: bool, seed: int) -> None:
    dtype = np.float16 if half else np.float32
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(dtype)
    batch = encode_vectors(vectors, FINGERPRINT, FLOAT16 if half else FLOAT32)
    decoded = decode_vectors(VectorBatch.FromString(batch.SerializeToString()))
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, vectors)


def test_bytes_are_little_endian_row_major() -> None:
    batch = encode_vectors(np.array([[1.0, -2.0], [0.5, 0.0]]), FINGERPRINT)
    assert batch.data.hex() == "0000803f" + "000000c0" + "0000003f" + "00000000"
    assert encode_vectors(np.array([[1.0]]), FINGERPRINT, FLOAT16).data.hex() == "003c"


def test_strided_and_big_endian_input_is_stored_in_order() -> None:
    vectors = np.arange(12, dtype=">f4").reshape(3, 4)[:, ::2]
    np.testing.assert_array_equal(decode_vectors(encode_vectors(vectors, FINGERPRINT)), [[0, 2], [4, 6], [8, 10]])


def test_one_dimensional_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(n, dimension\), not \(3,\)"):
        encode_vectors(np.zeros(3), FINGERPRINT)


@pytest.mark.parametrize(
    ("batch", "field", "message"),
    [
        (VectorBatch(count=1, dimension=1, data=b"1234"), "element_type", "not 0"),
        (VectorBatch(count=1, dimension=1, element_type=7, data=b"1234"), "element_type", "not 7"),  # type: ignore[arg-type]
        (VectorBatch(count=2, dimension=3, element_type=FLOAT32, data=b"1234"), "data", "24 bytes .* not 4 bytes"),
        (VectorBatch(count=1, dimension=0, element_type=FLOAT32), "dimension", "1 to 4096, not 0"),
        (VectorBatch(count=1, dimension=5000, element_type=FLOAT32), "dimension", "1 to 4096, not 5000"),
        (VectorBatch(count=100_001, dimension=1, element_type=FLOAT32), "count", "at most 100000 .* not 100001"),
        (VectorBatch(count=4_294_967_295, dimension=4096, element_type=FLOAT32), "count", "not 4294967295"),
    ],
)
def test_contradictions_are_refused(batch: VectorBatch, field: str, message: str) -> None:
    with pytest.raises(VectorBatchError, match=message) as caught:
        decode_vectors(batch)
    assert caught.value.field == field


def test_empty_batch_may_leave_the_dimension_out() -> None:
    assert decode_vectors(VectorBatch(element_type=FLOAT32)).shape == (0, 0)
