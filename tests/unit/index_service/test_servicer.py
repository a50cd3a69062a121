"""What happens between the parsing of a request and its work."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from eyebright.index.v1 import record_pb2, search_pb2
from eyebright.vectors.numpy_codec import encode_vectors
from prometheus_client import CollectorRegistry

from index_service import admission
from index_service.catalog import Catalog
from index_service.collection import Collection
from index_service.metrics import IndexMetrics
from index_service.servicer import IndexServicer
from index_service.settings import IndexSettings
from index_service.snapshots import Snapshots
from index_service.tunings import Tunings
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers
from service_runtime.errors import ResourceExhausted

OLD = VectorSpace(4, "ab" * 32, Metric.COSINE)
NEW = VectorSpace(5, "cd" * 32, Metric.COSINE)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with (
        closing(Workers(1)) as workers,
        closing(Catalog(tmp_path, workers, IndexMetrics(CollectorRegistry()))) as opened,
    ):
        yield opened


def test_a_streamed_batch_reaches_no_collection_it_was_not_checked_for(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.create("pets", OLD, 1)
    get = catalog.get

    def get_and_replace(name: str) -> Collection:
        monkeypatch.undo()
        found = get(name)
        catalog.delete(name)
        catalog.create(name, NEW, 1)
        return found

    monkeypatch.setattr(catalog, "get", get_and_replace)
    upsert = record_pb2.UpsertRequest(
        collection="pets", records=[record_pb2.Record(id="a")], vectors=encode_vectors(np.eye(1, 4), OLD.fingerprint)
    )
    with (
        closing(IndexServicer(IndexSettings(data_folder=tmp_path), IndexMetrics(CollectorRegistry()))) as servicer,
        closing(Tunings(catalog, 1)) as tunings,
    ):
        servicer.serve(catalog, Snapshots(catalog, tmp_path, ()), tunings)
        [response], fault = servicer._upsert_batches([record_pb2.UpsertStreamRequest(batch_id=7, upsert=upsert)])
    assert fault is None
    assert response.batch_id == 7
    assert "its collection was deleted" in response.statuses[0].message
    assert len(catalog.get("pets")) == 0


async def test_a_small_search_that_would_come_too_late_is_refused_others_are_not(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_FIRST_SECONDS", 10.0)
    catalog.create("pets", OLD, 1)
    caller: Any = SimpleNamespace(time_remaining=lambda: 5.0)
    patient: Any = SimpleNamespace(time_remaining=lambda: None)

    def asked(**fields: Any) -> search_pb2.SearchRequest:
        vectors = encode_vectors(np.eye(1, 4), OLD.fingerprint)
        return search_pb2.SearchRequest(
            collection="pets", vectors=vectors, modality=search_pb2.MODALITY_IMAGE, k=1, **fields
        )

    settings = IndexSettings(data_folder=tmp_path, search_threads=1)
    with (
        closing(IndexServicer(settings, IndexMetrics(CollectorRegistry()))) as servicer,
        closing(Tunings(catalog, 1)) as tunings,
    ):
        servicer.serve(catalog, Snapshots(catalog, tmp_path, ()), tunings)
        with servicer._search_admission.enter(None):  # the one thread is taken
            with pytest.raises(ResourceExhausted, match="with 1 searching already"):
                await servicer.Search(asked(), caller)
            assert await servicer.Search(asked(exact=True), caller)
            assert await servicer.Search(asked(), patient)
        assert await servicer.Search(asked(), caller)
