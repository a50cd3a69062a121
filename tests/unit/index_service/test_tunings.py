"""Tunings from the request to rebuilt segments: what is chosen, who may join or end one, and what a restart does."""

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as NotYet
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service import tunings as tunings_module
from index_service.catalog import Catalog
from index_service.collection import Collection, UpsertBatch
from index_service.compaction import Compactor, Policy
from index_service.index_config import Basis, Goal, Modality, Tuning
from index_service.metrics import IndexMetrics
from index_service.recipes import EXACT, FASTSCAN, Build, Effort, Recipe
from index_service.records import Record
from index_service.search import QueryAnswer, SearchOptions
from index_service.tuner import Tuner
from index_service.tuning_task import REQUEST_FILE, Phase, Stopped, TuningRequest, TuningTask
from index_service.tunings import WORKING_FOLDER, Tunings
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers
from service_runtime.errors import FailedPrecondition, NotFound, Unavailable
from tests.cross_modal import pictures_and_captions

DIMENSION = 32
ROWS = 6_000
POLICY = Policy(index_from_rows=2_000, seal_rows=512)
PICTURES, CAPTIONS = pictures_and_captions(ROWS, DIMENSION)
SENT = {Modality.TEXT: CAPTIONS[:200]}
QUICK = TuningRequest(Goal(0.9), (Recipe.FASTSCAN,), SENT)
SECONDS = 60


class Service:
    """A catalog with what works behind it, opened and closed as the host does."""

    def __init__(self, folder: Path, *, compacting: bool = True) -> None:
        self._stack = ExitStack()
        workers = self._stack.enter_context(closing(Workers(2)))
        metrics = IndexMetrics(CollectorRegistry())
        self.catalog = Catalog(folder, workers, metrics, POLICY)
        if compacting:
            self._stack.enter_context(closing(Compactor(self.catalog.shards, metrics)))
        self._stack.callback(self.catalog.close)
        self.tunings = self._stack.enter_context(closing(Tunings(self.catalog, 2)))

    def close(self) -> None:
        self._stack.close()

    def tune(self, request: TuningRequest) -> Tuning:
        task = self.tunings.join(self.pets, request)
        try:
            return task.result.result(SECONDS)
        finally:
            self.tunings.leave(task)

    @property
    def pets(self) -> Collection:
        return self.catalog.get("pets")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one collection whose shards are compacted; it keeps no queries."""
    folder: Path = tmp_path_factory.mktemp("prepared")
    with (
        closing(Workers(2)) as workers,
        closing(Catalog(folder, workers, IndexMetrics(CollectorRegistry()), POLICY)) as catalog,
    ):
        fill(catalog.create("pets", VectorSpace(DIMENSION, "ab" * 32, Metric.COSINE), 2), PICTURES)
    return folder


def fill(collection: Collection, vectors: np.ndarray) -> None:
    collection.upsert([UpsertBatch([Record(f"{row}") for row in range(len(vectors))], vectors)])
    for shard in collection.shards:
        while shard.compact(idle=True):
            pass


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(prepared, tmp_path / "data"))


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    with closing(Service(folder)) as opened:
        yield opened


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Holds each tuning when its queries are answered, until it is told to end or this is called."""
    opened: list[bool] = []
    answer = Tuner.answer

    def answer_later(self: Tuner, *arguments: object) -> Iterator[tuple[int, int]]:
        while not opened:
            self._check()
            time.sleep(0.005)
        return answer(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Tuner, "answer", answer_later)
    return lambda: opened.append(True)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def leftovers(folder: Path) -> list[Path]:
    return [path for name in (REQUEST_FILE, WORKING_FOLDER) for path in folder.rglob(f"{name}*")]


def recall(collection: Collection, asked: np.ndarray) -> float:
    answers = [
        [set(one.ids) for one in collection.search_vectors(asked, options).results if isinstance(one, QueryAnswer)]
        for options in (SearchOptions(10, modality=Modality.RECORD), SearchOptions(10, exact=True))
    ]
    return sum(len(one & other) for one, other in zip(*answers, strict=True)) / (10 * len(asked))


def test_what_is_found_is_kept_built_and_reaches_the_target(service: Service, folder: Path) -> None:
    graph = Build(Recipe.HNSW)
    service.pets.configure(lambda config: config.chosen(graph, Effort(1.0, ef_search=1)))
    tuned = service.tune(TuningRequest(Goal(0.98), (), SENT))
    assert (tuned.basis, tuned.target_met, tuned.chosen.build) == (Basis.MEASURED, True, graph)
    assert {point.build for point in tuned.front} == {EXACT, graph}
    assert [point.latency_seconds for point in tuned.front] == sorted(
        point.latency_seconds or 0 for point in tuned.front
    )
    assert tuned.chosen.recall["TEXT"].query_count == 100
    assert recall(service.pets, CAPTIONS[1_000:1_200]) >= 0.98
    segments = [view.segment for shard in service.pets.shards for view in shard.view.segments]
    assert {segment.build for segment in segments if segment.rows >= 2_000} == {graph}
    assert service.pets.config.tuning == tuned
    assert service.pets.config.effort is None, "what was found takes its place"
    effort = Effort(1.0, ef_search=1)
    service.pets.configure(lambda config: config.chosen(graph, effort))
    assert recall(service.pets, CAPTIONS[1_000:1_200]) < 0.98
    assert not leftovers(folder)


