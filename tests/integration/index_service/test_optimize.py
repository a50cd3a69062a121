"""Optimize over gRPC: that live searches reach what was asked, what is refused, and what cancelling and restarts do."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from eyebright.index.v1 import collection_pb2, optimize_pb2, search_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import encode_vectors

from tests.cross_modal import pictures_and_captions
from tests.integration.index_service.calls import FINGERPRINT, connected, create, search, upsert
from tests.processes import RunningService, running_service, start_service

NAME = "tuned"
DIMENSION = 48
ROWS = 24_000
PICTURES, CAPTIONS = pictures_and_captions(ROWS, DIMENSION)
TUNING, HELD_OUT = CAPTIONS[::60], CAPTIONS[30::60]
TEXT, IMAGE, RECORD = search_pb2.MODALITY_TEXT, search_pb2.MODALITY_IMAGE, search_pb2.MODALITY_RECORD
WITHOUT_NUMBER = np.vstack([TUNING[:7], np.full((1, DIMENSION), np.nan, np.float32)])
SLOW: dict[str, Any] = {"recipes": [collection_pb2.RECIPE_HNSW]}
"""Takes a while to build."""
MEASURING, REBUILDING = optimize_pb2.OPTIMIZE_PHASE_MEASURING, optimize_pb2.OPTIMIZE_PHASE_REBUILDING


def arguments(folder: Path) -> tuple[str, ...]:
    return ("--data-folder", str(folder / "data"), "--seal-rows", "4096", "--index-from-rows", "4000")


def fill(stub: IndexServiceStub) -> None:
    create(stub, NAME, DIMENSION, shard_count=2)
    for begin in range(0, ROWS, 8_000):
        ids = [f"{row:05d}" for row in range(begin, begin + 8_000)]
        assert set(upsert(stub, NAME, ids, PICTURES[begin : begin + 8_000])) == {0}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder: Path = tmp_path_factory.mktemp("optimize")
    with running_service("index_service", folder, *arguments(folder)) as running:
        with connected(running.address) as stub:
            fill(stub)
        yield running


@pytest.fixture
def stub(service: RunningService) -> Iterator[IndexServiceStub]:
    """A stub; the collection is AUTO and was never tuned."""
    with connected(service.address) as opened:
        configure(opened, collection_pb2.RECIPE_AUTO)
        yield opened


def configure(stub: IndexServiceStub, recipe: collection_pb2.Recipe, ef_search: int = 0) -> None:
    effort = collection_pb2.Effort(k_factor=1, ef_search=ef_search) if ef_search else None
    index = collection_pb2.IndexConfig(recipe=recipe, effort=effort)
    stub.UpdateCollection(collection_pb2.UpdateCollectionRequest(name=NAME, index=index))


def request_of(vectors: np.ndarray | None = TUNING, **fields: Any) -> optimize_pb2.OptimizeRequest:
    sets = []
    if vectors is not None:
        sets = [optimize_pb2.QuerySet(vectors=encode_vectors(vectors, FINGERPRINT), modality=TEXT)]
    given: dict[str, Any] = {"collection": NAME, "queries": sets, "target_recall": 0.95} | fields
    return optimize_pb2.OptimizeRequest(**given)


def tuning_of(stub: IndexServiceStub) -> optimize_pb2.GetTuningResponse:
    found: optimize_pb2.GetTuningResponse = stub.GetTuning(optimize_pb2.GetTuningRequest(collection=NAME))
    return found


def wait_for(stub: IndexServiceStub, *, under_way: bool) -> optimize_pb2.GetTuningResponse:
    deadline = time.monotonic() + 60
    while (found := tuning_of(stub)).HasField("under_way") is not under_way:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def live_recall(stub: IndexServiceStub, queries: np.ndarray) -> float:
    shared = 0
    for begin in range(0, len(queries), 100):
        piece = queries[begin : begin + 100]
        quick, exact = (search(stub, NAME, piece, modality=TEXT, exact=exact).results for exact in (False, True))
        shared += sum(len(set(one.ids) & set(other.ids)) for one, other in zip(quick, exact, strict=True))
    return shared / (10 * len(queries))


def test_searches_reach_the_target_and_an_effort_by_hand_undoes_it(stub: IndexServiceStub) -> None:
    configure(stub, collection_pb2.RECIPE_HNSW, ef_search=1)
    responses = list(stub.Optimize(request_of()))
    assert not any(response.HasField("result") for response in responses[:-1])
    assert responses[-1].progress.phase == optimize_pb2.OPTIMIZE_PHASE_DONE
    result = responses[-1].result
    assert (result.basis, result.target_met) == (optimize_pb2.OPTIMIZE_BASIS_MEASURED, True)
    assert (result.target_recall, result.k, result.HasField("memory_limit_bytes")) == (0.95, 10, False)
    assert abs(result.time.seconds - time.time()) < 600
    chosen = result.chosen
    assert (chosen.recipe, chosen.centred) == (collection_pb2.RECIPE_HNSW, False)
    assert chosen.latency_seconds > 0
    assert chosen.index_bytes > 0
    [recall] = chosen.recall
    assert (recall.modality, recall.query_count) == (TEXT, len(TUNING) // 2)
    assert recall.mean >= 0.95
    assert recall.lower < recall.mean <= recall.upper
    assert {point.recipe for point in result.front} == {collection_pb2.RECIPE_HNSW, collection_pb2.RECIPE_EXACT}
    assert chosen in result.front

    assert live_recall(stub, HELD_OUT) >= 0.95
    evidence = search(stub, NAME, HELD_OUT[:1], modality=TEXT).evidence
    assert (evidence.recipe, evidence.estimated_recall) == ("hnsw", recall.mean)
    assert tuning_of(stub).last == result
    configure(stub, collection_pb2.RECIPE_HNSW, ef_search=1)
    assert live_recall(stub, HELD_OUT) < 0.95
    assert not search(stub, NAME, HELD_OUT[:1], modality=TEXT).evidence.HasField("estimated_recall")


def test_left_to_itself_it_measures_recent_queries_and_all_usual_recipes(stub: IndexServiceStub) -> None:
    for begin in range(0, 400, 100):
        search(stub, NAME, TUNING[begin : begin + 100], modality=TEXT)
        search(stub, NAME, PICTURES[begin : begin + 100], modality=IMAGE)
    seen: list[optimize_pb2.OptimizeProgress] = []
    for response in stub.Optimize(request_of(None, target_recall=0.9)):
        seen.append(response.progress)
        result = response.result
    assert MEASURING in {progress.phase for progress in seen}
    assert {recall.modality for recall in result.chosen.recall} == {TEXT, IMAGE}
    assert result.target_met
    kinds = {(point.recipe, point.centred) for point in result.front}
    fastscan, in_cells = collection_pb2.RECIPE_FASTSCAN, collection_pb2.RECIPE_IVF_FASTSCAN
    assert kinds == {
        (collection_pb2.RECIPE_EXACT, False),
        *((recipe, centred) for recipe in (fastscan, in_cells) for centred in (False, True)),
        (collection_pb2.RECIPE_HNSW, False),
    }
    assert [point.latency_seconds for point in result.front] == sorted(point.latency_seconds for point in result.front)
    assert live_recall(stub, HELD_OUT) >= 0.9
    configured = stub.GetCollection(collection_pb2.GetCollectionRequest(name=NAME)).collection
    assert configured.index.recipe == collection_pb2.RECIPE_AUTO, "the owner still leaves it to the service"


@pytest.mark.parametrize(
    ("code", "message", "fields"),
    [
        ("NOT_FOUND", "'nobody'", {"collection": "nobody"}),
        ("INVALID_ARGUMENT", "target_recall: expected above 0 and at most 1, not 1.5", {"target_recall": 1.5}),
        ("INVALID_ARGUMENT", "target_recall: expected above 0 and at most 1, not nan", {"target_recall": np.nan}),
        ("INVALID_ARGUMENT", "k: expected 0 to 1,000, not 1,001", {"k": 1_001}),
        ("INVALID_ARGUMENT", "recipes[1]: expected a recipe from EXACT (2) to LSH (7), not 1", {"recipes": [3, 1]}),
        ("INVALID_ARGUMENT", "queries: expected at least 200 queries of TEXT, not 199", {"vectors": TUNING[:199]}),
        ("INVALID_ARGUMENT", "queries[0].vectors.count: expected 1 to 10,000, not 0", {"vectors": TUNING[:0]}),
        ("INVALID_ARGUMENT", "queries[0].vectors[7]: expected finite", {"vectors": WITHOUT_NUMBER}),
        ("INVALID_ARGUMENT", "queries[0].vectors.dimension: expected 48 dimensions, not 8", {"vectors": TUNING[:, :8]}),
    ],
)
def test_what_is_refused_says_why(stub: IndexServiceStub, code: str, message: str, fields: dict[str, Any]) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.Optimize(request_of(**fields)))
    assert raised.value.code().name == code, raised.value
    assert message in str(raised.value.details())


def test_records_strangers_and_other_recipes_are_refused(stub: IndexServiceStub) -> None:
    one = encode_vectors(TUNING[:1], FINGERPRINT)
    other = encode_vectors(TUNING[:1], "cd" * 32)
    configure(stub, collection_pb2.RECIPE_FASTSCAN)
    for code, message, fields in (
        ("INVALID_ARGUMENT", "queries[0].modality", {"queries": [optimize_pb2.QuerySet(vectors=one, modality=RECORD)]}),
        ("FAILED_PRECONDITION", "cdcd", {"queries": [optimize_pb2.QuerySet(vectors=other, modality=TEXT)]}),
        ("FAILED_PRECONDITION", "recipes: expected FASTSCAN, which the owner", SLOW),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            list(stub.Optimize(request_of(**fields)))
        assert raised.value.code().name == code
        assert message in str(raised.value.details())


def test_cancelling_ends_the_work_and_another_request_meanwhile_is_refused(stub: IndexServiceStub) -> None:
    before = tuning_of(stub)
    call = stub.Optimize(request_of(**SLOW))
    next(call)
    assert tuning_of(stub).HasField("under_way")
    with pytest.raises(grpc.RpcError, match="is being tuned for another request") as raised:
        list(stub.Optimize(request_of(target_recall=0.5)))
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    same = stub.Optimize(request_of(**SLOW))
    next(same)
    call.cancel()
    next(same)  # it goes on for whom is left
    assert tuning_of(stub).HasField("under_way")
    same.cancel()
    assert wait_for(stub, under_way=False).last == before.last


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
def test_a_restart_begins_it_again(tmp_path: Path, end: str) -> None:
    service = start_service("index_service", tmp_path, *arguments(tmp_path))
    with connected(service.address) as stub:
        fill(stub)
        call = stub.Optimize(request_of(**SLOW))
        while next(call).progress.phase != MEASURING:
            pass
        began = time.monotonic()
        if end == "SIGTERM":
            assert service.terminate() == 0
            assert time.monotonic() - began < 15, "it does not wait for calls that would go on for long"
        else:
            service.kill()
        with pytest.raises(grpc.RpcError) as raised:
            list(call)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    with (
        running_service("index_service", tmp_path, *arguments(tmp_path)) as again,
        connected(again.address) as stub,
    ):
        assert tuning_of(stub).HasField("under_way")
        joined = list(stub.Optimize(request_of(**SLOW)))[-1].result
        assert joined.target_met
        assert wait_for(stub, under_way=False).last == joined
        assert live_recall(stub, HELD_OUT) >= 0.95
        assert not list((tmp_path / "data").rglob("tuning*"))
