"""The tuner: builds candidate indexes on a part of a collection, and measures what they find and how long they take.

Owns the measuring. What is measured are real queries, through the very search that answers callers; the truth is what
a comparison with every live vector finds. Records are spread over shards by a hash of their ids, so that one shard, or
the few that hold enough rows, are a fair sample: of the exact best of the whole collection, those that lie in it are
looked for in it.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np

from index_service.compaction import Policy
from index_service.index_config import Measured, Modality, Recall
from index_service.parts import Parts, ShardView, address
from index_service.recipes import CELL_RECIPES, EXACT, Build, Effort, Recipe
from index_service.segment import Segment, SegmentView, nearest
from index_service.shard_search import LARGEST_PROPOSED_SHARE, Proposals, Wanted, search
from index_service.tuning_plan import Tried, front_of, goes_on, halves, ladders, recall_of
from index_service.vector_space import VectorSpace
from index_service.workers import step_behind
from service_runtime.cores import usable_cores

SAMPLE_ROWS = 250_000
"""Rows that are measured on at the least, if there are so many: shards are added until they hold them."""

_PIECE_ROWS = 16_384
_PIECE_QUERIES = 64
_TRUTH_QUERIES = 256
_MARGIN_ROWS = 16
_LARGEST_SHARE_OF_CELLS = 0.5
_TIMED_QUERIES = 100
_LEAST_TIMED_QUERIES = 7
_TIMED_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _Queries:
    """Queries of all modalities, end to end, with their truth."""

    vectors: np.ndarray
    """(n, dimension) float32."""
    places: Mapping[Modality, np.ndarray]
    """Where those of each modality stand."""
    least: np.ndarray
    """(n,) float32, the score of the last of the exact k best of the whole collection."""
    expected: np.ndarray
    """(n,) int64, how many of them lie in the sampled shards."""

    def half(self, number: int) -> dict[Modality, np.ndarray]:
        """Where the queries stand that choose (0), or that judge (1)."""
        return {modality: own[list(halves(len(own)))[number]] for modality, own in self.places.items()}


class Tuner:
    """Measures builds of one collection as it stood when this was made. Used by one thread."""

    def __init__(
        self,
        views: Sequence[ShardView],
        space: VectorSpace,
        policy: Policy,
        search_threads: int,
        folder: Path,
        stop: Callable[[], bool],
        check: Callable[[], None],
    ) -> None:
        """``policy`` says what segments get which index, and ``folder`` is for those while they are measured. ``stop``
        says that the work is to end, and ``check`` then raises why.
        """
        self._views = views
        self._space = space
        self._policy = policy
        self._rows = sum(view.rows for view in views)
        self._rounds = math.ceil(len(views) / search_threads)
        self._folder = folder
        self._stop = stop
        self._check = check
        self._sample = _sampled(views)
        self._small: dict[tuple[str, Build], tuple[Segment, int]] = {}
        self._k = 0
        self._queries: _Queries

    @property
    def sample_rows(self) -> int:
        """Rows that are measured on."""
        return sum(view.rows for view in self._sample)

    def answer(self, queries: Mapping[Modality, np.ndarray], k: int) -> Iterator[tuple[int, int]]:
        """Answer queries (n, dimension) float32 exactly, to measure with; yields steps done and steps in all."""
        self._k = min(k, sum(view.live_count for view in self._views))
        vectors = np.concatenate(list(queries.values()))
        ends = np.cumsum([len(own) for own in queries.values()]).tolist()
        places = {
            modality: np.arange(end - len(own), end) for (modality, own), end in zip(queries.items(), ends, strict=True)
        }
        pieces = range(0, len(vectors), _TRUTH_QUERIES)
        sampled = {id(view) for view in self._sample}
        of_all = np.full((len(vectors), self._k), -np.inf, dtype=np.float32)
        of_sample = of_all.copy()

        def best_of(asked: tuple[ShardView, int]) -> tuple[int, ShardView, np.ndarray]:
            view, begin = asked
            return begin, view, self._best_scores(view, vectors[begin : begin + _TRUTH_QUERIES])

        work = [(view, begin) for view in self._views for begin in pieces]
        yield 0, len(work)
        with _threads() as threads:
            for done, (begin, view, scores) in enumerate(threads.map(best_of, work), 1):
                own = slice(begin, begin + _TRUTH_QUERIES)
                of_all[own] = self._merged(of_all[own], scores)
                if id(view) in sampled:
                    of_sample[own] = self._merged(of_sample[own], scores)
                yield done, len(work)
        least = of_all[:, -1]
        expected = np.count_nonzero(of_sample >= least[:, None], axis=1)
        self._queries = _Queries(vectors, places, least, expected)

    def exact(self) -> Tried:
        """The point of an exact search."""
        recall = {modality.value: Recall(1.0, 1.0, 1.0, 0) for modality in self._queries.places}
        seconds = self._seconds(_together(self._sample), None)
        point = Measured(EXACT, Effort(), recall, seconds, 0)
        return Tried(point, point)

    def measure(self, build: Build, most_seconds: float) -> list[Tried]:
        """The front of one build, fastest first, judged; nothing slower than ``most_seconds`` is looked for.

        Raises OSError or RuntimeError, or what ``check`` does.
        """
        parts, index_bytes = self._built(build)
        choosing, judging = self._queries.half(0), self._queries.half(1)
        points: list[Measured] = []
        for ladder in ladders(build.recipe, self._k):
            line: list[Measured] = []
            for effort in ladder:
                if self._is_scan(build, effort):
                    continue
                recall, recipe = self._recall(parts, effort, choosing)
                if recipe is Recipe.EXACT:
                    continue  # the index returned short, and all vectors were compared instead
                seconds = self._seconds(parts, effort)
                line.append(Measured(build, effort, recall, seconds, index_bytes))
                if not goes_on(line, most_seconds):
                    break
            points += line
        return [
            Tried(point, replace(point, recall=self._recall(parts, point.effort, judging)[0]))
            for point in front_of(points)
        ]

    def _is_scan(self, build: Build, effort: Effort) -> bool:
        """Whether so many candidates are asked for that all vectors would be compared, or that cells return short."""
        share = self._k * effort.k_factor / self._rows
        in_cells = effort.probed_share if build.recipe in CELL_RECIPES else 1.0
        return share > LARGEST_PROPOSED_SHARE or share > _LARGEST_SHARE_OF_CELLS * in_cells

    def _built(self, build: Build) -> tuple[Parts, int]:
        """The sampled shards as they would be built, and the bytes of the index for the whole collection."""
        policy = replace(self._policy, build=build)
        index_bytes = 0
        views: list[ShardView] = []
        for view in self._sample:
            segments: list[SegmentView] = []
            for one in view.segments:
                segment, size = self._indexed(one.segment, policy.for_rows(one.rows))
                segments.append(replace(one, segment=segment))
                index_bytes += size
            views.append(ShardView(view.memtable, tuple(segments)))
        return _together(views), round(index_bytes * self._rows / self.sample_rows)

    def _indexed(self, segment: Segment, build: Build) -> tuple[Segment, int]:
        """The segment with such an index, and the bytes of that. Small ones are built alike beside several recipes, and
        kept.
        """
        known = self._small.get((segment.name, build))
        if known is not None:
            return known
        path = self._folder / "codes.faiss"
        with _all_cores():
            indexed = segment.indexed(build, path, self._stop)
        size = 0
        if build != EXACT:
            size = path.stat().st_size
            path.unlink()  # it stays mapped
        if segment.rows < self._policy.index_from_rows:
            self._small[segment.name, build] = indexed, size
        return indexed, size

    def _wanted(self, effort: Effort | None) -> Wanted:
        return Wanted(self._k, None, None if effort is None else Proposals.of(effort, self._k, self._rows))

    def _recall(
        self, parts: Parts, effort: Effort, places: Mapping[Modality, np.ndarray]
    ) -> tuple[dict[str, Recall], Recipe]:
        """The recall of some of the queries, by name of the modality, and the recipe that answered; EXACT where any was
        answered so.
        """
        wanted, queries = self._wanted(effort), self._queries
        every = np.concatenate(list(places.values()))
        found = np.zeros(len(queries.vectors), dtype=np.int64)
        recipes: set[Recipe] = set()

        def look(piece: np.ndarray) -> tuple[np.ndarray, list[int], Recipe]:
            self._check()
            answer = search(parts, self._space, queries.vectors[piece], wanted)
            least = queries.least[piece].tolist()
            counts = [int(np.count_nonzero(hits.scores >= own)) for hits, own in zip(answer.hits, least, strict=True)]
            return piece, counts, answer.recipe

        pieces = [every[begin : begin + _PIECE_QUERIES] for begin in range(0, len(every), _PIECE_QUERIES)]
        with _threads() as threads:
            for piece, counts, recipe in threads.map(look, pieces):
                found[piece] = counts
                recipes.add(recipe)
        np.minimum(found, queries.expected, out=found)  # of equals at the border any will do
        recall = {name.value: recall_of(found[own], queries.expected[own]) for name, own in places.items()}
        return recall, Recipe.EXACT if Recipe.EXACT in recipes else recipes.pop()

    def _seconds(self, parts: Parts, effort: Effort | None) -> float:
        """Seconds of one query over all shards. Those of the processor, which don't grow when others need it too."""
        wanted, places = self._wanted(effort), self._queries.places
        asked = np.concatenate([own[: _TIMED_QUERIES // len(places)] for own in places.values()])
        taken: list[float] = []
        for query in self._queries.vectors[np.random.default_rng(0).permutation(asked)]:
            self._check()
            began = time.thread_time()
            search(parts, self._space, query[None, :], wanted)
            taken.append(time.thread_time() - began)
            if len(taken) >= _LEAST_TIMED_QUERIES and sum(taken) > _TIMED_SECONDS:
                break
        return statistics.median(taken) / len(self._sample) * self._rounds

    def _best_scores(self, view: ShardView, queries: np.ndarray) -> np.ndarray:
        """The scores (queries, k) float32 of the best live rows of a shard, by comparing all, in no order."""
        kept = self._k + self._k // 64 + _MARGIN_ROWS
        scores = np.empty((len(queries), 0), dtype=np.float32)
        addresses = np.empty((len(queries), 0), dtype=np.int64)
        for part_addresses, vectors in _live_pieces(view):
            self._check()
            near, rows = nearest(vectors, self._space, queries, min(kept, len(vectors)))
            scores = np.concatenate([scores, near], axis=1)
            addresses = np.concatenate([addresses, part_addresses[rows]], axis=1)
            if scores.shape[1] > kept:
                best = np.argpartition(-scores, kept, axis=1)[:, :kept]
                scores = np.take_along_axis(scores, best, axis=1)
                addresses = np.take_along_axis(addresses, best, axis=1)
        final = np.full((len(queries), self._k), -np.inf, dtype=np.float32)
        for number, own in enumerate(addresses if scores.size else ()):
            exact = np.sort(self._space.scores(queries[number][None, :], view.vectors_at(own)))[::-1][: self._k]
            final[number, : len(exact)] = exact
        return final

    def _merged(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The k best of both, best first."""
        merged: np.ndarray = -np.sort(-np.concatenate([one, other], axis=1), axis=1)[:, : self._k]
        return merged


def _sampled(views: Sequence[ShardView]) -> list[ShardView]:
    """The largest shards, until they hold enough."""
    sample: list[ShardView] = []
    for view in sorted(views, key=lambda view: view.rows, reverse=True):
        if sum(own.rows for own in sample) < SAMPLE_ROWS:
            sample.append(view)
    return sample


def _together(views: Sequence[ShardView]) -> Parts:
    """All parts of the shards, as a search goes through them."""
    return Parts([part for view in views for part in view.parts])


def _live_pieces(view: ShardView) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The live rows of all parts, some at a time: their addresses (n,) and their vectors (n, dimension) float16."""
    for number, part in enumerate(view.parts):
        vectors = part.segment.vectors if isinstance(part, SegmentView) else part.vectors
        for begin in range(0, part.rows, _PIECE_ROWS):
            rows = np.arange(begin, min(begin + _PIECE_ROWS, part.rows))
            if part.dead is not None:
                rows = rows[~part.dead[rows]]
            if rows.size:
                yield address(number, rows), vectors[rows]


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """One for each core, behind all others in priority."""
    with ThreadPoolExecutor(usable_cores(), "tuning", initializer=step_behind) as threads:
        yield threads


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let FAISS take every core for what this thread builds; threads that it starts have this one's priority."""
    faiss.omp_set_num_threads(usable_cores())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(1)
