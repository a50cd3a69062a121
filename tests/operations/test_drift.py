"""A soak: both services under a steady load from callers that come and go, and what they hold meanwhile must not grow.

EYEBRIGHT_SOAK_SECONDS says how long it goes on in its long form; half an hour by default.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from eyebright.index.v1 import collection_pb2, record_pb2
from eyebright.vectors.numpy_codec import encode_vectors

from benchmarks.dataset import Dataset
from benchmarks.index_server import COLLECTION, FINGERPRINT
from benchmarks.load.outcomes import Fate, Outcome
from benchmarks.load.runs import Callers, Mix
from benchmarks.load.traffic import Kind
from tests.integration.index_service.calls import connected, records
from tests.operations.drift import Drift, watched
from tests.processes import RunningService, running_service

LONG_SECONDS = float(os.environ.get("EYEBRIGHT_SOAK_SECONDS") or 1_800)
ROUND_SECONDS = 30.0
"""After this the callers, with their connections, give way to others."""

MOST_MEGABYTES_AN_HOUR = 40.0
"""About a gigabyte a day."""

MOST_FILES_AN_HOUR = 30.0
"""One for each connection that came and went would be 120. The index opens and closes segments all the time, so that in
ten minutes a slope of ten says nothing.
"""

ROWS, DIMENSION = 20_000, 256
CALLS_PER_SECOND = 100.0
MIX = Mix({Kind.SEARCH: 0.3, Kind.UPSERT: 0.6, Kind.EMBED: 0.1}, dict.fromkeys(Kind, 10.0))


def fill(index: RunningService, data: Dataset) -> None:
    with connected(index.address) as stub:
        stub.CreateCollection(
            collection_pb2.CreateCollectionRequest(
                name=COLLECTION, dimension=DIMENSION, fingerprint=FINGERPRINT, shard_count=2
            )
        )
        for ids, vectors in data.batches(np.arange(data.rows)):
            request = record_pb2.UpsertRequest(
                collection=COLLECTION, records=records(ids), vectors=encode_vectors(vectors, FINGERPRINT)
            )
            assert not any(status.code for status in stub.Upsert(request).statuses)


def soak(folder: Path, seconds: float, round_seconds: float) -> dict[str, Drift]:
    """The drift of both services."""
    data = Dataset.generated(folder, ROWS, DIMENSION, seed=1)
    # Records are written again and again, and merged soon, so that what the index holds goes up and down by the minute.
    arguments = ("--data-folder", str(folder / "data"), "--seal-rows", "256", "--log-level", "warning")
    cache = ("--text-cache-bytes", str(2**20))  # full within the warm-up
    counted = {kind: Outcome() for kind in MIX.weights}
    with (
        running_service("index_service", folder, *arguments) as index,
        running_service("embedder_service", folder, *cache, "--log-level", "warning") as embedder,
    ):
        fill(index, data)
        services = {"index": index, "embedder": embedder}
        with watched(services, every_seconds=min(2.0, seconds / 20)) as drifts:
            for number in range(round(seconds / round_seconds)):
                dataset = folder / f"generated-{ROWS}-{DIMENSION}-1"
                with Callers(index.address, embedder.address, dataset, 1, seed=1_000 * number) as callers:
                    for kind, outcome in callers.offer(MIX, CALLS_PER_SECOND, round_seconds).items():
                        counted[kind].merge(outcome)
        for service in services.values():
            assert service.process.poll() is None
            assert "Traceback" not in service.log.read_text("utf-8")
    for kind, outcome in counted.items():
        said = ", ".join(f"{count} {fate}" for fate, count in outcome.counts.items())
        print(f"{kind}: {said}, p99 {1e3 * outcome.quantile_seconds(0.99):.1f} ms")  # noqa: T201
        assert outcome.counts[Fate.ANSWERED] == outcome.calls > 0
    for name, drift in drifts.items():
        print(f"{name} over {seconds:.0f} s: {drift}")  # noqa: T201
    return drifts


def test_the_slope_is_that_of_what_was_seen_after_the_warm_up(embedder: RunningService) -> None:
    drift = Drift(embedder)
    drift.look()
    assert drift.memory_bytes[0] > 50e6
    assert drift.files[0] > 5
    moments = range(0, 3_000, 10)
    drift.seconds = list(map(float, moments))
    drift.memory_bytes = [10**9 if second < 900 else 5 * 10**8 + 2_000 * second for second in moments]
    drift.files = [50] * len(drift.seconds)
    assert drift.megabytes_an_hour == pytest.approx(7.2, rel=0.02)
    assert drift.files_an_hour == pytest.approx(0)


def test_callers_that_come_and_go_leave_nothing_open(tmp_path: Path) -> None:
    for drift in soak(tmp_path, 4.0, 2.0).values():
        assert drift.files[-1] <= drift.files[0] + 20


@pytest.mark.long
@pytest.mark.timeout(LONG_SECONDS * 2 + 600)
def test_what_is_held_does_not_grow(tmp_path: Path) -> None:
    for name, drift in soak(tmp_path, LONG_SECONDS, ROUND_SECONDS).items():
        assert drift.megabytes_an_hour <= MOST_MEGABYTES_AN_HOUR, name
        assert drift.files_an_hour <= MOST_FILES_AN_HOUR, name
