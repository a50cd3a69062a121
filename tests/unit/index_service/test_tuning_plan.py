"""What is tried, when a line of efforts ends, what a front is, and what is chosen from it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from index_service.compaction import Policy
from index_service.index_config import Goal, Measured, Recall
from index_service.recipes import EXACT, FASTSCAN, Build, Effort, Recipe
from index_service.tuning_plan import (
    Tried,
    builds_to_try,
    choose,
    front_of,
    goes_on,
    halves,
    ladders,
    recall_of,
    that_differ,
)
from index_service.vector_space import Metric

CENTRED = Build(Recipe.FASTSCAN, centred=True)
HNSW = Build(Recipe.HNSW)


def point(seconds: float, mean: float, build: Build = FASTSCAN, index_bytes: int = 100) -> Measured:
    return Measured(build, Effort(seconds), {"TEXT": Recall(mean, mean - 0.00196, 1.0, 256)}, seconds, index_bytes)


def tried(seconds: float, mean: float, judged: float | None = None, build: Build = FASTSCAN, size: int = 100) -> Tried:
    return Tried(point(seconds, mean, build, size), point(seconds, mean if judged is None else judged, build, size))


SURE = Tried(point(60, 1.0, EXACT, 0), point(60, 1.0, EXACT, 0))


def chosen(points: list[Tried], target: float, limit: int | None = None, in_force: Build = EXACT) -> tuple[float, bool]:
    found = choose(points, Goal(target, 10, limit), in_force)
    assert found is not None
    assert found[0].latency_seconds is not None
    return found[0].latency_seconds, found[1]


@pytest.mark.parametrize(
    ("target", "seconds"),
    [
        (0.90, 1),
        (0.95, 2),  # reached, but not by a standard error more
        (0.96, 2),
        (0.97, 7),  # the judges say less than those who chose
        (0.99, 7),
        (0.9985, 60),
        (1.0, 60),
    ],
)
def test_the_fastest_that_both_halves_promise_is_chosen(target: float, seconds: float) -> None:
    points = [tried(7, 0.995), tried(4, 0.98, judged=0.97), tried(2, 0.965), tried(1, 0.9505), SURE]
    assert chosen(points, target) == (seconds, True)


def test_where_nothing_reaches_the_target_the_one_that_finds_most_is_taken() -> None:
    points = [tried(1, 0.7), tried(3, 0.9, judged=0.8), tried(2, 0.75, judged=0.85)]
    assert chosen(points, 0.95) == (2, False)
    assert choose([], Goal(), EXACT) is None


def test_every_modality_is_to_reach_the_target() -> None:
    one = tried(1, 0.97)
    low = {"TEXT": Recall(0.97, 0.969, 0.98, 256), "IMAGE": Recall(0.9, 0.89, 0.91, 256)}
    both = Tried(one.choosing, replace(one.judged, recall=low))
    assert chosen([both, SURE], 0.95) == (60, True)
    assert chosen([one, SURE], 0.95) == (1, True)


def test_the_memory_limit_counts_for_indexes() -> None:
    points = [tried(1, 0.99, build=HNSW, size=5_000), tried(2, 0.99, size=1_000), SURE]
    assert chosen(points, 0.9) == (1, True)
    assert chosen(points, 0.9, limit=4_999) == (2, True)
    assert chosen(points, 0.9, limit=1_000) == (2, True)
    assert chosen(points, 0.9, limit=999) == (60, True)
    assert choose(points[:2], Goal(0.9, 10, 999), EXACT) is None


def test_nothing_is_built_anew_for_next_to_nothing() -> None:
    points = [tried(10, 0.99, build=HNSW, size=5_000), tried(10.5, 0.99, build=CENTRED), tried(10.9, 0.99, size=90)]
    assert chosen(points, 0.9, in_force=CENTRED) == (10.5, True)
    assert chosen(points, 0.9) == (10.9, True), "the smallest index"
    assert chosen([points[0], tried(12, 0.99)], 0.9, in_force=FASTSCAN) == (10, True)


def test_a_front_holds_what_no_other_beats() -> None:
    points = [point(3, 0.9), point(1, 0.5), point(2, 0.6), point(2.5, 0.55), point(2, 0.61), point(4, 0.9)]
    assert [(one.latency_seconds, one.least_recall) for one in front_of(points)] == [(1, 0.5), (2, 0.61), (3, 0.9)]


@pytest.mark.parametrize(
    ("recalls", "seconds", "expected"),
    [
        ([0.5], 1, True),
        ([0.9999], 1, False),
        ([0.5], 5, False),
        ([0.9, 0.9], 1, True),
        ([0.9, 0.9, 0.9004], 1, False),
        ([0.9, 0.9, 0.9006], 1, True),
    ],
)
def test_a_line_ends_where_more_effort_finds_no_more(recalls: list[float], seconds: float, expected: bool) -> None:
    assert goes_on([point(seconds, recall) for recall in recalls], most_seconds=5) is expected


def test_each_step_of_a_ladder_tries_harder() -> None:
    for recipe in Recipe:
        for ladder in ladders(recipe, 10):
            steps = [(effort.k_factor, effort.probed_share, effort.ef_search) for effort in ladder]
            assert len(steps) > 5
            for low, high in itertools.pairwise(steps):
                assert low != high
                assert all(one <= other for one, other in zip(low, high, strict=True))


def test_what_is_tried_unasked_is_cheap_to_build() -> None:
    ivf = Recipe.IVF_FASTSCAN
    both = [FASTSCAN, CENTRED, Build(ivf), Build(ivf, centred=True)]
    assert builds_to_try((), Metric.COSINE, 1_000_000) == both
    assert builds_to_try((), Metric.COSINE, 90_000) == [*both, HNSW]
    assert builds_to_try((), Metric.L2, 1_000_000) == [FASTSCAN, Build(ivf)]
    assert builds_to_try((Recipe.EXACT, Recipe.LSH, Recipe.HNSW), Metric.COSINE, 10**6) == [Build(Recipe.LSH), HNSW]
    assert builds_to_try((Recipe.EXACT,), Metric.COSINE, 90_000) == []


def test_builds_that_make_the_same_segments_are_tried_once() -> None:
    policy = Policy(index_from_rows=50_000, codes_from_rows=4_096)
    builds = [FASTSCAN, CENTRED, Build(Recipe.IVF_FASTSCAN), HNSW, Build(Recipe.LSH)]
    assert that_differ(builds, policy, [60_000, 10_000]) == builds
    assert that_differ(builds, policy, [49_999, 10_000]) == [FASTSCAN], "all get codes without cells"
    assert that_differ(builds[3:], policy, [49_999]) == [HNSW]
    assert that_differ(builds, policy, [4_095]) == []
    assert that_differ([EXACT, Build(Recipe.LSH)], policy, [49_999]) == []


def test_halves_share_no_query() -> None:
    choosing, judging = halves(201)
    assert sorted([*choosing, *judging]) == list(range(201))
    assert (len(choosing), len(judging)) == (101, 100)


def test_the_interval_of_a_recall_holds_the_truth_as_often_as_it_says() -> None:
    """Queries of which each has a recall of its own: their hits are missed together."""
    random = np.random.default_rng(5)
    expected = np.full(256, 5)
    held = narrow = 0
    for _ in range(500):
        own = random.beta(19.0, 1.0, 256)  # its mean is 0.95
        recall = recall_of(random.binomial(expected, own), expected)
        assert recall.lower <= recall.mean <= recall.upper
        held += recall.lower <= 0.95 <= recall.upper
        narrow += recall.upper - recall.lower < 0.04
    assert held >= 0.92 * 500
    assert narrow >= 0.9 * 500


def test_without_any_hit_nothing_is_promised() -> None:
    nothing = recall_of(np.zeros(10, dtype=np.int64), np.zeros(10, dtype=np.int64))
    assert (nothing.mean, nothing.lower, nothing.upper, nothing.query_count) == (0.0, 0.0, 1.0, 0)
    assert recall_of(np.full(100, 10), np.full(100, 10)).mean == 1.0
