"""Metrics against cases counted by hand, and against pytrec_eval (NIST's trec_eval), which counts for itself."""

import math

import numpy as np
import pytest
import pytrec_eval
from eyebright_cli.evaluate.metrics import (
    NOT_FOUND,
    ann_recalls,
    bootstrap,
    first_ranks,
    found_within,
    mean,
    median,
    ranks_by_score,
    reciprocal,
)

QUERIES, HITS = 60, 40


@pytest.fixture
def answers() -> tuple[list[list[str]], list[list[str]]]:
    """Hits of queries, best first, and what is right: one to five of all, some never found."""
    draw = np.random.default_rng(3)
    names = np.array([f"picture-{number}" for number in range(2 * HITS)])
    found = [draw.permutation(names)[:HITS].tolist() for _ in range(QUERIES)]
    right = [draw.permutation(names)[: draw.integers(1, 6)].tolist() for _ in range(QUERIES)]
    return found, right


def by_trec(found: list[list[str]], right: list[list[str]], measures: set[str]) -> list[dict[str, float]]:
    wanted = {str(query): dict.fromkeys(own, 1) for query, own in enumerate(right)}
    run = {str(query): {hit: -float(rank) for rank, hit in enumerate(hits)} for query, hits in enumerate(found)}
    results = pytrec_eval.RelevanceEvaluator(wanted, measures).evaluate(run)
    return [results[str(query)] for query in range(len(found))]


def test_ranks_by_hand() -> None:
    found = [["a", "b", "c"], ["b", "a", "c"], ["c", "b", "a"], ["x", "y"], []]
    ranks = first_ranks(found, [{"a"}, {"a"}, {"a", "b"}, {"a"}, {"a"}])
    assert ranks.tolist() == [1, 2, 2, NOT_FOUND, NOT_FOUND]
    assert found_within(ranks, 1).mean() == pytest.approx(1 / 5)
    assert found_within(ranks, 2).mean() == pytest.approx(3 / 5)
    assert found_within(ranks, 100).mean() == pytest.approx(3 / 5)
    assert mean(reciprocal(ranks)).value == pytest.approx((1 + 1 / 2 + 1 / 2) / 5)
    assert median(ranks).value == 2


def test_the_median_of_an_even_number_is_a_rank_that_somebody_has() -> None:
    assert median(np.array([3.0, NOT_FOUND])).value == 3
    assert median(np.array([3.0, NOT_FOUND, NOT_FOUND, NOT_FOUND])).value == NOT_FOUND


def test_ranks_by_score_are_those_of_a_sort_and_a_tie_is_no_success() -> None:
    draw = np.random.default_rng(4)
    scores = draw.standard_normal((QUERIES, HITS))
    right = draw.random((QUERIES, HITS)) < 0.1
    right[0] = False
    sorted_hits = np.argsort(-scores, axis=1).tolist()
    expected = first_ranks(sorted_hits, [set(np.flatnonzero(own).tolist()) for own in right])
    assert ranks_by_score(scores, right).tolist() == expected.tolist()
    assert expected[0] == NOT_FOUND
    same = np.ones((1, 5))
    assert ranks_by_score(same, np.arange(5)[None] == 2).tolist() == [5]


def test_ann_recall_by_hand() -> None:
    exact = [["a", "b", "c", "d"], ["a", "b"], []]
    found = [["a", "c", "x", "b"], ["y", "z"], []]
    assert ann_recalls(found, exact, 2).tolist() == [0.5, 0, 1]
    assert ann_recalls(found, exact, 4).tolist() == [0.75, 0, 1]
    # Only the top k of the answer count, in whatever order.
    assert ann_recalls([["x", "b", "a"]], [["a", "b", "c"]], 2).tolist() == [0.5]


def test_as_trec_eval_counts(answers: tuple[list[list[str]], list[list[str]]]) -> None:
    found, right = answers
    ranks = first_ranks(found, [set(own) for own in right])
    theirs = by_trec(found, right, {"success.1,5,10,30", "recip_rank"})
    for k in (1, 5, 10, 30):
        assert found_within(ranks, k).tolist() == [own[f"success_{k}"] for own in theirs]
    assert reciprocal(ranks) == pytest.approx([own["recip_rank"] for own in theirs])
    assert 0 < found_within(ranks, 5).mean() < found_within(ranks, 30).mean() < 1


def test_ann_recall_as_trec_eval_counts(answers: tuple[list[list[str]], list[list[str]]]) -> None:
    """Recall@k with the exact top k as what is relevant."""
    found, _ = answers
    draw = np.random.default_rng(5)
    exact = [draw.permutation(hits + [f"other-{number}" for number in range(HITS)]).tolist() for hits in found]
    for k in (1, 10, 25):
        theirs = by_trec(found, [hits[:k] for hits in exact], {f"recall.{k}"})
        assert ann_recalls(found, exact, k) == pytest.approx([own[f"recall_{k}"] for own in theirs])


def test_answers_and_queries_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2, not 1"):
        first_ranks([["a"]], [{"a"}, {"b"}])
    with pytest.raises(ValueError, match="2, not 1"):
        ann_recalls([["a"]], [["a"], ["b"]], 1)
    with pytest.raises(ValueError, match="at least one query"):
        mean(np.array([]))


def test_the_interval_is_that_of_the_normal_law_for_many_queries() -> None:
    hits = (np.arange(1_000) < 353).astype(float)
    estimate = mean(hits)
    half = 1.96 * math.sqrt(0.353 * 0.647 / 1_000)
    assert estimate.value == pytest.approx(0.353)
    assert estimate.lower == pytest.approx(0.353 - half, abs=0.004)
    assert estimate.upper == pytest.approx(0.353 + half, abs=0.004)
    assert mean(hits) == estimate


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(6)
    inside = 0
    for _ in range(200):
        estimate = mean((draw.random(200) < 0.3).astype(float))
        inside += estimate.lower <= 0.3 <= estimate.upper
    assert 180 <= inside <= 199


def test_an_interval_of_ranks_may_reach_past_what_was_found() -> None:
    ranks = np.array([5.0] * 51 + [NOT_FOUND] * 49)
    estimate = median(ranks)
    assert (estimate.value, estimate.lower, estimate.upper) == (5, 5, NOT_FOUND)


def test_a_figure_that_is_the_same_for_all_has_no_width() -> None:
    assert bootstrap(np.ones(7), lambda samples: samples.mean(axis=1)).lower == 1.0
