"""The probe against the truth: collections with codes, answered live, and a thread that can be held up."""

import gc
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service.catalog import Catalog
from index_service.collection import Collection, UpsertBatch
from index_service.compaction import Policy
from index_service.index_config import Basis, Goal, IndexConfig, Measured, Modality, Recall, Tuning
from index_service.metrics import IndexMetrics
from index_service.recall_estimates import LEAST_SAMPLES, RecallEstimate
from index_service.recall_probe import MOST_WAITING, CpuBudget, RecallProbe
from index_service.recipes import FASTSCAN, Build, Effort, Recipe
from index_service.records import Record
from index_service.search import Queries, QueryAnswer, SearchAnswer, SearchOptions
from index_service.shard_search import Wanted, search
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers

DIMENSION = 24
ROWS = 4_000
POLICY = Policy(index_from_rows=1_500, seal_rows=500)
LOW_EFFORT = Effort(k_factor=3, probed_share=0.2, ef_search=10)
"""So that recall is low enough to see."""
SPACE = VectorSpace(DIMENSION, "ab" * 32, Metric.COSINE)
TEXT = SearchOptions(10, modality=Modality.TEXT)


class Gate(CpuBudget):
    """A budget that holds the probe's thread up before each piece, while it is shut."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.open = threading.Event()
        self.open.set()

    def pause_seconds(self) -> float:
        self.open.wait()
        return 0.0


@dataclass(frozen=True)
class Service:
    """A catalog with a probe, and what is told of them."""

    catalog: Catalog
    probe: RecallProbe
    registry: CollectorRegistry

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"eyebright_index_{name}", labels) or 0.0


@contextmanager
def service(folder: Path, budget: CpuBudget | None = None, share: float = 1.0) -> Iterator[Service]:
    registry = CollectorRegistry()
    metrics = IndexMetrics(registry)
    with ExitStack() as stack:
        workers = stack.enter_context(closing(Workers(2)))
        catalog_probe = RecallProbe(share, budget or CpuBudget(1.0), metrics, seed=1)
        catalog = stack.enter_context(closing(Catalog(folder, workers, metrics, POLICY, probe=catalog_probe)))
        stack.enter_context(closing(catalog_probe))
        if isinstance(budget, Gate):
            stack.callback(budget.open.set)
        yield Service(catalog, catalog_probe, registry)


def filled(catalog: Catalog, shard_count: int = 1, rows: int = ROWS, build: Build = FASTSCAN) -> Collection:
    """A collection with an index in each shard. Each vector is there twice, so that scores tie."""
    collection = catalog.create("pets", SPACE, shard_count, IndexConfig(build, LOW_EFFORT))
    vectors = np.repeat(random_vectors(shard_count * rows // 2), 2, axis=0)
    collection.upsert([UpsertBatch([Record(f"{row:05d}") for row in range(len(vectors))], vectors)])
    for shard in collection.shards:
        while shard.compact(idle=True):
            pass
        assert [view.segment.build for view in shard.view.segments] == [build]
    return collection


def set_effort(collection: Collection, k_factor: float) -> None:
    collection.configure(lambda config: config.chosen(config.build, Effort(k_factor=k_factor)))


def random_vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def answered(answer: SearchAnswer) -> list[QueryAnswer]:
    return [result for result in answer.results if isinstance(result, QueryAnswer)]


def estimate_after(collection: Collection, samples: int) -> RecallEstimate:
    """The collection's one estimate, once it rests on so many samples."""
    wait_for(lambda: [one.sample_count for one in collection.recall.all()] == [samples])
    return collection.recall.all()[0]


def recall_by_hand(live: SearchAnswer, exact: SearchAnswer) -> list[float]:
    """Of each query, the share of the exact scores that the live answer reaches; of equal scores any record will do."""
    shares = []
    for quick, right in zip(answered(live), answered(exact), strict=True):
        if count := min(len(right.ids), 100):
            shares.append(float((quick.scores[:count] >= right.scores[count - 1]).sum()) / count)
    return shares


