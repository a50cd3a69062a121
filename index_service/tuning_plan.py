"""What a tuning tries, and how it chooses.

Owns the recipes and efforts that are measured, what a front is, and the rule of the choice. Measures nothing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from index_service.compaction import Policy
from index_service.index_config import Goal, Measured, Recall
from index_service.recall_estimates import wilson_interval
from index_service.recipes import CENTRED_RECIPES, EXACT, Build, Effort, Recipe
from index_service.vector_space import Metric

LEAST_QUERIES = 200
"""Queries of a modality from which it is measured: half of them choose, the others judge."""

MOST_QUERIES = 1_024
"""Queries of a modality that are measured with at most."""

GRAPH_ROWS = 100_000
"""Rows to measure on up to which a graph is tried unasked: one takes minutes for each million."""

_K_FACTORS = (10.0, 15.0, 20.0, 30.0, 50.0, 70.0, 100.0, 150.0, 200.0, 300.0, 400.0, 600.0, 800.0, 1_000.0)
_CELL_K_FACTORS = (20.0, 80.0, 300.0)
_PROBED_SHARES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
_EF_SEARCHES = (16, 32, 64, 128, 256, 512, 1_024, 2_048)
_ENOUGH_RECALL = 0.9998
_STANDSTILL = 0.0005
_STEPS_OF_STANDSTILL = 2
_ABOUT_AS_FAST = 1.1


@dataclass(frozen=True, slots=True)
class Tried:
    """A point as it did on the queries that choose, and on those that judge."""

    choosing: Measured
    judged: Measured

    def reaches(self, target: float) -> bool:
        """Whether it is sure enough to find that much; an exact search is."""
        if self.judged.build == EXACT:
            return True
        return target < 1.0 and self.choosing.reaches(target) and self.judged.reaches(target)


def builds_to_try(recipes: Sequence[Recipe], metric: Metric, rows: int) -> list[Build]:
    """Those of these recipes, or where none is named of those that are usual for so many rows to measure on; with and
    without centring where it applies.
    """
    usual = [Recipe.FASTSCAN, Recipe.IVF_FASTSCAN, *([Recipe.HNSW] if rows <= GRAPH_ROWS else [])]
    return [
        Build(recipe, centred)
        for recipe in recipes or usual
        if recipe is not Recipe.EXACT
        for centred in (False, True)
        if not centred or (recipe in CENTRED_RECIPES and metric is not Metric.L2)
    ]


def that_differ(builds: Sequence[Build], policy: Policy, segment_rows: Sequence[int]) -> list[Build]:
    """Those builds that make some segment of so many rows other than exact, and others than a build before does."""
    kept: dict[tuple[Build, ...], Build] = {}
    for build in builds:
        built = tuple(replace(policy, build=build).for_rows(rows) for rows in segment_rows)
        if any(own != EXACT for own in built):
            kept.setdefault(built, build)
    return list(kept.values())


def ladders(recipe: Recipe, k: int) -> list[list[Effort]]:
    """Efforts to try for ``k`` hits, in lines along which each step finds more and takes longer."""
    match recipe:
        case Recipe.FASTSCAN | Recipe.LSH:
            return [[Effort(k_factor=factor) for factor in _K_FACTORS]]
        case Recipe.IVF_FASTSCAN:
            return [[Effort(factor, share) for share in _PROBED_SHARES] for factor in _CELL_K_FACTORS]
        case Recipe.IVF_FLAT:
            return [[Effort(1.0, share) for share in _PROBED_SHARES]]
        case Recipe.HNSW:
            # Small segments beside a graph are searched by codes, which need candidates too.
            return [[Effort(max(1.0, count / k), ef_search=count) for count in _EF_SEARCHES]]
        case Recipe.EXACT:
            return []


def goes_on(line: Sequence[Measured], most_seconds: float) -> bool:
    """Whether a further step along a line of efforts can be worth its time, which is less than ``most_seconds``."""
    last = line[-1]
    if last.least_recall >= _ENOUGH_RECALL or _seconds(last) >= most_seconds:
        return False
    if len(line) <= _STEPS_OF_STANDSTILL:
        return True
    return last.least_recall - line[-1 - _STEPS_OF_STANDSTILL].least_recall >= _STANDSTILL


def front_of(points: Sequence[Measured]) -> list[Measured]:
    """Those that no other beats in both recall and latency, fastest first."""
    front: list[Measured] = []
    for point in sorted(points, key=lambda point: (_seconds(point), -point.least_recall)):
        if not front or point.least_recall > front[-1].least_recall:
            front.append(point)
    return front


def choose(tried: Sequence[Tried], goal: Goal, in_force: Build) -> tuple[Measured, bool] | None:
    """The fastest that reaches the target within the memory limit, and True; where none does, the one that finds most,
    and False; None when none is within the limit.

    Of those about as fast, one that needs nothing built anew is taken, else the one with the smallest index.
    """
    limit = math.inf if goal.memory_limit_bytes is None else goal.memory_limit_bytes
    allowed = [one for one in tried if (one.judged.index_bytes or 0) <= limit]
    reaching = [one.judged for one in allowed if one.reaches(goal.target_recall)]
    if reaching:
        about = _ABOUT_AS_FAST * min(map(_seconds, reaching))
        near = [point for point in reaching if _seconds(point) <= about]
        return min(near, key=lambda point: _worth(point, in_force)), True
    most = max((one.judged for one in allowed), key=lambda point: point.least_recall, default=None)
    return None if most is None else (most, False)


def _worth(point: Measured, in_force: Build) -> tuple[bool, int, float]:
    return point.build != in_force, point.index_bytes or 0, _seconds(point)


def _seconds(point: Measured) -> float:
    return point.latency_seconds or 0.0


def recall_of(found: np.ndarray, expected: np.ndarray) -> Recall:
    """The recall of queries of which ``found`` (n,) hits were found where ``expected`` (n,) should have been.

    Its interval is Wilson's, each hit one trial; where the hits of one query are missed together, as many fewer as the
    variance between queries says (the design effect of Kish, Survey Sampling, 1965).
    """
    hits = int(expected.sum())
    if not hits:
        return Recall(0.0, 0.0, 1.0, 0)
    mean = float(found.sum() / hits)
    count = len(expected)
    residuals = found - mean * expected
    variance = float(residuals @ residuals) / hits**2 * count / max(count - 1, 1)
    alone = mean * (1.0 - mean) / hits
    effect = max(1.0, variance / alone) if alone else 1.0
    lower, upper = wilson_interval(mean, max(1, int(hits / effect)))
    return Recall(mean, lower, upper, count)


def halves(count: int) -> Iterator[np.ndarray]:
    """The places of the queries that choose, and of those that judge: every other one."""
    yield np.arange(0, count, 2)
    yield np.arange(1, count, 2)
