"""Why cells lose captions: an inverted file at every number of cells and probes, by captions and by pictures.

Owns that grid. ``centred`` subtracts the mean picture from the pictures and ranks by inner product; under L2 it would
change nothing, for queries would move along.
"""

from typing import Any

import faiss
import numpy as np

from benchmarks.paper.task import Kind, Task
from service_runtime.cores import usable_cores

CELLS = (16, 50, 100, 316, 1_000)
PROBES = (1, 2, 4, 8, 16, 32)
VARIANTS = ("L2", "inner product", "inner product, centred")
_QUERIES = 300


def grid(task: Task) -> dict[str, Any]:
    """ANN recall@10: variant -> cells -> kind -> one for each of PROBES that is no larger."""
    faiss.omp_set_num_threads(usable_cores())
    return {
        variant: {str(cells): _of_cells(task, variant, cells) for cells in CELLS if 40 * cells <= task.data.rows}
        for variant in VARIANTS
    }


def _of_cells(task: Task, variant: str, cells: int) -> dict[str, list[float]]:
    dimension = task.data.dimension
    if variant == "L2":
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dimension), dimension, cells)
    else:
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, cells, faiss.METRIC_INNER_PRODUCT)
    vectors = task.vectors - task.vectors.mean(axis=0) if variant.endswith("centred") else task.vectors
    index.train(vectors)
    index.add(vectors)
    recalls: dict[str, list[float]] = {}
    kinds: tuple[Kind, ...] = ("captions", "images")
    for kind in kinds:
        queries = task.queries(kind)
        assert queries is not None
        recalls[kind] = []
        for probes in PROBES:
            if probes <= cells:
                index.nprobe = probes
                found: np.ndarray = index.search(queries[:_QUERIES], 10)[1]
                recalls[kind].append(task.ann(found, kind, 10).value)
    return recalls
