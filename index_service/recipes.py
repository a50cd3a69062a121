"""Recipes: the ways a segment proposes candidates.

Owns their names, the FAISS index behind each, and what a search tells that index. Every candidate is compared as a
vector afterwards, so that a recipe decides what is found, never how it is scored.
"""

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import faiss
import numpy as np

_CODE_TRAINING = ((50_000, 4_096, 25), (0, 1_024, 10))
"""Rows from which codes are trained on so many of them, in so many iterations. Small segments are written often and
merged soon: a tenth of the time costs them less than a hundredth of recall@10.
"""
_NUMBERS_PER_CODE = 2
"""Dimensions that a 4-bit code stands for. With four, a scan takes three quarters of the time, but captions that fit
their pictures loosely get lost: of the best ten of such among a million of 1152 dimensions, codes of four numbers found
0.90 with a ``k_factor`` of 200 and 0.983 with 1,000, those of two 0.995 with 50 and 0.9995 with 200.
"""
_CELLS_PER_ROOT = 2.0
_TRAINING_ROWS_PER_CELL = 40
_CELL_ITERATIONS = 8
_LINKS = 32
_EF_CONSTRUCTION = 80
_BITS_PER_NUMBER = 2


def engine_build() -> tuple[str, str]:
    """The version of FAISS, and the instructions that it uses on this machine."""
    return faiss.__version__, faiss.SIMDConfig.get_level_name()


class Recipe(Enum):
    """How a segment is searched."""

    EXACT = "exact"
    """Every vector is compared with the query."""
    FASTSCAN = "fastscan"
    """4-bit codes of every vector are scanned in registers; the best are compared as vectors. It has no cells, so that
    no caption falls between them."""
    IVF_FASTSCAN = "ivf-fastscan"
    """The same codes in cells, of which those nearest to the query are scanned."""
    HNSW = "hnsw"
    """A graph of near neighbours, walked towards the query."""
    IVF_FLAT = "ivf-flat"
    """Vectors in cells, of which those nearest to the query are scanned. For comparison."""
    LSH = "lsh"
    """Signs of random projections, compared bit by bit. For comparison."""


CENTRED_RECIPES = frozenset({Recipe.FASTSCAN, Recipe.IVF_FASTSCAN, Recipe.IVF_FLAT})
"""Those that may subtract the mean first: ranks by inner product do not change, since q.(x - m) = q.x - q.m, while
cells and codes do. Whether that helps depends on the data.
"""

CODE_RECIPES = frozenset({Recipe.FASTSCAN, Recipe.IVF_FASTSCAN, Recipe.HNSW})
"""Those beside which small segments are searched by codes: what codes lose stays within what the recipe loses."""

CELL_RECIPES = frozenset({Recipe.IVF_FASTSCAN, Recipe.IVF_FLAT})
"""Those with cells."""


@dataclass(frozen=True, slots=True)
class Build:
    """What is decided when a segment is written."""

    recipe: Recipe
    centred: bool = False
    """Whether the mean was subtracted; inner products alone."""


EXACT = Build(Recipe.EXACT)
FASTSCAN = Build(Recipe.FASTSCAN)


@dataclass(frozen=True, slots=True)
class Effort:
    """What is decided when a segment is searched: more of any finds more and takes longer."""

    k_factor: float = 100.0
    """Candidates for each hit asked for, over the whole collection. Among a million vectors of 768 dimensions, codes
    find 0.9995 of the best ten of captions with 50, and more as the collection shrinks.
    """
    probed_share: float = 0.1
    """Share of the cells that are scanned, above 0, at most 1."""
    ef_search: int = 400
    """Nodes of the graph that are kept in sight."""

    def wider(self, let_through: float) -> "Effort":
        """The effort where a filter lets only this share of the rows through: so many more cells that as many rows that
        pass are scanned as there would be without it.
        """
        return replace(self, probed_share=min(1.0, self.probed_share / let_through))


def training_rows(build: Build, rows: int) -> int:
    """How many of so many rows an index is trained on."""
    of_cells = cell_count(rows) * _TRAINING_ROWS_PER_CELL if build.recipe in CELL_RECIPES else 0
    return min(rows, max(_code_training(rows)[0], of_cells))


def _code_training(rows: int) -> tuple[int, int]:
    """On how many rows, and in how many iterations, the codes of so many are trained."""
    return next((count, iterations) for least, count, iterations in _CODE_TRAINING if rows >= least)