@pytest.mark.parametrize(
    ("shard_count", "options"),
    [
        (1, TEXT),
        (2, SearchOptions(1, modality=Modality.IMAGE)),
        (2, SearchOptions(120, modality=Modality.TEXT)),
        (2, SearchOptions(10, min_score=0.6, modality=Modality.TEXT)),
    ],
    ids=["k 10", "k 1", "past 100 hits", "min_score"],
)
def test_the_estimate_is_the_recall_of_the_live_answers(
    tmp_path: Path, shard_count: int, options: SearchOptions
) -> None:
    shares: list[float] = []
    with service(tmp_path) as one:
        collection = filled(one.catalog, shard_count, rows=2 * ROWS)
        if options.k > 100:
            set_effort(collection, 1)
        for seed in range(10):
            queries = random_vectors(MOST_WAITING, seed=100 + seed)
            live = collection.search_vectors(queries, options)
            assert live.evidence.recipe is Recipe.FASTSCAN
            exact = collection.search_vectors(queries, SearchOptions(options.k, 0, options.min_score, exact=True))
            shares += recall_by_hand(live, exact)
            wait_for(lambda: one.value("probes_waiting") == 0)
        estimate = estimate_after(collection, len(shares))
        assert (estimate.modality, estimate.recipe) == (options.modality, Recipe.FASTSCAN)
        assert estimate.mean == pytest.approx(np.mean(shares))
        assert 0.3 < estimate.mean < 0.999
        labels = {"collection": "pets", "modality": estimate.modality.value.lower(), "recipe": "fastscan"}
        assert one.value("probe_recall_count", **labels) == len(shares)
        assert one.value("probe_recall_sum", **labels) == pytest.approx(sum(shares))


def test_records_are_measured_without_themselves(tmp_path: Path) -> None:
    options = SearchOptions(10, modality=Modality.RECORD)
    shares: list[float] = []
    with service(tmp_path) as one:
        collection = filled(one.catalog)
        for begin in range(0, 40, MOST_WAITING):
            ids = [f"{row:05d}" for row in range(begin, begin + MOST_WAITING)]
            live = collection.search_records(ids, options)
            shares += recall_by_hand(live, collection.search_records(ids, SearchOptions(10, exact=True)))
            wait_for(lambda: one.value("probes_waiting") == 0)
        estimate = estimate_after(collection, 40)
        assert estimate.modality is Modality.RECORD
        assert estimate.mean == pytest.approx(np.mean(shares))
        assert 0.3 < estimate.mean < 0.999
        assert not collection.queries.sample(Modality.RECORD).size


@pytest.mark.parametrize("recipe", [Recipe.IVF_FASTSCAN, Recipe.HNSW, Recipe.IVF_FLAT], ids=lambda recipe: recipe.value)
def test_every_recipe_is_measured_under_its_own_name(tmp_path: Path, recipe: Recipe) -> None:
    shares: list[float] = []
    with service(tmp_path) as one:
        collection = filled(one.catalog, rows=2 * ROWS, build=Build(recipe))
        for seed in range(10):
            queries = random_vectors(MOST_WAITING, seed=100 + seed)
            live = collection.search_vectors(queries, TEXT)
            shares += recall_by_hand(live, collection.search_vectors(queries, SearchOptions(10, exact=True)))
            wait_for(lambda: one.value("probes_waiting") == 0)
        estimate = estimate_after(collection, len(shares))
        assert estimate.recipe is recipe
        assert estimate.mean == pytest.approx(np.mean(shares))
        assert 0.1 < estimate.mean < 0.999


def test_a_lower_effort_shows_as_lower_recall(tmp_path: Path) -> None:
    means = []
    with service(tmp_path) as one:
        collection = filled(one.catalog)
        for k_factor in (15, 1):
            set_effort(collection, k_factor)
            assert not collection.recall.all(), "what was found by another effort is forgotten"
            for row in range(100):
                collection.search_vectors(random_vectors(1, seed=row), TEXT)
                wait_for(lambda: one.value("probes_waiting") == 0)
            means.append(estimate_after(collection, 100))
    assert means[1].upper < means[0].lower, means


