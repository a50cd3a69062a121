"""An immutable segment: vectors of one shard in files, mapped into memory, with an index over them.

Owns the files of a segment and the use of FAISS. Knows nothing of who wrote the rows or which collection they are of.

    vectors.faiss   every vector as float16, scanned for exact answers and gathered to score candidates
    codes.faiss     4-bit codes of the same vectors, scanned to propose candidates; absent in an exact segment
    rows.i64        (n,) the rows' numbers in the record store, ascending
    id-ends.u64     (n,) where each id ends in ids.utf8
    ids.utf8        the ids, end to end
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import faiss
import numpy as np

from index_service.recipes import Recipe, train_codes
from index_service.vector_space import STORED_DTYPE, Metric, VectorSpace

VECTORS_FILE = "vectors.faiss"
CODES_FILE = "codes.faiss"
NUMBERS_FILE = "rows.i64"
ID_ENDS_FILE = "id-ends.u64"
IDS_FILE = "ids.utf8"

_BLAS_FROM_NUMBERS = 16_384
"""Numbers in all queries of a scan from which FAISS takes a matrix product: 32 queries of 768 dimensions need a fifth
of the time that they need under FAISS's own threshold, 128,000.
"""
_ENCODE_ROWS = 16_384
_METRICS = {
    Metric.COSINE: faiss.METRIC_INNER_PRODUCT,
    Metric.INNER_PRODUCT: faiss.METRIC_INNER_PRODUCT,
    Metric.L2: faiss.METRIC_L2,
}


class Interrupted(Exception):
    """The segment was not written, because its shard closes."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a segment is made of; entry i of each column belongs to row i."""

    numbers: np.ndarray
    """(n,) int64, ascending."""
    ids: Sequence[str]
    vectors: np.ndarray
    """(n, dimension) float16."""


def prepare_worker() -> None:
    """Call first in each thread that searches: one OpenMP thread, and no callback that takes the GIL in the middle."""
    faiss.omp_set_num_threads(1)
    faiss.InterruptCallback.clear_instance()
    faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM_NUMBERS