def test_recent_queries_are_measured_with_of_the_modalities_that_have_enough(service: Service) -> None:
    service.pets.queries.add(Modality.TEXT, CAPTIONS[:220], 10)
    service.pets.queries.add(Modality.IMAGE, PICTURES[:199], 10)
    tuned = service.tune(TuningRequest(Goal(0.9), (Recipe.FASTSCAN,)))
    assert (tuned.basis, set(tuned.chosen.recall)) == (Basis.MEASURED, {"TEXT"})


def test_with_few_queries_codes_are_taken_and_nothing_is_promised(service: Service) -> None:
    service.tune(QUICK)
    service.pets.queries.add(Modality.TEXT, CAPTIONS[:199], 10)
    tuned = service.tune(TuningRequest(Goal(0.9)))
    assert (tuned.basis, tuned.front, tuned.target_met) == (Basis.FEW_QUERIES, (), False)
    assert (tuned.chosen.build, tuned.chosen.effort.k_factor, tuned.chosen.recall) == (FASTSCAN, 100.0, {})
    assert service.pets.config.tuning == tuned
    searched = service.pets.search_vectors(CAPTIONS[:1], SearchOptions(1, modality=Modality.RECORD))
    assert searched.evidence.recipe is Recipe.FASTSCAN
    assert searched.evidence.estimated_recall is None
    tight = service.tune(TuningRequest(Goal(0.9, memory_limit_bytes=1_000)))
    assert (tight.basis, tight.chosen.build, tight.target_met) == (Basis.FEW_QUERIES, EXACT, True)


@pytest.mark.parametrize("why", ["small", "owner"])
def test_what_is_searched_exactly_is_left_as_it_is(service: Service, why: str) -> None:
    if why == "owner":
        collection = service.pets
        collection.configure(lambda config: config.chosen(EXACT, None))
    else:
        collection = service.catalog.create("few", service.pets.spec.space, 2)
        fill(collection, PICTURES[:1_500])
    before = collection.config
    task = service.tunings.join(collection, QUICK)
    tuned = task.result.result(SECONDS)
    assert (tuned.basis, tuned.chosen.build, tuned.target_met, tuned.front) == (Basis.EXACT, EXACT, True, ())
    assert collection.config == before


def test_the_memory_limit_is_kept(service: Service) -> None:
    tuned = service.tune(TuningRequest(Goal(0.9, memory_limit_bytes=1_000), (Recipe.FASTSCAN,), SENT))
    assert (tuned.chosen.build, tuned.target_met) == (EXACT, True)
    service.pets.configure(lambda config: config.chosen(FASTSCAN, None))
    with pytest.raises(FailedPrecondition, match=r"needs about [0-9,]+ bytes .* not at most 1,000") as raised:
        service.tune(TuningRequest(Goal(0.9, memory_limit_bytes=1_000), (), SENT))
    assert raised.value.field == "memory_limit_bytes"


def test_an_owners_recipe_that_can_t_reach_the_target_does_its_best(service: Service) -> None:
    service.pets.configure(lambda config: config.chosen(Build(Recipe.LSH), None))
    tuned = service.tune(TuningRequest(Goal(0.9999), (), SENT))
    assert (tuned.chosen.build, tuned.target_met) == (Build(Recipe.LSH), False)
    own = [point.least_recall for point in tuned.front if point.build.recipe is Recipe.LSH]
    assert tuned.chosen.least_recall == max(own)


def test_the_same_request_joins_and_another_is_refused(service: Service, gate: Callable[[], None]) -> None:
    first = service.tunings.join(service.pets, QUICK)
    again = service.tunings.join(service.pets, TuningRequest(Goal(0.9), (Recipe.FASTSCAN,), SENT))
    assert again is first
    others = [
        TuningRequest(Goal(0.8), (Recipe.FASTSCAN,), SENT),
        TuningRequest(Goal(0.9), (), SENT),
        TuningRequest(Goal(0.9), (Recipe.FASTSCAN,)),
        TuningRequest(Goal(0.9), (Recipe.FASTSCAN,), {Modality.TEXT: CAPTIONS[1:201]}),
        TuningRequest(Goal(0.9), (Recipe.FASTSCAN,), {Modality.IMAGE: CAPTIONS[:200]}),
    ]
    for other in others:
        with pytest.raises(FailedPrecondition, match=r"'pets' is being tuned for another request \(target_recall 0.9"):
            service.tunings.join(service.pets, other)
    service.tunings.leave(first)
    assert not first.stopped(), "one still waits"
    gate()
    assert first.result.result(SECONDS).basis is Basis.MEASURED
    assert service.tunings.under_way(service.pets) is None


