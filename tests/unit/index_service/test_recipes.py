"""Every recipe proposes nearly all of the exact answer, under filters and tombstones too, and scores as exactly."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service.compaction import Policy
from index_service.metrics import IndexMetrics
from index_service.parts import ShardView
from index_service.recipes import CENTRED_RECIPES, EXACT, Build, Effort, Recipe, cell_count, code_count
from index_service.records import Delete, Record, Upsert
from index_service.segment import prepare_worker
from index_service.shard import Shard
from index_service.shard_search import MANY_HITS, Hits, Proposals, Wanted, search
from index_service.vector_space import Metric, VectorSpace
from tests.cross_modal import pictures_and_captions

DIMENSION = 24
ROWS = 8_000
DEAD = range(0, ROWS, 10)
K = 10
PLENTY = Proposals(0.05, Effort(probed_share=0.8, ef_search=2_000))

BUILDS = [Build(recipe) for recipe in Recipe if recipe is not Recipe.EXACT]
BUILDS += [Build(recipe, centred=True) for recipe in sorted(CENTRED_RECIPES, key=lambda recipe: recipe.value)]


def allowed(build: Build, metric: Metric) -> bool:
    if metric is Metric.L2:
        return not build.centred
    return build.recipe is not Recipe.LSH or metric is Metric.COSINE


CASES = [(build, metric) for build in BUILDS for metric in Metric if allowed(build, metric)]


def vectors(random: np.random.Generator, own: VectorSpace, count: int) -> np.ndarray:
    """Off centre, so that centring has something to do."""
    prepared, _ = own.prepare((0.5 + random.standard_normal((count, DIMENSION))).astype(np.float32))
    return prepared.astype(np.float16)


@pytest.fixture(
    params=CASES,
    ids=lambda case: f"{case[0].recipe.value}{' centred' if case[0].centred else ''}, {case[1].value}",
)
def indexed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Shard, Build]]:
    """One segment of the recipe, a tenth of it dead."""
    build, metric = request.param
    own = VectorSpace(DIMENSION, "ab" * 32, metric)
    Shard.create(tmp_path, DIMENSION)
    policy = Policy(build, index_from_rows=1_500, seal_rows=500)
    prepare_worker()
    with closing(Shard(tmp_path, "shard", own, IndexMetrics(CollectorRegistry()), policy)) as one:
        one.write([Upsert([Record(str(row)) for row in range(ROWS)], vectors(np.random.default_rng(1), own, ROWS))])
        while one.compact(idle=True):
            pass
        one.write([Delete([str(row) for row in DEAD])])
        yield one, build


def found_ids(view: ShardView, hits: Hits) -> list[str]:
    ids: list[str] = view.ids_at(hits.addresses).tolist()
    return ids


def test_candidates_hold_the_answer_and_are_scored_exactly(indexed: tuple[Shard, Build]) -> None:
    one, build = indexed
    [segment] = one.view.segments
    assert segment.segment.build == build
    own = one.space
    queries = vectors(np.random.default_rng(2), own, 50).astype(np.float32)
    least = 0.7 if build.recipe is Recipe.LSH else 0.95
    for share in (None, 0.5, 0.1, 0.01):
        mask = None if share is None else np.random.default_rng(3).random(segment.rows) < share
        exact = search(one.view, own, queries, Wanted(K), [mask])
        quick = search(one.view, own, queries, Wanted(K, proposals=PLENTY), [mask])
        assert exact.recipe is Recipe.EXACT
        shared = 0
        for right, hits in zip(exact.hits, quick.hits, strict=True):
            assert len(right.scores) == len(hits.scores) == K
            scores = dict(zip(found_ids(one.view, right), right.scores.tolist(), strict=True))
            ids = found_ids(one.view, hits)
            shared += len(scores.keys() & set(ids))
            assert not set(ids) & {str(row) for row in DEAD}
            assert mask is None or all(mask[int(name)] for name in ids)
            pairs = zip(ids, hits.scores.tolist(), strict=True)
            assert all(scores[name] == score for name, score in pairs if name in scores)
        assert shared >= least * K * len(queries), (share, shared)
        if share is None:
            assert quick.recipe is build.recipe
            assert 0 < quick.rows_scanned <= len(queries) * ROWS


def test_what_is_asked_past_a_twentieth_of_the_rows_is_answered_exactly(indexed: tuple[Shard, Build]) -> None:
    one, _ = indexed
    queries = vectors(np.random.default_rng(4), one.space, 3).astype(np.float32)
    assert search(one.view, one.space, queries, Wanted(1_000, proposals=PLENTY)).recipe is Recipe.EXACT


def test_an_index_that_returns_short_gives_way_to_a_scan(indexed: tuple[Shard, Build]) -> None:
    """One cell, or a walk of one step, can't hold ten of what a filter lets through: no hit may be missing then."""
    one, _ = indexed
    queries = vectors(np.random.default_rng(5), one.space, 20).astype(np.float32)
    little = Proposals(K / ROWS, Effort(probed_share=1e-6, ef_search=1))
    mask = np.random.default_rng(6).random(ROWS) < 0.3
    for hits in search(one.view, one.space, queries, Wanted(K, proposals=little), [mask]).hits:
        assert len(hits.scores) == K