def nearest(vectors: np.ndarray, metric: Metric, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` nearest of ``vectors`` (m, dimension) float32 to each query, by an exact scan.

    Returns scores and rows, (queries, count) each; scores are off by rounding alone.
    """
    scores, rows = faiss.knn(queries, vectors, count, metric=_METRICS[metric])
    return (-scores if metric is Metric.L2 else scores), rows


def write_segment(folder: Path, rows: Rows, space: VectorSpace, recipe: Recipe, stop: Event) -> None:
    """Write the files of a segment into an empty folder. Nothing is made durable. Raises Interrupted once stopped."""
    exact = faiss.IndexScalarQuantizer(space.dimension, faiss.ScalarQuantizer.QT_fp16, _METRICS[space.metric])
    codes = train_codes(rows.vectors, _METRICS[space.metric]) if recipe is Recipe.FASTSCAN else None
    for begin in range(0, len(rows.ids), _ENCODE_ROWS):
        if stop.is_set():
            raise Interrupted
        piece = rows.vectors[begin : begin + _ENCODE_ROWS].astype(np.float32)
        exact.add(piece)
        if codes is not None:
            codes.add(piece)
    faiss.write_index(exact, str(folder / VECTORS_FILE))
    if codes is not None:
        faiss.write_index(codes, str(folder / CODES_FILE))
    encoded = [own.encode() for own in rows.ids]
    rows.numbers.astype("<i8").tofile(folder / NUMBERS_FILE)
    np.cumsum([len(own) for own in encoded], dtype="<u8").tofile(folder / ID_ENDS_FILE)
    (folder / IDS_FILE).write_bytes(b"".join(encoded))


class Segment:
    """An open segment. Any thread may search it."""

    def __init__(self, name: str, folder: Path, space: VectorSpace) -> None:
        """Map the files, whose contents the caller has verified. Raises OSError or RuntimeError when they don't fit."""
        self.name = name
        self._space = space
        self._exact: Any = _map(folder / VECTORS_FILE)
        self.rows: int = self._exact.ntotal
        codes_path = folder / CODES_FILE
        self._refined: Any = None
        if codes_path.exists():
            self._codes = _map(codes_path)
            self._refined = faiss.IndexRefine(self._codes, self._exact)
        self.numbers: np.ndarray = np.memmap(folder / NUMBERS_FILE, dtype="<i8", mode="r")
        self._id_ends = np.memmap(folder / ID_ENDS_FILE, dtype="<u8", mode="r")
        self._ids = np.memmap(folder / IDS_FILE, dtype=np.uint8, mode="r")
        code_bytes = faiss.rev_swig_ptr(self._exact.codes.data(), self.rows * self._exact.code_size)
        self._vectors: np.ndarray = code_bytes.view(STORED_DTYPE).reshape(self.rows, space.dimension)
        self.longest = self._longest()

    @property
    def recipe(self) -> Recipe:
        """How candidates are proposed."""
        return Recipe.EXACT if self._refined is None else Recipe.FASTSCAN

    def vectors_of(self, rows: np.ndarray) -> np.ndarray:
        """(n, dimension) float32."""
        vectors: np.ndarray = self._vectors[rows].astype(np.float32)
        return vectors

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """(n,) str objects."""
        ends = self._id_ends[rows].tolist()
        begins = np.where(rows > 0, self._id_ends[rows - 1], 0).tolist()
        ids = np.empty(len(rows), dtype=object)
        ids[:] = [bytes(self._ids[begin:end]).decode() for begin, end in zip(begins, ends, strict=True)]
        return ids

    def rows_numbered(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of this segment that bear one of these numbers."""
        places = np.searchsorted(self.numbers, numbers)
        places = places[places < self.rows]
        return places[np.isin(self.numbers[places], numbers)]

    def scan(self, queries: np.ndarray, count: int, live: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` nearest live rows to each query, by an exact scan: scores and rows, (queries, count) each.

        ``live`` is a bitmap (rows / 8,) uint8, lowest bit first. A place that no row fills has score -inf and row 0.
        """
        parameters = None if live is None else faiss.SearchParameters(sel=_selector(live))
        return self._as_scores(*self._exact.search(queries, count, params=parameters))

    def propose(
        self, queries: np.ndarray, count: int, candidates: int, live: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` best of about ``candidates`` rows with the nearest codes; form as ``scan``."""
        parameters = faiss.IndexRefineSearchParameters(
            k_factor=candidates / count, base_index_params=faiss.SearchParametersIVF(nprobe=1, sel=_selector(live))
        )
        return self._as_scores(*self._refined.search(queries, count, params=parameters))

    def _as_scores(self, scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores = -scores if self._space.metric is Metric.L2 else self._space.bounded(scores)
        empty = rows < 0
        scores[empty], rows[empty] = -np.inf, 0
        return scores, rows

    def _longest(self) -> float:
        if self._space.metric is Metric.COSINE:
            return 1.0 + 2.0**-10  # float16 rounds each number by at most 2^-11 of it
        squares = [
            np.einsum("nd,nd->n", piece, piece, dtype=np.float64).max()
            for piece in (
                self._vectors[begin : begin + _ENCODE_ROWS].astype(np.float32)
                for begin in range(0, self.rows, _ENCODE_ROWS)
            )
        ]
        return float(np.sqrt(max(squares, default=0.0)))


@dataclass(frozen=True, slots=True)
class SegmentView:
    """A segment and its dead rows, as they stood when the view was taken."""

    segment: Segment
    dead: np.ndarray | None
    """(rows,) bool: deleted or replaced; None where none is."""
    live: np.ndarray | None
    """The same turned round, as a bitmap (rows / 8,) uint8, lowest bit first."""
    dead_count: int

    @classmethod
    def of(cls, segment: Segment, dead: np.ndarray | None) -> "SegmentView":
        """The view with these dead rows (rows,) bool."""
        if dead is None or not dead.any():
            return cls(segment, None, None, 0)
        return cls(segment, dead, np.packbits(~dead, bitorder="little"), int(dead.sum()))

    def burying(self, numbers: np.ndarray) -> "SegmentView":
        """The view in which the rows with these numbers (n,) are dead too."""
        rows = self.segment.rows_numbered(numbers)
        if not rows.size:
            return self
        dead = np.zeros(self.segment.rows, dtype=bool) if self.dead is None else self.dead.copy()
        dead[rows] = True
        return SegmentView.of(self.segment, dead)

    @property
    def rows(self) -> int:
        """Vectors in the segment, dead ones included."""
        return self.segment.rows

    @property
    def live_count(self) -> int:
        """Vectors that can be found."""
        return self.rows - self.dead_count

    @property
    def longest(self) -> float:
        """No vector of the segment is longer."""
        return self.segment.longest

    def vectors_of(self, rows: np.ndarray) -> np.ndarray:
        """(n, dimension) float32."""
        return self.segment.vectors_of(rows)

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """(n,) str objects."""
        return self.segment.ids_of(rows)

    def newly_dead(self, earlier: "SegmentView") -> np.ndarray:
        """The rows that have died since an earlier view of the same segment."""
        if self.dead is None:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self.dead if earlier.dead is None else self.dead & ~earlier.dead)

    def live_rows(self) -> Rows:
        """What a new segment in place of this one would hold."""
        rows = np.arange(self.rows) if self.dead is None else np.flatnonzero(~self.dead)
        segment = self.segment
        return Rows(segment.numbers[rows], segment.ids_of(rows).tolist(), segment._vectors[rows])


def _map(path: Path) -> Any:  # noqa: ANN401 - FAISS has no types
    """An index whose numbers stay in the file. Raises RuntimeError for a file that holds none."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def _selector(live: np.ndarray | None) -> Any:  # noqa: ANN401
    return None if live is None else faiss.IDSelectorBitmap(live.size, faiss.swig_ptr(live))
