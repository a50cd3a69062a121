"""Vectors as a caller may give them, and the matrix they stand for.

Owns the checks of shape and type. Knows no service.
"""

import numpy as np

from eyebright_client._exceptions import CallError, InvalidArgument
from eyebright_client._results import Embeddings, Modality


def matrix_of(vectors: object) -> tuple[np.ndarray, str | None, Modality | None, dict[int, CallError]]:
    """(n, dimension) vectors as float16 if they are, else as float32; then their fingerprint and what they were made
    of, where the input says so, and the errors of rows that are no vectors.

    Raises InvalidArgument for anything but Embeddings or a matrix of numbers.
    """
    if isinstance(vectors, Embeddings):
        return vectors.vectors, vectors.fingerprint, vectors.modality, dict(vectors.errors)
    try:
        matrix = np.asarray(vectors)
        if matrix.dtype != np.float16:
            with np.errstate(over="ignore"):  # what float32 can't hold becomes infinity, which the index refuses by row
                matrix = matrix.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"vectors: expected numbers of shape (n, dimension): {error}", field="vectors") from error
    if matrix.ndim != 2:
        raise InvalidArgument(f"vectors: expected the shape (n, dimension), not {matrix.shape}", field="vectors")
    return matrix, None, None, {}