def test_collections_wait_for_each_other(service: Service, gate: Callable[[], None]) -> None:
    other = service.catalog.create("other", service.pets.spec.space, 1)
    first = service.tunings.join(service.pets, QUICK)
    until(lambda: first.phase is Phase.ANSWERING)
    second = service.tunings.join(other, QUICK)
    with pytest.raises(NotYet):
        second.result.result(0.05)
    assert second.phase is Phase.WAITING
    gate()
    assert second.result.result(SECONDS).basis is Basis.EXACT
    assert first.result.done()


@pytest.mark.parametrize("phase", [Phase.ANSWERING, Phase.MEASURING])
def test_whoever_leaves_last_ends_it_and_nothing_has_changed(
    service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    before = service.pets.config
    method = "answer" if phase is Phase.ANSWERING else "measure"
    original = getattr(Tuner, method)
    task: list[TuningTask] = []

    def leave_and_go_on(self: Tuner, *arguments: object, **keywords: object) -> object:
        until(lambda: bool(task))
        assert leftovers(folder), "the request is on disk, and so is the folder for indexes"
        service.tunings.leave(task[0])
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(Tuner, method, leave_and_go_on)
    task.append(service.tunings.join(service.pets, QUICK))
    with pytest.raises(Stopped):
        task[0].result.result(SECONDS)
    assert task[0].phase is phase
    assert service.pets.config == before
    assert not leftovers(folder)
    monkeypatch.undo()
    assert service.tune(QUICK).basis is Basis.MEASURED


def test_a_choice_stands_when_its_rebuild_is_not_waited_for(folder: Path) -> None:
    with closing(Service(folder, compacting=False)) as service:
        task = service.tunings.join(service.pets, TuningRequest(Goal(1.0), (Recipe.FASTSCAN,), SENT))
        until(lambda: task.phase is Phase.REBUILDING or task.result.done())
        assert (task.steps_done, task.steps_total) == (0, 2)
        assert not (service.pets.folder / REQUEST_FILE).exists(), "a restart does not begin again what is decided"
        service.tunings.leave(task)
        with pytest.raises(Stopped):
            task.result.result(SECONDS)
        assert service.pets.config.tuning is not None


def test_deleting_the_collection_ends_it(service: Service, folder: Path, gate: Callable[[], None]) -> None:
    task = service.tunings.join(service.pets, QUICK)
    until(lambda: task.phase is Phase.ANSWERING)
    space = service.pets.spec.space
    service.catalog.delete("pets")
    service.catalog.create("pets", space, 1)
    with pytest.raises(NotFound, match="collection 'pets' was deleted while it was tuned"):
        task.result.result(SECONDS)
    assert not leftovers(folder)
    gate()
    assert service.tune(QUICK).basis is Basis.EXACT


def test_a_restart_begins_again_what_it_cut_short(folder: Path, gate: Callable[[], None]) -> None:
    with closing(Service(folder)) as service:
        task = service.tunings.join(service.pets, QUICK)
        until(lambda: task.phase is Phase.ANSWERING)
        service.tunings.close()
        with pytest.raises(Unavailable, match="begun again"):
            task.result.result(SECONDS)
        with pytest.raises(Unavailable, match="the service stops"):
            service.tunings.join(service.pets, QUICK)
    working = folder / "collections/pets" / WORKING_FOLDER
    working.mkdir()
    (working / "codes.faiss").write_bytes(b"left by a crash")
    with closing(Service(folder)) as service:
        resumed = service.tunings.under_way(service.pets)
        assert resumed is not None
        assert not (working / "codes.faiss").exists()
        joined = service.tunings.join(service.pets, QUICK)
        assert joined is resumed, "it is the same request"
        gate()
        tuned = joined.result.result(SECONDS)
        assert service.pets.config.tuning == tuned
    assert not leftovers(folder)
    with closing(Service(folder)) as service:
        assert service.tunings.under_way(service.pets) is None
        assert service.pets.config.tuning == tuned


def test_a_damaged_request_is_dropped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "collections/pets" / REQUEST_FILE).write_bytes(b"PK damaged")
    with closing(Service(folder)) as service:
        assert service.tunings.under_way(service.pets) is None
    assert "tuning not begun again" in caplog.text
    assert not leftovers(folder)


def test_what_fails_is_told_and_leaves_nothing(service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(Tuner, "measure", fail)
    with pytest.raises(RuntimeError, match="no room"):
        service.tune(QUICK)
    assert not leftovers(folder)
    assert service.pets.config.tuning is None


def test_new_vectors_are_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunings_module, "_SETTLE_SECONDS", SECONDS)
    with closing(Service(folder, compacting=False)) as service:
        extra = PICTURES[:3_000] + np.float32(0.01)
        service.pets.upsert([UpsertBatch([Record(f"more-{row}") for row in range(3_000)], extra)])
        task = service.tunings.join(service.pets, QUICK)
        until(lambda: task.phase is Phase.SETTLING)
        for shard in service.pets.shards:
            assert not shard.settled
            while shard.compact(idle=True):
                pass
            assert shard.settled
        until(lambda: task.phase not in (Phase.WAITING, Phase.SETTLING))
        service.tunings.leave(task)
