"""Latency against the number of pictures: exact search, the paper's cells, and the service tuned, at each size.

Owns that curve. Every size is the first pictures of one dataset.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import faiss

from benchmarks.dataset import Dataset
from benchmarks.paper.hosted import TUNED, Hosted
from benchmarks.paper.indexes import PAPER_INDEXES, build
from benchmarks.paper.published import FLAT, IVF
from benchmarks.paper.task import Task, timed

_PAPERS = tuple(kind for kind in PAPER_INDEXES if kind.name in (FLAT, IVF))


def size(data: Dataset, rows: int, folder: Path) -> dict[str, Any]:
    """Seconds of one caption, and ANN recall@10, of each way at one size."""
    # Pictures of most captions are not among the first rows; nearest ones are, and no more is asked here.
    task = Task(data.first(rows), None, own_pictures=False)
    ways: dict[str, Any] = {}
    for kind in _PAPERS:
        index, _ = build(kind, task.vectors)
        recall = task.ann(index.search(task.captions[:300], 10)[1], "captions", 10)
        faiss.omp_set_num_threads(1)
        seconds = timed(partial(index.search, k=10), task.captions)
        ways[kind.name] = {"recall": asdict(recall), "seconds": asdict(seconds)}
        del index
    task.let_go()
    with Hosted(task, folder) as hosted:
        hosted.ingest()
        chosen, recall = hosted.tune(TUNED)
        ways["Eyebright, tuned"] = {
            "recall": asdict(recall),
            "seconds": asdict(hosted.latency()),
            "chosen": chosen,
        }
    return {"rows": rows, "ways": ways}
