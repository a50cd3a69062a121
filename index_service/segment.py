"""An immutable segment: vectors of one shard in files, mapped into memory, with an index over them.

Owns the files of a segment and the use of FAISS. Knows nothing of who wrote the rows or which collection they are of.

    segment.json    how the segment is searched
    vectors.faiss   every vector as float16, scanned for exact answers and gathered to score candidates
    codes.faiss     an index of the same vectors that proposes candidates; absent in an exact segment
    rows.i64        (n,) the rows' numbers in the record store, ascending
    id-ends.u64     (n,) where each id ends in ids.utf8
    ids.utf8        the ids, end to end
"""

import copy
import json
import mmap
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import faiss
import numpy as np

from index_service import recipes
from index_service.fault_points import reach
from index_service.recipes import Build, Effort, Recipe
from index_service.vector_space import STORED_DTYPE, Metric, VectorSpace

DESCRIPTION_FILE = "segment.json"
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
_SAMPLE_ROWS = 2_048
_METRICS = {
    Metric.COSINE: faiss.METRIC_INNER_PRODUCT,
    Metric.INNER_PRODUCT: faiss.METRIC_INNER_PRODUCT,
    Metric.L2: faiss.METRIC_L2,
}


_of_thread = threading.local()


@dataclass(frozen=True, slots=True)
class Many:
    """Rows of a segment in no order."""

    scores: np.ndarray
    """(n,) float32, off by rounding alone."""
    rows: np.ndarray
    """(n,) int64."""
    border: float
    """No live row that is missing scores more."""


class Interrupted(Exception):
    """What was being written was told to stop."""


class Vectors(Protocol):
    """Vectors (n, dimension) float16 that are read a piece at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N and the dimension."""
        ...

    def __getitem__(self, rows: Any) -> np.ndarray:  # noqa: ANN401 - a slice or an array of rows
        """Some of them."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """What a segment is made of; entry i of each column belongs to row i."""

    numbers: np.ndarray
    """(n,) int64, ascending."""
    ids: Sequence[str]
    vectors: Vectors


class GatheredVectors:
    """Rows of several arrays in one order, copied out of them only when they are asked for."""

    def __init__(self, parts: Sequence[np.ndarray], part_of: np.ndarray, row_of: np.ndarray) -> None:
        """Row i is row ``row_of[i]`` of ``parts[part_of[i]]``."""
        self._parts = parts
        self._part_of = part_of
        self._row_of = row_of
        self.shape = len(part_of), parts[0].shape[1]

    def __getitem__(self, rows: Any) -> np.ndarray:  # noqa: ANN401
        part_of, row_of = self._part_of[rows], self._row_of[rows]
        gathered = np.empty((len(part_of), self.shape[1]), dtype=STORED_DTYPE)
        for number, part in enumerate(self._parts):
            own = part_of == number
            gathered[own] = part[row_of[own]]
        return gathered


def prepare_worker() -> None:
    """Call first in each thread that searches: one OpenMP thread, and no callback that takes the GIL in the middle."""
    faiss.omp_set_num_threads(1)
    faiss.InterruptCallback.clear_instance()
    faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM_NUMBERS


def nearest(vectors: np.ndarray, space: VectorSpace, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` nearest of ``vectors`` (m, dimension) float16 to each query, by an exact scan; m is at least count.

    Returns scores and rows, (queries, count) each, best first; scores are off by rounding alone.
    """
    if queries.size >= _BLAS_FROM_NUMBERS:
        scores, rows = faiss.knn(queries, vectors.astype(np.float32), count, metric=_METRICS[space.metric])
        return (-scores if space.metric is Metric.L2 else scores), rows
    scores = np.empty((len(queries), count), dtype=np.float32)
    rows = np.empty((len(queries), count), dtype=np.int64)
    codes = faiss.swig_ptr(vectors.view(np.uint8))
    for number, query in enumerate(queries):
        found, own = _best(space, query, codes, len(vectors), count, -np.inf, None)
        order = np.argsort(-found)
        scores[number], rows[number] = found[order], own[order]
    return scores, rows