def train(build: Build, sample: np.ndarray, rows: int, metric: int) -> tuple[Any, np.ndarray | None]:
    """An empty index that proposes, for so many rows, trained on a sample (n, dimension) float16 of them; and what is
    to be subtracted from each vector that is added: the mean (dimension,) float32, or None.
    """
    dimension = sample.shape[1]
    cells = cell_count(rows)
    mean = sample.mean(axis=0, dtype=np.float32) if build.centred else None
    match build.recipe:
        case Recipe.FASTSCAN:
            # One inverted list holds everything: flat fast-scan indexes take no selector, their inverted form does.
            index = faiss.index_factory(dimension, f"IVF1,PQ{code_count(dimension)}x4fs", metric)
        case Recipe.IVF_FASTSCAN:
            index = faiss.index_factory(dimension, f"IVF{cells},PQ{code_count(dimension)}x4fs", metric)
        case Recipe.IVF_FLAT:
            index = faiss.index_factory(dimension, f"IVF{cells},SQfp16", metric)
            index.by_residual = False
        case Recipe.HNSW:
            index = faiss.IndexHNSWSQ(dimension, faiss.ScalarQuantizer.QT_fp16, _LINKS, metric)
            index.hnsw.efConstruction = _EF_CONSTRUCTION
        case Recipe.LSH:
            index = faiss.IndexLSH(dimension, _BITS_PER_NUMBER * dimension)
        case Recipe.EXACT:
            raise ValueError("an exact segment has no index that proposes")
    if build.recipe in CELL_RECIPES:
        index.cp.niter = _CELL_ITERATIONS
    if build.recipe in (Recipe.FASTSCAN, Recipe.IVF_FASTSCAN):
        index.pq.cp.niter = _code_training(rows)[1]
    index.train(centred(sample, mean))
    return index, mean


def centred(vectors: np.ndarray, mean: np.ndarray | None) -> np.ndarray:
    """Vectors (n, dimension) float16 as float32, less the mean if there is one."""
    wide = vectors.astype(np.float32)
    return wide if mean is None else wide - mean


def write(index: Any, recipe: Recipe, path: Path) -> None:  # noqa: ANN401 - FAISS has no types
    """Write an index to a file; a graph without the vectors that it leads to."""
    faiss.write_index(index, str(path), faiss.IO_FLAG_SKIP_STORAGE if recipe is Recipe.HNSW else 0)


def read(path: Path, recipe: Recipe, exact: Any) -> tuple[Any, int]:  # noqa: ANN401
    """The index of a file, numbers left in it, whose candidates ``exact`` compares; its cells. Raises RuntimeError."""
    flags = faiss.IO_FLAG_MMAP_IFC
    if recipe is Recipe.HNSW:
        proposing = faiss.read_index(str(path), flags | faiss.IO_FLAG_SKIP_STORAGE)
        proposing.storage, proposing.own_fields = exact, False
    else:
        proposing = faiss.read_index(str(path), flags)
    metric, proposing.metric_type = proposing.metric_type, exact.metric_type
    refined = faiss.IndexRefine(proposing, exact)
    proposing.metric_type = metric  # signs are compared bit by bit, whatever the metric of the vectors
    return refined, int(getattr(proposing, "nlist", 1))


def parameters(
    recipe: Recipe,
    effort: Effort,
    cells: int,
    asked: int,
    candidates: int,
    selector: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """What tells a refined index to propose ``candidates`` rows for ``asked`` ones. All are set: FAISS takes its own
    defaults for what is left out, whatever the index says.
    """
    match recipe:
        case Recipe.HNSW:
            base = faiss.SearchParametersHNSW(efSearch=max(effort.ef_search, candidates), sel=selector)
        case Recipe.LSH:
            base = None  # takes none
        case _:
            base = faiss.SearchParametersIVF(nprobe=cells_probed(effort, cells), sel=selector)
    return faiss.IndexRefineSearchParameters(k_factor=candidates / asked, base_index_params=base)


def cells_probed(effort: Effort, cells: int) -> int:
    """How many of so many cells are scanned."""
    return max(1, min(cells, round(effort.probed_share * cells)))


def code_count(dimension: int) -> int:
    """Codes a vector is cut into: the most that divide the dimension and stand for two numbers each or more."""
    most = max(1, dimension // _NUMBERS_PER_CODE)
    return next(count for count in range(most, 0, -1) if dimension % count == 0)


def code_bytes(dimension: int) -> int:
    """Bytes of the 4-bit codes of a vector, about."""
    return -(-code_count(dimension) // 2)


def cell_count(rows: int) -> int:
    """Cells of so many rows: about twice their square root, a power of two."""
    return 1 << max(0, round(float(np.log2(_CELLS_PER_ROOT * max(rows, 1) ** 0.5))))
