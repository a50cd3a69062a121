"""What the demo measures: task recall of every label, and the latency of single searches.

Task recall@k is the share of labels whose own picture stands in the top k (not the share of the exact top k that an
index returns). Owns the two measurements; prints nothing.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eyebright_client import Client

from eyebright_cli.demo.gallery import Picture

LATENCY_QUERIES = 200
"""Single searches that are timed."""

_WARM_UP_QUERIES = 10
_LABELS_PER_CALL = 100


@dataclass(frozen=True, slots=True)
class LabelRecall:
    """Task recall over all labels, as fractions."""

    at_1: float
    at_10: float


def label_recall(client: Client, pictures: Sequence[Picture], advance: Callable[[int], None]) -> LabelRecall:
    """Search every label in the whole gallery. ``advance`` is told how many labels each step did. Raises CallError."""
    first = tenth = 0
    for start in range(0, len(pictures), _LABELS_PER_CALL):
        batch = pictures[start : start + _LABELS_PER_CALL]
        results = client.search_many(texts=[picture.label for picture in batch], k=10, include=())
        for picture, result in zip(batch, results, strict=True):
            if result.error is not None:
                raise result.error
            first += picture.key in result.ids[:1]
            tenth += picture.key in result.ids
        advance(len(batch))
    return LabelRecall(first / len(pictures), tenth / len(pictures))


def search_p50_seconds(client: Client, pictures: Sequence[Picture], advance: Callable[[int], None]) -> float:
    """Median wall time of a caption search, one after another, as the caller sees it: embedding, search and transport.

    Every text is asked once only, so that nothing on the way can have kept its answer.
    """
    stride = max(1, len(pictures) // (LATENCY_QUERIES + _WARM_UP_QUERIES))
    texts = [f"a picture of {picture.label}" for picture in pictures[::stride]][: LATENCY_QUERIES + _WARM_UP_QUERIES]
    seconds = []
    for text in texts:
        began = time.perf_counter()
        client.search(text, k=10)
        seconds.append(time.perf_counter() - began)
        advance(1)
    return statistics.median(seconds[_WARM_UP_QUERIES:])