def _best(
    space: VectorSpace,
    query: np.ndarray,
    codes: Any,  # noqa: ANN401 - FAISS has no types
    row_count: int,
    count: int,
    border: float,
    live: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` best of float16 vectors that score more than the border: scores and rows (count,), in no order.

    Row -1 where there is none.
    """
    sign = -1.0 if space.metric is Metric.L2 else 1.0
    scores = np.full(count, sign * border, dtype=np.float32)
    rows = np.full(count, -1, dtype=np.int64)
    scanner, selector = _scanner(space), _selector(live)
    scanner.sel = selector
    scanner.set_query(faiss.swig_ptr(np.ascontiguousarray(query)))
    scanner.set_list(0, 0.0)
    scanner.scan_codes(row_count, codes, None, faiss.swig_ptr(scores), faiss.swig_ptr(rows), count)
    return sign * scores, rows


def write_segment(folder: Path, rows: Rows, space: VectorSpace, build: Build, stop: Event) -> None:
    """Write the files of a segment into an empty folder. Nothing is made durable. Raises Interrupted once stopped."""
    with (folder / VECTORS_FILE).open("wb") as file:
        file.write(_before_vectors(space, len(rows.ids)))
        proposing = _filled(rows.vectors, space, build, lambda piece: file.write(piece.tobytes()), stop.is_set)
    reach("*.file_written")
    if proposing is not None:
        recipes.write(proposing, build.recipe, folder / CODES_FILE)
        reach("*.file_written")
    encoded = [own.encode() for own in rows.ids]
    # Not by numpy's own tofile, which says nothing of a disk that is found full when the file is closed.
    (folder / NUMBERS_FILE).write_bytes(rows.numbers.astype("<i8").tobytes())
    (folder / ID_ENDS_FILE).write_bytes(np.cumsum([len(own) for own in encoded], dtype="<u8").tobytes())
    (folder / IDS_FILE).write_bytes(b"".join(encoded))
    reach("*.file_written")
    described = {"recipe": build.recipe.value, "centred": build.centred}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(described), "utf-8")


def _before_vectors(space: VectorSpace, count: int) -> bytes:
    """What FAISS writes before so many float16 vectors, which follow as they are. An index in memory would take as much
    as they do.
    """
    quantizer = faiss.IndexScalarQuantizer(space.dimension, faiss.ScalarQuantizer.QT_fp16, _METRICS[space.metric])
    empty: bytes = faiss.serialize_index(quantizer).tobytes()
    # The kind of index and the dimension, 4 bytes each; how many vectors, 8; and so on; last their bytes, 8.
    vector_bytes = count * space.dimension * STORED_DTYPE.itemsize
    return empty[:8] + count.to_bytes(8, "little") + empty[16:-8] + vector_bytes.to_bytes(8, "little")


def _filled(
    vectors: Vectors,
    space: VectorSpace,
    build: Build,
    keep: Callable[[np.ndarray], object] | None,
    stop: Callable[[], bool],
) -> Any:  # noqa: ANN401
    """The index that proposes among these vectors; None for an exact build. ``keep``, unless None, is given each piece
    of them, (n, dimension) float16.
    """
    count = vectors.shape[0]
    proposing, mean = None, None
    if build.recipe is not Recipe.EXACT:
        chosen = np.random.default_rng(0).choice(count, recipes.training_rows(build, count), replace=False)
        proposing, mean = recipes.train(build, vectors[np.sort(chosen)], count, _METRICS[space.metric])
    for begin in range(0, count, _ENCODE_ROWS):
        if stop():
            raise Interrupted
        piece = vectors[begin : begin + _ENCODE_ROWS]
        if keep is not None:
            keep(piece)
        if proposing is not None:
            proposing.add(recipes.centred(piece, mean))
    return proposing


@dataclass(frozen=True, slots=True)
class _Parameters:
    """What FAISS was told last, and for what: it reads it alone, so that searches may share it. Slow to make."""

    key: tuple[Effort, int, int] | None
    live: np.ndarray | None
    """Held because the selector in it reads this memory."""
    made: Any


class Segment:
    """An open segment. Any thread may search it."""

    def __init__(self, name: str, folder: Path, space: VectorSpace) -> None:
        """Map the files, whose contents the caller has verified. Raises OSError or RuntimeError when they don't fit."""
        self.name = name
        self._space = space
        described = json.loads((folder / DESCRIPTION_FILE).read_text("utf-8"))
        self.build = Build(Recipe(described["recipe"]), bool(described["centred"]))
        self._exact: Any = faiss.read_index(str(folder / VECTORS_FILE), faiss.IO_FLAG_MMAP_IFC)
        self.rows: int = self._exact.ntotal
        if self.build.recipe is not Recipe.EXACT:
            self._refined, self._cells = recipes.read(folder / CODES_FILE, self.build.recipe, self._exact)
        self.numbers = _mapped(folder / NUMBERS_FILE, "<i8")
        self._id_ends = _mapped(folder / ID_ENDS_FILE, "<u8")
        with (folder / IDS_FILE).open("rb") as file:
            self._ids = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self._check_lengths()
        code_bytes = faiss.rev_swig_ptr(self._exact.codes.data(), self.rows * self._exact.code_size)
        self.vectors: np.ndarray = code_bytes.view(STORED_DTYPE).reshape(self.rows, space.dimension)
        self.longest = self._longest()
        self._parameters = _Parameters(None, None, None)

    def _check_lengths(self) -> None:
        lengths = (self.rows, len(self.numbers), len(self._id_ends), int(self._id_ends[-1]))
        expected = (self.rows, self.rows, self.rows, len(self._ids))
        if lengths != expected:
            raise RuntimeError(f"expected vectors, numbers, ids and their bytes {expected}, not {lengths}")

    def indexed(self, build: Build, path: Path, stop: Callable[[], bool]) -> "Segment":
        """The same rows with an index of another build, which is written to a file for it to be mapped.

        Raises Interrupted once stopped, OSError or RuntimeError.
        """
        other = copy.copy(self)
        other.build = build
        other._parameters = _Parameters(None, None, None)
        if build.recipe is not Recipe.EXACT:
            recipes.write(_filled(self.vectors, self._space, build, None, stop), build.recipe, path)
            other._refined, other._cells = recipes.read(path, build.recipe, self._exact)
        return other

    def vectors_of(self, rows: np.ndarray) -> np.ndarray:
        """(n, dimension) float32."""
        vectors: np.ndarray = self.vectors[rows].astype(np.float32)
        return vectors

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """(n,) str objects."""
        begins = np.where(rows > 0, self._id_ends[rows - 1], 0).tolist()
        held = self._ids
        ids = np.empty(len(rows), dtype=object)
        ids[:] = [held[begin:end].decode() for begin, end in zip(begins, self._id_ends[rows].tolist(), strict=True)]
        return ids

    def id_of(self, row: int) -> str:
        """The id of one row."""
        return self._ids[int(self._id_ends[row - 1]) if row else 0 : int(self._id_ends[row])].decode()

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

    def scan_many(
        self, query: np.ndarray, count: int, least: float, live: np.ndarray | None, live_count: int
    ) -> "Many":
        """About the ``count`` nearest of the live rows to one query (dimension,), and in any case all that score more
        than the border that the answer names, by an exact scan; none that scores less than ``least``.

        A heap of so many would cost more than the scan; so it begins full of a border that is guessed from a sample of
        the rows, and nearly all rows are passed over at one comparison.
        """
        share = count / max(live_count, 1)
        border = max(self._score_of_share(query, share, live), least)
        size = min(count + 8 * int(count**0.5) + _SAMPLE_ROWS, live_count)
        scores, rows = _best(self._space, query, self._exact.codes.data(), self.rows, size, border, live)
        found = rows >= 0
        if found.all() and size < live_count:
            border = float(scores.min())
        return Many(scores[found], rows[found], border)

    def propose(
        self, queries: np.ndarray, count: int, candidates: int, effort: Effort, live: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` best of about ``candidates`` rows that the recipe's index proposes; form as ``scan``."""
        recipe = self.build.recipe
        if recipe is Recipe.LSH and live is not None:
            return self._propose_filtered(queries, count, candidates, effort, live)
        key, known = (effort, count, candidates), self._parameters
        if known.key != key or known.live is not live:
            made = recipes.parameters(recipe, effort, self._cells, count, candidates, _selector(live))
            self._parameters = known = _Parameters(key, live, made)
        return self._as_scores(*self._refined.search(queries, count, params=known.made))

    def _propose_filtered(
        self, queries: np.ndarray, count: int, candidates: int, effort: Effort, live: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same of an index that takes no selector: the candidates that are live are picked out afterwards."""
        parameters = recipes.parameters(self.build.recipe, effort, self._cells, candidates, candidates, None)
        scores, rows = self._as_scores(*self._refined.search(queries, candidates, params=parameters))
        scores[~_is_live(live, rows)] = -np.inf
        best = np.argsort(-scores, axis=1)[:, :count]
        return np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)

    def rows_scanned(self, candidates: int, effort: Effort) -> int:
        """About how many rows the index compares to propose so many."""
        if self.build.recipe is Recipe.HNSW:
            return max(candidates, effort.ef_search)
        return recipes.cells_probed(effort, self._cells) * self.rows // self._cells

    def _score_of_share(self, query: np.ndarray, share: float, live: np.ndarray | None) -> float:
        """A score that all but surely more than this share of the live rows reach; -inf when none can be told."""
        step = max(1, self.rows // _SAMPLE_ROWS)
        sampled = np.arange(0, self.rows, step)
        if live is not None:
            sampled = sampled[_is_live(live, sampled)]
        place = len(sampled) * share + 3.0 * (len(sampled) * share) ** 0.5 + 1.0
        if place >= len(sampled):
            return -np.inf
        scores = self._space.scores(query[None, :], self.vectors_of(sampled))
        return float(np.partition(scores, len(scores) - 1 - int(place))[len(scores) - 1 - int(place)])

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
                self.vectors[begin : begin + _ENCODE_ROWS].astype(np.float32)
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
    def numbers(self) -> np.ndarray:
        """(rows,) int64, ascending: the rows' numbers in the record store."""
        return self.segment.numbers

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

    def id_of(self, row: int) -> str:
        """The id of one row."""
        return self.segment.id_of(row)

    def newly_dead(self, earlier: "SegmentView") -> np.ndarray:
        """The rows that have died since an earlier view of the same segment."""
        if self.dead is None:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self.dead if earlier.dead is None else self.dead & ~earlier.dead)

    def live_rows(self) -> np.ndarray:
        """The rows (n,) that a new segment in place of this one would hold."""
        return np.arange(self.rows) if self.dead is None else np.flatnonzero(~self.dead)


def merged_rows(views: Sequence[SegmentView]) -> Rows:
    """What a segment in place of these would hold."""
    live = [view.live_rows() for view in views]
    numbers = np.concatenate([view.segment.numbers[rows] for view, rows in zip(views, live, strict=True)])
    order = np.argsort(numbers)
    part_of = np.repeat(np.arange(len(views), dtype=np.uint16), [len(rows) for rows in live])[order]
    ids = np.concatenate([view.ids_of(rows) for view, rows in zip(views, live, strict=True)])[order].tolist()
    vectors = GatheredVectors([view.segment.vectors for view in views], part_of, np.concatenate(live)[order])
    return Rows(numbers[order], ids, vectors)


def _mapped(path: Path, dtype: str) -> np.ndarray:
    """The numbers (n,) in a file, as a plain array: one that knows of its file is slow to read from."""
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def _is_live(live: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Whether each of the rows is set in a bitmap."""
    is_live: np.ndarray = (live[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 1
    return is_live


def _scanner(space: VectorSpace) -> Any:  # noqa: ANN401 - FAISS has no types
    """What compares a query with float16 vectors, one for each thread and kind of space. Never freed: FAISS's Python
    can't free one.
    """
    known: dict[str, Any] = _of_thread.__dict__
    key = f"{space.metric.value} {space.dimension}"
    if key not in known:
        quantizer = faiss.ScalarQuantizer(space.dimension, faiss.ScalarQuantizer.QT_fp16)
        scanner = quantizer.select_InvertedListScanner(_METRICS[space.metric], None, True, None, False)
        known[key] = scanner
    return known[key]


def _selector(live: np.ndarray | None) -> Any:  # noqa: ANN401
    return None if live is None else faiss.IDSelectorBitmap(live.size, faiss.swig_ptr(live))
