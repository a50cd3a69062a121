"""A real service measures the recall of what it answers, and says so wherever one would look."""

import json
import re
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from eyebright.index.v1 import collection_pb2, search_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright_cli.app import app
from eyebright_client import Client
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from tests.integration.index_service.calls import connected, create, random_vectors, search, upsert
from tests.processes import RunningService, running_service

NAME = "measured"
DIMENSION = 32
ROWS = 20_000
K = 10
AT_ONCE = 4
TEXT = search_pb2.MODALITY_TEXT


def stats_of(stub: IndexServiceStub) -> collection_pb2.GetStatsResponse:
    stats: collection_pb2.GetStatsResponse = stub.GetStats(collection_pb2.GetStatsRequest(collection=NAME))
    return stats


def set_k_factor(stub: IndexServiceStub, k_factor: float) -> None:
    effort = collection_pb2.Effort(k_factor=k_factor)
    index = collection_pb2.IndexConfig(recipe=collection_pb2.RECIPE_FASTSCAN, effort=effort)
    stub.UpdateCollection(collection_pb2.UpdateCollectionRequest(name=NAME, index=index))


def fill(stub: IndexServiceStub) -> None:
    """A collection of one shard, and nearly all of it in one segment with codes."""
    create(stub, NAME, DIMENSION, shard_count=1)
    set_k_factor(stub, 10)
    vectors = random_vectors(ROWS, DIMENSION)
    for begin in range(0, ROWS, 10_000):
        ids = [f"{row:05d}" for row in range(begin, begin + 10_000)]
        assert set(upsert(stub, NAME, ids, vectors[begin : begin + 10_000])) == {0}
    deadline = time.monotonic() + 60
    while True:
        [shard] = stats_of(stub).shards
        if shard.segment_count == 1 and shard.memtable_rows < ROWS / 4:
            return
        assert time.monotonic() < deadline, shard
        time.sleep(0.05)


def wait_for_samples(stub: IndexServiceStub, count: int) -> None:
    deadline = time.monotonic() + 30
    while sum(estimate.sample_count for estimate in stats_of(stub).recall) < count:
        assert time.monotonic() < deadline, stats_of(stub)
        time.sleep(0.005)


def measured_recall(stub: IndexServiceStub, queries: np.ndarray, known: int) -> list[float]:
    """Ask each query, and again exactly; return once the probe knows the recall of all, ``known`` before."""
    wait_for_samples(stub, known)  # more than a few that wait would be dropped
    shares: list[float] = []
    for begin in range(0, len(queries), AT_ONCE):
        piece = queries[begin : begin + AT_ONCE]
        quick = search(stub, NAME, piece, K, modality=TEXT)
        assert quick.evidence.recipe == "fastscan"
        exact = search(stub, NAME, piece, K, modality=TEXT, exact=True)
        assert exact.evidence.estimated_recall == 1.0
        pairs = zip(quick.results, exact.results, strict=True)
        shares += [len(set(one.ids) & set(other.ids)) / K for one, other in pairs]
        wait_for_samples(stub, known + len(shares))
    return shares


def sample_of(service: RunningService, name: str) -> tuple[dict[str, str], float]:
    """The labels and the value of the one sample of this name at /metrics."""
    with urllib.request.urlopen(f"{service.metrics_url}/metrics") as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    [found] = [sample for family in families for sample in family.samples if sample.name == name]
    return found.labels, found.value


def test_recall_is_measured_on_live_queries_and_told(tmp_path: Path) -> None:
    arguments = ("--data-folder", str(tmp_path / "data"), "--seal-rows", "4096", "--index-from-rows", "4096")
    probing = ("--recall-probe-share", "1", "--recall-probe-cpu-share", "1")
    queries = random_vectors(120, DIMENSION, seed=1)
    with running_service("index_service", tmp_path, *arguments, *probing) as service:
        with connected(service.address) as stub:
            fill(stub)
            shares = measured_recall(stub, queries[:80], known=0)
            assert not search(stub, NAME, queries[:1], K, modality=TEXT).evidence.HasField("estimated_recall")
            shares += measured_recall(stub, queries[80:], known=81)
            [estimate] = stats_of(stub).recall
            assert (estimate.modality, estimate.recipe, estimate.sample_count) == (TEXT, "fastscan", 121)
            assert estimate.mean == pytest.approx((sum(shares) + shares[0]) / 121)
            assert 0 <= estimate.lower < estimate.mean <= estimate.upper <= 1  # equal where every answer was right
            assert 0 <= time.time() - estimate.since.ToSeconds() < 600
            told = search(stub, NAME, queries[:1], K, modality=TEXT).evidence.estimated_recall
            assert told == pytest.approx(estimate.mean, abs=0.01)
            labels = {"collection": NAME, "modality": "text", "recipe": "fastscan"}
            assert sample_of(service, "eyebright_index_probe_recall_count")[0] == labels

        with Client(index=service.address, collection=NAME) as client:
            [known] = client.stats().recall
            assert (known.modality, known.recipe) == ("text", "fastscan")
            assert known.lower <= known.mean <= known.upper
            vector = client.search(vector=queries[0], modality="text", k=K)
            assert vector.evidence is not None
            assert vector.evidence.estimated_recall == pytest.approx(known.mean, abs=0.01)

        options = ["--index", service.address, "--collection", NAME]
        printed = CliRunner().invoke(app, ["stats", *options])
        line = r"recall@k of captions 0\.\d{3} \(0\.\d{3}-[01]\.\d{3}, 12\d sampled queries, fastscan\)"
        assert re.search(line, printed.output), printed.output
        told_as_json = json.loads(CliRunner().invoke(app, ["stats", "--json", *options]).output)
        assert told_as_json["recall"][0]["modality"] == "text"
        assert told_as_json["recall"][0]["since"].endswith("+00:00")

        with connected(service.address) as stub:
            set_k_factor(stub, 1)
            assert not stats_of(stub).recall, "what was found by another effort is forgotten"
            assert not search(stub, NAME, queries[:1], K, modality=TEXT).evidence.HasField("estimated_recall")
            shares = measured_recall(stub, queries[:60], known=1)
            [lower] = stats_of(stub).recall
            assert lower.mean == pytest.approx((sum(shares) + shares[0]) / 61)
            assert lower.upper < estimate.lower

            stub.DeleteCollection(collection_pb2.DeleteCollectionRequest(name=NAME))
        with urllib.request.urlopen(f"{service.metrics_url}/metrics") as response:
            assert f'collection="{NAME}"' not in response.read().decode()


def test_recent_queries_outlive_a_restart_as_vectors_alone(tmp_path: Path) -> None:
    arguments = ("--data-folder", str(tmp_path / "data"), "--recorded-queries", "50")
    for expected in (40, 50):
        with running_service("index_service", tmp_path, *arguments) as service, connected(service.address) as stub:
            if expected == 40:
                create(stub, NAME, DIMENSION)
                upsert(stub, NAME, ["a"], random_vectors(1, DIMENSION))
            search(stub, NAME, random_vectors(40, DIMENSION, seed=expected), K, modality=TEXT)
            search(stub, NAME, ["a"], K)
            assert service.terminate() == 0
        with np.load(tmp_path / "data/collections" / NAME / "queries.npz", allow_pickle=False) as kept:
            assert kept["text_vectors"].shape == (expected, DIMENSION)
            assert np.linalg.norm(kept["text_vectors"], axis=1) == pytest.approx(1)
            assert set(kept["text_k"].tolist()) == {K}
            assert not kept["image_vectors"].size