def test_segments_follow_a_new_policy(indexed: tuple[Shard, Build]) -> None:
    one, build = indexed
    one.policy = Policy(EXACT, index_from_rows=1_500, seal_rows=500)
    while one.compact(idle=True):
        pass
    assert [view.segment.build for view in one.view.segments] == [EXACT]
    one.policy = Policy(build, index_from_rows=1_500, seal_rows=500)
    while one.compact(idle=True):
        pass
    assert [view.segment.build for view in one.view.segments] == [build]
    assert len(one) == ROWS - len(DEAD)


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("share", [None, 0.7])
def test_many_hits_are_those_of_comparing_everything(tmp_path: Path, metric: Metric, share: float | None) -> None:
    own = VectorSpace(DIMENSION, "ab" * 32, metric)
    random = np.random.default_rng(7)
    stored = vectors(random, own, 3 * MANY_HITS)
    Shard.create(tmp_path, DIMENSION)
    policy = Policy(EXACT, seal_rows=500)
    with closing(Shard(tmp_path, "shard", own, IndexMetrics(CollectorRegistry()), policy)) as one:
        one.write([Upsert([Record(f"{row:06d}") for row in range(len(stored))], stored)])
        while one.compact(idle=True):
            pass
        one.write([Delete([f"{row:06d}" for row in range(0, len(stored), 7)])])
        live = np.arange(len(stored)) % 7 != 0
        mask = None if share is None else random.random(len(stored)) < share
        wide = stored.astype(np.float32)
        [query] = queries = vectors(random, own, 1).astype(np.float32)
        scores = own.scores(query[None, :], wide)
        scores[~live if mask is None else ~(live & mask)] = -np.inf
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > -np.inf]
        border = float(scores[order[MANY_HITS // 2]])
        for limit, min_score in ((MANY_HITS, None), (len(stored), None), (MANY_HITS, border), (len(stored), border)):
            [hits] = search(one.view, own, queries, Wanted(limit, min_score), [mask]).hits
            expected = [row for row in order[:limit].tolist() if min_score is None or scores[row] >= min_score]
            assert abs(len(expected) - len(hits.scores)) <= (0 if min_score is None else 1)
            assert len(set(expected) & {int(own) for own in found_ids(one.view, hits)}) >= len(expected) - 1
            assert np.allclose(hits.scores, scores[expected][: len(hits.scores)], rtol=1e-5, atol=1e-5)
            assert (np.diff(hits.scores) <= 0).all()


def test_codes_find_what_captions_mean_that_fit_loosely(tmp_path: Path) -> None:
    """A random direction outweighs what each caption says of its picture, and no neighbour stands out."""
    own = VectorSpace(768, "ab" * 32, Metric.COSINE)
    pictures, captions = pictures_and_captions(10_000, 768)
    noise = np.random.default_rng(8).standard_normal((200, 768)).astype(np.float32)
    loose = captions[:200] + 4 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    queries, _ = own.prepare(loose)
    Shard.create(tmp_path, 768)
    policy = Policy(Build(Recipe.FASTSCAN), index_from_rows=5_000, seal_rows=5_000)
    prepare_worker()
    with closing(Shard(tmp_path, "shard", own, IndexMetrics(CollectorRegistry()), policy)) as one:
        one.write([Upsert([Record(str(row)) for row in range(len(pictures))], pictures.astype(np.float16))])
        while one.compact(idle=True):
            pass
        exact = search(one.view, own, queries, Wanted(K))
        quick = search(one.view, own, queries, Wanted(K, proposals=Proposals(0.04, Effort())))
        assert quick.recipe is Recipe.FASTSCAN
        pairs = zip(exact.hits, quick.hits, strict=True)
        shared = sum(len(set(found_ids(one.view, right)) & set(found_ids(one.view, hits))) for right, hits in pairs)
    assert shared >= 0.99 * K * len(queries)  # codes of four numbers find 0.91


@pytest.mark.parametrize("dimension", [1, 3, 17, 24, 192, 250, 768, 1152])
def test_codes_divide_every_dimension(dimension: int) -> None:
    count = code_count(dimension)
    assert dimension % count == 0
    assert dimension / count >= min(dimension, 2)


@pytest.mark.parametrize(("rows", "cells"), [(0, 2), (1, 2), (50_000, 512), (250_000, 1_024), (1_000_000, 2_048)])
def test_cells_grow_with_the_root_of_the_rows(rows: int, cells: int) -> None:
    assert cell_count(rows) == cells
