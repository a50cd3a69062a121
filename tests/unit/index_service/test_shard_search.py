"""Exact search against plain numpy, with ties, tombstones and widening."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from index_service.memtable import Memtable
from index_service.parts import ShardView
from index_service.recipes import Recipe
from index_service.segment import _BLAS_FROM_NUMBERS, prepare_worker
from index_service.shard_search import Hits, Wanted, search
from index_service.vector_space import Metric, VectorSpace


def space(metric: Metric, dimension: int) -> VectorSpace:
    return VectorSpace(dimension, "ab" * 32, metric)


def filled(own: VectorSpace, vectors: np.ndarray) -> Memtable:
    table = Memtable(own.dimension)
    prepared, _ = own.prepare(vectors)
    ids = [f"{row:05d}" for row in range(len(vectors))]
    table.upsert(np.arange(len(vectors)), ids, prepared.astype(np.float16))
    return table


def found_in(
    table: Memtable, own: VectorSpace, queries: np.ndarray, limit: int, min_score: float | None = None
) -> list[Hits]:
    found = search(ShardView(table.view, ()), own, queries, Wanted(limit, min_score))
    assert found.recipe is Recipe.EXACT
    return found.hits


def ids_in(table: Memtable, hits: Hits) -> list[str]:
    ids: list[str] = ShardView(table.view, ()).ids_at(hits.addresses).tolist()
    return ids


def expected(table: Memtable, own: VectorSpace, query: np.ndarray, limit: int) -> list[tuple[float, str]]:
    hits: list[tuple[float, str]] = []
    for block in table.view.blocks:
        scores = own.scores(query[None, :], block.vectors.astype(np.float32))
        live = np.ones(block.rows, bool) if block.dead is None else ~block.dead
        hits += list(zip(scores[live].tolist(), block.ids[live].tolist(), strict=True))
    return sorted(hits, key=lambda hit: (-hit[0], hit[1]))[:limit]


def pairs(table: Memtable, hits: Hits) -> list[tuple[float, str]]:
    return list(zip(hits.scores.tolist(), ids_in(table, hits), strict=True))


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("queries", [1, 7, 40], ids="{} queries".format)
@pytest.mark.parametrize("limit", [1, 10, 300, 100_000], ids="k={}".format)
def test_hits_are_those_of_comparing_everything(metric: Metric, queries: int, limit: int) -> None:
    random = np.random.default_rng(limit)
    own = space(metric, 24)
    table = filled(own, random.standard_normal((6_000, 24)).astype(np.float32))
    table.delete([f"{row:05d}" for row in random.choice(6_000, 1_500, replace=False)])
    asked, _ = own.prepare(random.standard_normal((queries, 24)).astype(np.float32))
    found = found_in(table, own, asked, limit)
    assert [pairs(table, hits) for hits in found[:3]] == [expected(table, own, query, limit) for query in asked[:3]]
    for hits in found:
        vectors = ShardView(table.view, ()).vectors_at(hits.addresses[:20])
        ids = ids_in(table, hits)[:20]
        assert all((vector == table.vector_of(found_id)).all() for vector, found_id in zip(vectors, ids, strict=True))


@pytest.mark.parametrize("metric", list(Metric))
def test_equal_vectors_at_the_border_are_ordered_by_id(metric: Metric) -> None:
    own = space(metric, 5)
    few = np.random.default_rng(3).standard_normal((6, 5)).astype(np.float32)
    table = filled(own, few[np.random.default_rng(4).integers(0, 6, 5_000)])
    asked, _ = own.prepare(few[:2] + 0.01)
    for limit in (1, 9, 700, 1_700):
        found = found_in(table, own, asked, limit)
        assert [pairs(table, hits) for hits in found] == [expected(table, own, query, limit) for query in asked]


def test_when_all_the_nearest_are_dead_more_are_asked_for() -> None:
    own = space(Metric.L2, 2)
    line = np.stack([np.arange(5_000) / 10, np.zeros(5_000)], axis=1).astype(np.float32)
    table = filled(own, line)
    table.delete([f"{row:05d}" for row in range(4_000)])
    [hits] = found_in(table, own, np.zeros((1, 2), np.float32), 3)
    assert ids_in(table, hits) == ["04000", "04001", "04002"]


def test_close_vectors_far_from_the_origin_are_told_apart() -> None:
    """Where |q|^2 - 2 q.x + |x|^2 loses every digit that matters, the final score must still decide.

    FAISS takes that form, a matrix product, for many queries at once.
    """
    prepare_worker()
    own = space(Metric.L2, 16)
    random = np.random.default_rng(5)
    table = filled(own, (1_000 + 4 * random.standard_normal((4_000, 16))).astype(np.float32))
    asked, _ = own.prepare((1_000 + 4 * random.standard_normal((_BLAS_FROM_NUMBERS // 16, 16))).astype(np.float32))
    found = found_in(table, own, asked, 5)
    assert [pairs(table, hits) for hits in found[:30]] == [expected(table, own, query, 5) for query in asked[:30]]


def test_scores_that_are_cut_to_1_are_equal() -> None:
    """Rounding makes some unit vectors longer than 1: the longest of them must not hide one with a smaller id."""
    own = space(Metric.COSINE, 2)
    random = np.random.default_rng(10)
    for angle in random.uniform(0, 2 * np.pi, 10):
        angles = np.append(angle + random.uniform(-0.01, 0.01, 10), angle + random.uniform(1, 5, 2_990))
        random.shuffle(angles)
        table = filled(own, np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
        query, _ = own.prepare(np.array([[np.cos(angle), np.sin(angle)]], np.float32))
        [hits] = found_in(table, own, query, 3)
        assert pairs(table, hits) == expected(table, own, query[0], 3)


def test_hits_below_min_score_are_left_out() -> None:
    own = space(Metric.COSINE, 8)
    table = filled(own, np.random.default_rng(6).standard_normal((2_000, 8)).astype(np.float32))
    query, _ = own.prepare(np.ones((1, 8), np.float32))
    everything = expected(table, own, query[0], 2_000)
    border = everything[20][0]
    [hits] = found_in(table, own, query, 100, border)
    assert pairs(table, hits) == [hit for hit in everything if hit[0] >= border]
    [none] = found_in(table, own, query, 100, 1.5)
    assert none.scores.size == 0


def test_an_empty_shard_answers_every_query_with_nothing() -> None:
    found = found_in(Memtable(3), space(Metric.L2, 3), np.zeros((2, 3), np.float32), 10)
    assert [len(hits.scores) for hits in found] == [0, 0]


def test_workers_search_side_by_side() -> None:
    own = space(Metric.INNER_PRODUCT, 32)
    table = filled(own, np.random.default_rng(8).standard_normal((5_000, 32)).astype(np.float32))
    asked = np.random.default_rng(9).standard_normal((24, 32)).astype(np.float32)
    alone = [pairs(table, hits) for hits in found_in(table, own, asked, 10)]
    with ThreadPoolExecutor(4, initializer=prepare_worker) as workers:
        answers = list(workers.map(lambda _: found_in(table, own, asked, 10), range(16)))
    assert all([pairs(table, hits) for hits in answer] == alone for answer in answers)
