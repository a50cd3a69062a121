"""VectorBatch <-> numpy.

Owns the byte layout of vectors on the wire. Knows nothing of services: a batch that does not hold what it states raises
VectorBatchError, and whoever received it decides what that means.
"""

import numpy as np
from eyebright.vectors.v1.vectors_pb2 import ElementType, VectorBatch

MAX_DIMENSION = 4096
"""Most numbers in a vector; stated in vectors.proto."""

MAX_COUNT = 100_000
"""Most rows in a batch; stated in vectors.proto."""

FLOAT32 = ElementType.ELEMENT_TYPE_FLOAT32
FLOAT16 = ElementType.ELEMENT_TYPE_FLOAT16

_DTYPES: dict[int, np.dtype[np.floating]] = {FLOAT32: np.dtype("<f4"), FLOAT16: np.dtype("<f2")}


class VectorBatchError(ValueError):
    """A VectorBatch contradicts itself; ``field`` names the field, the message both values."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


def encode_vectors(
    vectors: np.ndarray, fingerprint: str, element_type: ElementType = ElementType.ELEMENT_TYPE_FLOAT32
) -> VectorBatch:
    """A VectorBatch of (n, dimension) vectors of any float dtype, in the given element type (unspecified: FLOAT32).

    Raises ValueError when ``vectors`` is not two-dimensional.
    """
    if vectors.ndim != 2:
        raise ValueError(f"expected vectors of shape (n, dimension), not {vectors.shape}")
    stored = element_type or FLOAT32
    return VectorBatch(
        count=vectors.shape[0],
        dimension=vectors.shape[1],
        element_type=stored,
        data=np.ascontiguousarray(vectors, dtype=_DTYPES[stored]).tobytes(),
        fingerprint=fingerprint,
    )


def decode_vectors(batch: VectorBatch) -> np.ndarray:
    """The vectors of a batch, shape (count, dimension), float32 or float16, read-only: a view of the message's bytes.

    Raises VectorBatchError when the batch contradicts itself or passes a limit of vectors.proto.
    """
    dtype = _DTYPES.get(batch.element_type)
    if dtype is None:
        raise VectorBatchError("element_type", f"expected FLOAT32 (1) or FLOAT16 (2), not {batch.element_type}")
    if batch.count > MAX_COUNT:
        raise VectorBatchError("count", f"expected at most {MAX_COUNT} vectors, not {batch.count}")
    least = 1 if batch.count else 0
    if not least <= batch.dimension <= MAX_DIMENSION:
        raise VectorBatchError("dimension", f"expected {least} to {MAX_DIMENSION}, not {batch.dimension}")
    expected = batch.count * batch.dimension * dtype.itemsize
    if len(batch.data) != expected:
        raise VectorBatchError(
            "data",
            f"expected {expected} bytes for {batch.count} x {batch.dimension} {dtype.name} numbers, "
            f"not {len(batch.data)} bytes",
        )
    return np.frombuffer(batch.data, dtype=dtype).reshape(batch.count, batch.dimension)
