"""Filters over the wire: exact filtered search is matched at every selectivity, and what is refused says why."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from eyebright.index.v1 import collection_pb2, filter_pb2, record_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import encode_vectors
from google.protobuf import text_format

from tests.integration.index_service.calls import FINGERPRINT, connected, create, get, random_vectors, search, upsert
from tests.integration.index_service.test_segments import wait_for
from tests.processes import running_service

NAME = "filtered"
DIMENSION = 32
ROWS = 24_000
K = 3
"""So few that codes are asked for the candidates, as in a collection of millions for many more."""


def comparison(key: str, operator: str, value: str | int) -> filter_pb2.Filter:
    kind = "string_value" if isinstance(value, str) else "integer_value"
    return filter_pb2.Filter(
        comparison=filter_pb2.Comparison(
            field=filter_pb2.FilterField(metadata=filter_pb2.MetadataPlace(keys=[key])),
            operator=f"COMPARISON_OPERATOR_{operator}",
            value=filter_pb2.FilterValue(**{kind: value}),  # type: ignore[arg-type]
        )
    )


def written_text(text: str) -> filter_pb2.Filter:
    return text_format.Parse(text, filter_pb2.Filter())


def metadata_of(row: int) -> dict[str, Any]:
    return {"half": row % 2, "tenth": f"t{row % 10}", "n": row, "tags": [row % 3, row % 7]} if row % 50 else {}


class Truth:
    """What the collection holds, by plain numpy."""

    def __init__(self) -> None:
        self.vectors = random_vectors(ROWS, DIMENSION, seed=3)
        self.metadata: list[dict[str, Any] | None] = [metadata_of(row) for row in range(ROWS)]
        """None once a record is deleted."""

    def write(self, stub: IndexServiceStub, rows: range) -> None:
        for begin in range(rows.start, rows.stop, 4_000):
            piece = range(begin, min(begin + 4_000, rows.stop))
            records = [
                record_pb2.Record(id=f"{row:05d}", metadata_json=json.dumps(self.metadata[row]).encode())
                for row in piece
            ]
            vectors = encode_vectors(self.vectors[piece.start : piece.stop], FINGERPRINT)
            request = record_pb2.UpsertRequest(collection=NAME, records=records, vectors=vectors)
            assert not any(status.code for status in stub.Upsert(request).statuses)

    def update(self, stub: IndexServiceStub, rows: range, metadata: dict[str, Any]) -> None:
        data = json.dumps(metadata).encode()
        updates = [record_pb2.RecordUpdate(id=f"{row:05d}", metadata_json=data) for row in rows]
        stub.UpdateRecords(record_pb2.UpdateRecordsRequest(collection=NAME, updates=updates))
        for row in rows:
            self.metadata[row] = metadata

    def delete(self, stub: IndexServiceStub, rows: range) -> None:
        stub.Delete(record_pb2.DeleteRequest(collection=NAME, ids=[f"{row:05d}" for row in rows]))
        for row in rows:
            self.metadata[row] = None

    def matching(self, holds: Callable[[dict[str, Any]], bool]) -> np.ndarray:
        return np.array([row for row, own in enumerate(self.metadata) if own is not None and holds(own)], dtype=int)

    def nearest(self, query: np.ndarray, rows: np.ndarray, k: int) -> list[str]:
        unit = self.vectors[rows] / np.linalg.norm(self.vectors[rows], axis=1, keepdims=True)
        return [f"{row:05d}" for row in rows[np.argsort(-(unit @ query))[:k]]]


CASES: list[tuple[filter_pb2.Filter, Callable[[dict[str, Any]], bool]]] = [
    (comparison("half", "EQUAL", 1), lambda own: own.get("half") == 1),
    (comparison("tenth", "EQUAL", "t3"), lambda own: own.get("tenth") == "t3"),
    (comparison("n", "LESS", 240), lambda own: own.get("n", ROWS) < 240),
    (comparison("n", "GREATER_OR_EQUAL", ROWS - 5), lambda own: own.get("n", 0) >= ROWS - 5),
    (comparison("tags", "EQUAL", 5), lambda own: 5 in own.get("tags", [])),
    (filter_pb2.Filter(negation=comparison("half", "NOT_EQUAL", 0)), lambda own: own.get("half", 0) == 0),
    (comparison("tenth", "EQUAL", "none such"), lambda _: False),
]


def check(stub: IndexServiceStub, truth: Truth) -> None:
    """Hits of every selectivity against exact filtered search: as many, and at the recall that is promised."""
    queries = random_vectors(12, DIMENSION, seed=4)
    held = wanted = 0
    for where, holds in CASES:
        rows = truth.matching(holds)
        for k, exact in ((K, False), (K, True), (ROWS, False)):
            asked = queries if k == K else queries[:2]
            results = search(stub, NAME, asked, k=k, filter=where, exact=exact).results
            for query, result in zip(asked, results, strict=True):
                assert len(result.ids) == min(k, len(rows))
                right, found = truth.nearest(query, rows, k), set(result.ids)
                assert found <= {f"{row:05d}" for row in rows}
                if k == K:
                    held, wanted = held + len(found & set(right)), wanted + len(right)
    assert held >= 0.99 * wanted


def wait_for_recall(stub: IndexServiceStub) -> None:
    """Filtered answers by codes are probed, by exact answers under the same filter: others would share few hits."""
    deadline = time.monotonic() + 60
    while True:
        recall = stub.GetStats(collection_pb2.GetStatsRequest(collection=NAME)).recall
        if sum(estimate.sample_count for estimate in recall) >= 20:
            assert all(estimate.mean > 0.98 for estimate in recall), recall
            return
        assert time.monotonic() < deadline, recall
        time.sleep(0.02)


def test_filtered_answers_are_those_of_exact_filtered_search(tmp_path: Path) -> None:
    truth = Truth()
    arguments = ("--data-folder", str(tmp_path / "data"), "--seal-rows", "2048", "--index-from-rows", "5000")
    probing = ("--recall-probe-share", "1", "--recall-probe-cpu-share", "1")
    with (
        running_service("index_service", tmp_path, *arguments, *probing) as service,
        connected(service.address) as stub,
    ):
        create(stub, NAME, DIMENSION, shard_count=2)
        truth.write(stub, range(ROWS))
        check(stub, truth)  # while it is sealed and merged
        truth.update(stub, range(0, 3_000), {"half": 1, "tags": []})
        truth.delete(stub, range(1_000, 7_000))
        truth.write(stub, range(20_000, 21_000))
        check(stub, truth)
        wait_for(stub, NAME, lambda shard: shard.segment_count == 1 and shard.memtable_rows < 512)
        truth.update(stub, range(10_000, 10_100), {"n": 7})
        check(stub, truth)
        [query] = random_vectors(1, DIMENSION, seed=5)
        answer = search(stub, NAME, query[None], k=K, filter=CASES[0][0])
        assert answer.evidence.recipe == "fastscan"
        wait_for_recall(stub)
        deleted = stub.Delete(record_pb2.DeleteRequest(collection=NAME, filter=CASES[0][0]))
        assert (deleted.deleted_count, len(deleted.statuses)) == (len(truth.matching(CASES[0][1])), 0)
        for row in truth.matching(CASES[0][1]):
            truth.metadata[row] = None
        assert stub.Delete(record_pb2.DeleteRequest(collection=NAME, filter=CASES[0][0])).deleted_count == 0
        check(stub, truth)
    with running_service("index_service", tmp_path, *arguments) as service, connected(service.address) as stub:
        stats = stub.GetStats(collection_pb2.GetStatsRequest(collection=NAME))
        assert stats.record_count == len(truth.matching(lambda _: True))
        check(stub, truth)


LESS = "field { caption { } } operator: COMPARISON_OPERATOR_LESS"
DEEP = comparison("a", "EQUAL", 1)
for _ in range(30):
    DEEP = filter_pb2.Filter(negation=DEEP)
WIDE = filter_pb2.Filter(any_of=filter_pb2.FilterList(filters=[comparison("a", "EQUAL", 1)] * 256))
FIELDS = filter_pb2.Filter(
    any_of=filter_pb2.FilterList(filters=[comparison(str(number), "EQUAL", 1) for number in range(65)])
)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (filter_pb2.Filter(), "filter: expected a condition, not none"),
        (written_text("any_of { }"), "filter.any_of.filters: expected 1 or more, not 0"),
        (
            written_text("all_of { filters { negation { } } }"),
            r"filter.all_of.filters\[0\].negation: expected a condition",
        ),
        (DEEP, "filter: expected at most 16 levels, not 17 or more"),
        (WIDE, "filter: expected at most 256 conditions and joins, not 257 or more"),
        (FIELDS, "filter: expected conditions on at most 64 fields, not 65"),
        (written_text("exists { }"), "filter.exists.field: expected metadata or caption, not neither"),
        (
            written_text("exists { field { metadata { } } }"),
            "filter.exists.field.metadata.keys: expected 1 to 32, not 0",
        ),
        (
            filter_pb2.Filter(
                is_null=filter_pb2.IsNull(
                    field=filter_pb2.FilterField(metadata=filter_pb2.MetadataPlace(keys=["a"] * 33))
                )
            ),
            "filter.is_null.field.metadata.keys: expected 1 to 32, not 33",
        ),
        (
            written_text("comparison { field { caption { } } value { string_value: 'a' } }"),
            "filter.comparison.operator: expected one of COMPARISON_OPERATOR_EQUAL, .*, not 0",
        ),
        (
            written_text("comparison { field { caption { } } operator: COMPARISON_OPERATOR_EQUAL }"),
            "filter.comparison.value: expected a value, not none",
        ),
        (
            written_text(f"comparison {{ {LESS} value {{ bool_value: true }} }}"),
            "filter.comparison.operator: expected EQUAL or NOT_EQUAL for a boolean, not COMPARISON_OPERATOR_LESS",
        ),
        (
            written_text(f"comparison {{ {LESS} value {{ double_value: nan }} }}"),
            "filter.comparison.value.double_value: expected a number, not NaN",
        ),
        (
            filter_pb2.Filter(
                is_in=filter_pb2.IsIn(
                    field=filter_pb2.FilterField(caption=filter_pb2.CaptionPlace()),
                    values=[filter_pb2.FilterValue(integer_value=1)] * 10_001,
                )
            ),
            "filter.is_in.values: expected 0 to 10,000, not 10,001",
        ),
        (
            comparison("a", "EQUAL", "x" * 1024 * 1024),
            "filter: expected at most 1,048,576 bytes, not 1,048,5",
        ),
    ],
)
def test_filters_past_a_limit_are_refused(
    stub: IndexServiceStub, name: str, where: filter_pb2.Filter, message: str
) -> None:
    for call in (
        lambda: search(stub, name, random_vectors(1), filter=where),
        lambda: stub.Delete(record_pb2.DeleteRequest(collection=name, filter=where)),
    ):
        with pytest.raises(grpc.RpcError, match=message) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_ids_and_a_filter_are_refused_together(stub: IndexServiceStub, name: str) -> None:
    upsert(stub, name, ["a"], random_vectors(1))
    with pytest.raises(grpc.RpcError, match="expected ids or a filter, not both: 1 ids and one"):
        stub.Delete(record_pb2.DeleteRequest(collection=name, ids=["a"], filter=comparison("a", "EQUAL", 1)))
    assert not any(status.code for status in get(stub, name, ["a"]).statuses)


def test_a_deadline_ends_a_delete_and_repeating_it_finishes(stub: IndexServiceStub, name: str) -> None:
    count = 9_000
    for begin in range(0, count, 3_000):
        ids = [str(number) for number in range(begin, begin + 3_000)]
        assert not any(upsert(stub, name, ids, random_vectors(3_000)))
    everything = filter_pb2.Filter(negation=comparison("a", "EQUAL", 1))
    request = record_pb2.DeleteRequest(collection=name, filter=everything)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Delete(request, timeout=0.03)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    stub.Delete(request)
    assert stub.GetStats(collection_pb2.GetStatsRequest(collection=name)).record_count == 0
