"""The recall of live answers, measured: a sampled share of queries is answered again exactly, off the hot path.

Owns which queries are checked, when, and at what expense. Truth and answer speak of the same state: what a search went
through is immutable, and a probe holds on to it. So few may wait, none for long; and the thread that answers them comes
after all others and spends no more than its share of a core.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from index_service.index_config import Modality
from index_service.metrics import DropReason, IndexMetrics
from index_service.parts import ShardView
from index_service.ranking import best_first
from index_service.recall_estimates import RecallEstimates
from index_service.recipes import Recipe
from index_service.search import Queries, QueryAnswer, SearchAnswer, SearchOptions
from index_service.shard_search import Wanted, search
from index_service.vector_space import VectorSpace
from index_service.workers import step_behind

MOST_HITS = 100
"""Hits of a query that are checked at most: the best."""

MOST_WAITING = 4
"""Probes that wait at most; more are dropped."""

LONGEST_HELD_SECONDS = 60.0
"""A probe that is not done by then is given up, so that segments which were replaced are let go."""

_logger = logging.getLogger("eyebright.recall_probe")


class CpuBudget:
    """A share of one core, kept by a thread that works in pieces and pauses before the next."""

    def __init__(
        self,
        share: float,
        cpu_seconds: Callable[[], float] = time.thread_time,
        wall_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """``share`` above 0 to 1; ``cpu_seconds`` counts those of the calling thread alone."""
        self._share = share
        self._cpu_seconds = cpu_seconds
        self._wall_seconds = wall_seconds
        self._next_at = wall_seconds()

    @contextmanager
    def piece(self) -> Iterator[None]:
        """Count a block as one piece of work."""
        cpu, wall = self._cpu_seconds(), self._wall_seconds()
        try:
            yield
        finally:
            self._next_at = wall + (self._cpu_seconds() - cpu) / self._share

    def pause_seconds(self) -> float:
        """How long to do nothing before the next piece. Time that goes by without work is not saved up."""
        return max(0.0, self._next_at - self._wall_seconds())


@dataclass(frozen=True, slots=True)
class _Probe:
    """A query that was answered, and what was searched for it."""

    estimates: RecallEstimates
    generation: int
    space: VectorSpace
    views: Sequence[ShardView]
    masks: Sequence[Sequence[np.ndarray | None] | None]
    vector: np.ndarray
    """(dimension,) float32."""
    own: str | None
    limit: int
    min_score: float | None
    modality: Modality
    recipe: Recipe
    ids: list[str]
    """Of the hits, ``limit`` at most."""
    scores: np.ndarray
    offered: float

    @property
    def outdated(self) -> bool:
        """Whether nobody wants to know any more."""
        return self.generation != self.estimates.generation


class RecallProbe:
    """One thread that answers sampled queries of all collections again. Any thread may offer it some."""

    def __init__(self, share: float, budget: CpuBudget, metrics: IndexMetrics, seed: int | None = None) -> None:
        """``share`` of queries is drawn, 0 to 1; 0 does nothing at all."""
        self._share = share
        self._budget = budget
        self._metrics = metrics
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._waiting: deque[_Probe] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._under_way_since: float | None = None
        metrics.watch_probes(self._waiting_count, self._lag_seconds)
        self._thread = threading.Thread(target=self._run, name="recall-probe", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the piece of work under way, and let go of what waits."""
        self._stopping.set()
        with self._changed:
            self._waiting.clear()
            self._changed.notify()
        self._thread.join()

    def offer(
        self,
        estimates: RecallEstimates,
        generation: int,
        space: VectorSpace,
        queries: Queries,
        options: SearchOptions,
        answer: SearchAnswer,
    ) -> None:
        """Draw some of the queries that were just answered, ``offset`` 0, in a generation of these estimates.

        Exact answers hold all there is, and are not counted; nor are those that aimed at a recall of their own, for
        they were found by another effort.
        """
        recipe = answer.evidence.recipe
        if recipe is Recipe.EXACT or options.target_recall is not None:
            return
        drawn = [row for row in range(len(queries.vectors)) if self._random.random() < self._share]
        if not drawn:
            return
        answered = [result for result in answer.results if isinstance(result, QueryAnswer)]
        limit = min(options.k, MOST_HITS)
        now = time.monotonic()
        for row in drawn:
            self._put(
                _Probe(
                    estimates,
                    generation,
                    space,
                    answer.views,
                    answer.masks,
                    queries.vectors[row].copy(),
                    queries.record_ids[row],
                    limit,
                    options.min_score,
                    options.modality,
                    recipe,
                    answered[row].ids[:limit],
                    answered[row].scores[:limit].copy(),
                    now,
                )
            )

    def _put(self, probe: _Probe) -> None:
        with self._changed:
            if len(self._waiting) < MOST_WAITING and not self._stopping.is_set():
                self._waiting.append(probe)
                self._changed.notify()
                return
        self._metrics.drop_probe("queue_full")

    def _run(self) -> None:
        step_behind()
        while self._work():
            pass

    def _work(self) -> bool:
        """Wait for a probe and carry it out; False once stopped. Nothing of it is held after that."""
        self._stopping.wait(self._budget.pause_seconds())
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping.is_set())
            if self._stopping.is_set():
                return False
            probe = self._waiting.popleft()
            self._under_way_since = probe.offered
        try:
            self._carry_out(probe)
        except Exception:
            _logger.exception("probe failed")
            self._metrics.drop_probe("failed")
        finally:
            self._under_way_since = None
        return True

    def _carry_out(self, probe: _Probe) -> None:
        wanted = Wanted(probe.limit + (probe.own is not None), probe.min_score)
        scores, ids = [], []
        for view, masks in zip(probe.views, probe.masks, strict=True):
            self._stopping.wait(self._budget.pause_seconds())
            if reason := self._reason_to_drop(probe):
                self._metrics.drop_probe(reason)
                return
            with self._budget.piece():
                [hits] = search(view, probe.space, probe.vector[None, :], wanted, masks).hits
                scores.append(hits.scores)
                ids.append(view.ids_at(hits.addresses))
        recall = _recall(probe, np.concatenate(scores), np.concatenate(ids))
        if recall is not None:
            probe.estimates.add(probe.generation, probe.modality, probe.recipe, recall)

    def _reason_to_drop(self, probe: _Probe) -> DropReason | None:
        if probe.outdated or self._stopping.is_set():
            return "outdated"
        return "too_old" if time.monotonic() - probe.offered > LONGEST_HELD_SECONDS else None

    def _waiting_count(self) -> float:
        return len(self._waiting) + (self._under_way_since is not None)

    def _lag_seconds(self) -> float:
        with self._changed:
            since = [self._under_way_since, *(probe.offered for probe in self._waiting)]
        oldest = min((one for one in since if one is not None), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest


def _recall(probe: _Probe, scores: np.ndarray, ids: np.ndarray) -> float | None:
    """The share of the exact best, of the hits (n,) of all shards, that the live answer held; None when there are none.

    A hit that scores as well as the last of them is as good: of equals, which stand in the answer is decided by ids.
    """
    order = best_first(scores, ids.__getitem__, probe.limit + (probe.own is not None))
    order = order[[own != probe.own for own in ids[order].tolist()]][: probe.limit]
    if not order.size:
        return None
    best, least = set(ids[order].tolist()), scores[order[-1]]
    held = sum(own in best or bool(score >= least) for own, score in zip(probe.ids, probe.scores, strict=True))
    return held / len(order)
