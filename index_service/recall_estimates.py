"""How much of the exact answers the approximate ones hold, for one collection.

Owns the window of queries that were checked, and what may be concluded from them. Knows nothing of how one is checked.
"""

import math
import time
from collections import deque
from dataclasses import dataclass
from threading import Lock

from index_service.index_config import Modality
from index_service.metrics import IndexMetrics
from index_service.recipes import Recipe

WINDOW_SAMPLES = 1_000
"""Queries that an estimate rests on at most: the newest of their kind."""

LEAST_SAMPLES = 100
"""Queries from which an answer states the estimate: with 100, all of them perfect, the interval is 0.963 to 1."""

_QUANTILE = 1.959964
"""Of the standard normal distribution, for 95 % between it and its negative."""

_Kind = tuple[Modality, Recipe]


@dataclass(frozen=True, slots=True)
class RecallEstimate:
    """The mean recall of one kind of query."""

    modality: Modality
    recipe: Recipe
    mean: float
    lower: float
    """With ``upper``, the interval that holds the true mean with 95 % confidence, 0 to 1."""
    upper: float
    sample_count: int
    since_ns: int
    """When the oldest of the samples was taken, nanoseconds since 1970-01-01 UTC."""


class RecallEstimates:
    """The estimates of one collection, by modality and recipe. Any thread may call it; reading needs no lock."""

    def __init__(self, collection: str, metrics: IndexMetrics) -> None:
        self._collection = collection
        self._metrics = metrics
        self._changing = Lock()
        self._samples: dict[_Kind, deque[tuple[int, float]]] = {}
        self._estimates: dict[_Kind, RecallEstimate] = {}
        self._kinds: set[_Kind] = set()
        self._closed = False
        metrics.collections.add(collection)
        self.generation = 0
        """Grows when all is forgotten. Whoever brings a sample says which one its query was answered in."""

    def add(self, generation: int, modality: Modality, recipe: Recipe, recall: float) -> None:
        """Take in one query's recall; passed over when it was answered before all was forgotten."""
        with self._changing:
            if self._closed or generation != self.generation:
                return
            kind = modality, recipe
            self._kinds.add(kind)
            samples = self._samples.setdefault(kind, deque(maxlen=WINDOW_SAMPLES))
            samples.append((time.time_ns(), recall))
            mean = math.fsum(one for _, one in samples) / len(samples)
            lower, upper = wilson_interval(mean, len(samples))
            estimate = RecallEstimate(modality, recipe, mean, lower, upper, len(samples), samples[0][0])
            self._estimates = {**self._estimates, kind: estimate}
            self._metrics.observe_recall(self._collection, modality.value.lower(), recipe.value, recall)

    def forget(self) -> None:
        """Begin anew: answers are found in another way from now on."""
        with self._changing:
            self.generation += 1
            self._samples, self._estimates = {}, {}

    def close(self) -> None:
        """Forget all, for good, and let the metrics forget the collection."""
        self.forget()
        with self._changing:
            self._closed = True
            observed = [(modality.value.lower(), recipe.value) for modality, recipe in self._kinds]
            self._metrics.forget_collection(self._collection, observed)

    def all(self) -> list[RecallEstimate]:
        """What is known, by modality and recipe."""
        return sorted(self._estimates.values(), key=lambda one: (one.modality.value, one.recipe.value))

    def expected(self, modality: Modality, recipe: Recipe) -> float | None:
        """The recall to expect of an answer; None while too little is known."""
        estimate = self._estimates.get((modality, recipe))
        return None if estimate is None or estimate.sample_count < LEAST_SAMPLES else estimate.mean


def wilson_interval(mean: float, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a mean of ``count`` numbers between 0 and 1.

    Wilson's score interval (Probable inference, JASA 22, 1927) of a proportion, each query a single trial. It is
    conservative: no distribution on 0 to 1 with this mean varies more than that of a proportion, and the recall of a
    query with several hits varies less.
    """
    square = _QUANTILE**2 / count
    centre = (mean + square / 2) / (1 + square)
    reach = math.sqrt(square * mean * (1 - mean) + square**2 / 4) / (1 + square)
    return max(0.0, min(mean, centre - reach)), min(1.0, max(mean, centre + reach))