def test_answers_are_the_same_with_and_without_a_probe(tmp_path: Path) -> None:
    queries = random_vectors(50, seed=9)
    found = []
    with service(tmp_path, share=0.0) as one:
        filled(one.catalog)
    for share in (0.0, 1.0):
        with service(tmp_path, share=share) as one:
            collection = one.catalog.get("pets")
            for _ in range(3):
                results = answered(collection.search_vectors(queries, TEXT))
                found.append([(result.ids, result.scores.tolist()) for result in results])
            assert bool(one.value("probes_dropped_total", reason="queue_full")) == bool(share)
    assert all(one == found[0] for one in found)


def test_what_needs_no_probe_gets_none(tmp_path: Path) -> None:
    with service(tmp_path) as one:
        collection = filled(one.catalog)
        queries = random_vectors(3)
        collection.search_vectors(queries, SearchOptions(10, exact=True, modality=Modality.TEXT))
        collection.search_vectors(queries, SearchOptions(10, offset=10, modality=Modality.TEXT))
        recall = {"TEXT": Recall(0.9, 0.89, 0.91, 500)}
        known = Measured(FASTSCAN, LOW_EFFORT, recall, latency_seconds=0.001, index_bytes=1)
        tuning = Tuning(Goal(0.85), Basis.MEASURED, known, (known,), target_met=True, time_ns=1)
        collection.configure(lambda config: config.tuned(tuning, since=config))
        aimed = collection.search_vectors(queries, SearchOptions(10, target_recall=0.89))
        assert (aimed.evidence.recipe, aimed.evidence.estimated_recall) == (Recipe.FASTSCAN, 0.9)
        assert one.value("probes_waiting") == one.value("probes_dropped_total", reason="queue_full") == 0
        assert len(collection.queries.sample(Modality.TEXT)) == 6, "all are real queries, but a page repeats one"


@pytest.mark.parametrize("honoured", [True, False], ids=["filtered", "not filtered"])
def test_truth_is_filtered_as_the_live_answer_was(tmp_path: Path, honoured: bool) -> None:
    """An answer that holds the best of every third row is perfect where only those were let through."""
    with service(tmp_path, share=0.0) as quiet:
        collection = filled(quiet.catalog)
        query, _ = SPACE.prepare(random_vectors(1, seed=3))
        live = collection.search_vectors(query, TEXT)
        [view] = live.views
        masks = [np.arange(part.rows) % 3 == 0 for part in view.parts]
        [hits] = search(view, SPACE, query, Wanted(10), masks).hits
        best = QueryAnswer(view.ids_at(hits.addresses).tolist(), hits.scores, None, None)
        with closing(RecallProbe(1.0, CpuBudget(1.0), IndexMetrics(CollectorRegistry()))) as probe:
            answer = replace(live, results=[best], masks=[masks if honoured else None])
            probe.offer(collection.recall, 0, SPACE, Queries(query, [None], {}), TEXT, answer)
            mean = estimate_after(collection, 1).mean
            assert mean == 1.0 if honoured else mean < 1.0


def test_the_share_is_that_of_all_queries(tmp_path: Path) -> None:
    gate = Gate()
    gate.open.clear()
    with service(tmp_path, gate, share=0.1) as one:
        collection = filled(one.catalog)
        for seed in range(10):
            collection.search_vectors(random_vectors(100, seed), TEXT)
        drawn = one.value("probes_waiting") + one.value("probes_dropped_total", reason="queue_full")
        assert 70 <= drawn <= 130


def test_truth_is_that_of_the_moment_of_the_answer(tmp_path: Path) -> None:
    gate = Gate()
    with service(tmp_path, gate) as one:
        collection = filled(one.catalog)
        query = random_vectors(1, seed=3)
        exact = collection.search_vectors(query, SearchOptions(10, exact=True))
        gate.open.clear()
        live = collection.search_vectors(query, TEXT)
        [gone] = answered(exact)
        assert collection.delete(gone.ids)[1] == 10
        collection.upsert([UpsertBatch([Record(f"new-{row}") for row in range(20)], np.repeat(query, 20, axis=0))])
        gate.open.set()
        assert estimate_after(collection, 1).mean == recall_by_hand(live, exact)[0] > 0


def test_few_probes_wait_the_rest_is_dropped_and_nothing_is_held_when_all_is_done(tmp_path: Path) -> None:
    gate = Gate()
    with service(tmp_path, gate) as one:
        collection = filled(one.catalog)
        collection.search_vectors(random_vectors(1), TEXT)
        estimate_after(collection, 1)
        gate.open.clear()
        held = [weakref.ref(view.segment) for view in collection.shards[0].view.segments]
        for seed in range(10):
            collection.search_vectors(random_vectors(1, seed), TEXT)
        # One more than may wait: whether the thread came to the gate before or after it took the first.
        assert one.value("probes_waiting") in (MOST_WAITING, MOST_WAITING + 1)
        assert one.value("probes_dropped_total", reason="queue_full") == 10 - one.value("probes_waiting")
        assert one.value("probe_lag_seconds") > 0
        collection.delete([f"{row:05d}" for row in range(0, ROWS, 2)])
        while collection.shards[0].compact(idle=True):
            pass
        gc.collect()
        assert all(segment() for segment in held), "the probes that wait still need it"
        gate.open.set()
        wait_for(lambda: one.value("probes_waiting") == 0)
        gc.collect()
        assert not any(segment() for segment in held)
        assert one.value("probe_lag_seconds") == 0


def test_probes_of_a_deleted_collection_are_given_up(tmp_path: Path) -> None:
    gate = Gate()
    with service(tmp_path, gate) as one:
        collection = filled(one.catalog, rows=ROWS)
        gate.open.clear()
        for seed in range(3):
            collection.search_vectors(random_vectors(1, seed), TEXT)
        one.catalog.delete("pets")
        gate.open.set()
        wait_for(lambda: one.value("probes_dropped_total", reason="outdated") == 3)
        labels = [sample.labels for family in one.registry.collect() for sample in family.samples]
        assert not [names for names in labels if "collection" in names]


def test_a_probe_that_waited_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_service.recall_probe.LONGEST_HELD_SECONDS", -1.0)
    with service(tmp_path) as one:
        collection = filled(one.catalog)
        collection.search_vectors(random_vectors(1), TEXT)
        wait_for(lambda: one.value("probes_dropped_total", reason="too_old") == 1)
        assert not collection.recall.all()


def test_an_answer_says_what_the_probe_found_once_it_knows_enough(tmp_path: Path) -> None:
    with service(tmp_path, share=0.0) as one:
        collection = filled(one.catalog)
        for number in range(LEAST_SAMPLES):
            assert collection.search_vectors(random_vectors(1), TEXT).evidence.estimated_recall is None
            collection.recall.add(0, Modality.TEXT, Recipe.FASTSCAN, float(number % 2))
        assert collection.search_vectors(random_vectors(1), TEXT).evidence.estimated_recall == 0.5
        image = SearchOptions(10, modality=Modality.IMAGE)
        assert collection.search_vectors(random_vectors(1), image).evidence.estimated_recall is None


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_the_budget_is_kept_over_pieces_of_every_size_and_none_is_saved_up(share: float) -> None:
    random = np.random.default_rng(8)
    cpu = wall = 0.0
    budget = CpuBudget(share, lambda: cpu, lambda: wall)
    for idle in (0.0, 1_000.0):
        wall += idle
        begun = cpu, wall
        for seconds in random.exponential(0.05, 1_000):
            with budget.piece():
                cpu += seconds
                wall += seconds * random.uniform(1, 3)
            wall += budget.pause_seconds()
        spent, passed = cpu - begun[0], wall - begun[1]
        assert spent <= share * passed * (1 + 1e-9)
        assert share > 0.3 or math.isclose(spent, share * passed, rel_tol=1e-6)


def test_the_thread_pauses_for_its_budget_and_still_ends_at_once(tmp_path: Path) -> None:
    hours = iter(range(0, 360_000, 3_600))
    with service(tmp_path, CpuBudget(0.5, cpu_seconds=lambda: float(next(hours)))) as one:
        collection = filled(one.catalog)
        collection.search_vectors(random_vectors(1), TEXT)
        estimate_after(collection, 1)
        collection.search_vectors(random_vectors(MOST_WAITING), TEXT)
        assert one.value("probes_waiting") == MOST_WAITING
        assert next(hours) == 2 * 3_600, "one piece was measured, from beginning to end"
