"""Every call of IndexService against a real server."""

import grpc
import numpy as np
import pytest
from eyebright.index.v1 import collection_pb2, record_pb2, search_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import FLOAT16, decode_vectors, encode_vectors

from tests.integration.index_service.calls import (
    DIMENSION,
    EVERYTHING,
    FINGERPRINT,
    create,
    get,
    random_vectors,
    search,
    search_request,
    upsert,
    upsert_request,
    vectors_of,
)


def stats(stub: IndexServiceStub, name: str) -> collection_pb2.GetStatsResponse:
    response: collection_pb2.GetStatsResponse = stub.GetStats(collection_pb2.GetStatsRequest(collection=name))
    return response


def test_a_collection_is_created_described_listed_and_deleted(stub: IndexServiceStub) -> None:
    made = stub.CreateCollection(
        collection_pb2.CreateCollectionRequest(name="described", dimension=5, fingerprint=FINGERPRINT)
    ).collection
    assert (made.name, made.dimension, made.fingerprint) == ("described", 5, FINGERPRINT)
    assert made.metric == collection_pb2.METRIC_COSINE
    assert made.shard_count == 4
    assert made.create_time.ToSeconds() > 1_700_000_000
    assert stub.GetCollection(collection_pb2.GetCollectionRequest(name="described")).collection == made
    listed = stub.ListCollections(collection_pb2.ListCollectionsRequest()).collections
    assert made in listed
    assert [one.name for one in listed] == sorted(one.name for one in listed)
    stub.DeleteCollection(collection_pb2.DeleteCollectionRequest(name="described"))
    assert made not in stub.ListCollections(collection_pb2.ListCollectionsRequest()).collections


def test_records_are_written_read_and_found_at_once(stub: IndexServiceStub, name: str) -> None:
    vectors = random_vectors(100)
    ids = [f"img/{number:03d}.png" for number in range(100)]
    assert upsert(stub, name, ids, vectors) == [0] * 100
    response = search(stub, name, vectors[:3], k=5)
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    for result, query in zip(response.results, unit[:3], strict=True):
        expected = np.argsort(-(unit @ query))[:5]
        assert list(result.ids) == [ids[row] for row in expected]
        np.testing.assert_allclose(result.scores, (unit @ query)[expected], atol=1e-3)
        assert result.status.code == 0
    read = get(stub, name, [ids[7], "nobody"])
    assert [status.code for status in read.statuses] == [0, grpc.StatusCode.NOT_FOUND.value[0]]
    assert [record.id for record in read.records] == [ids[7], "nobody"]
    assert (vectors_of(read)[0] == unit[7]).all()
    assert not vectors_of(read)[1].any()
    assert read.vectors.element_type == FLOAT16
    assert read.vectors.fingerprint == FINGERPRINT


def test_every_part_of_a_record_comes_back_when_asked_for(stub: IndexServiceStub, name: str) -> None:
    whole = record_pb2.Record(
        id="käfer\x00",
        caption="ein Käfer 🐞",
        source_uri="s3://b/k.png",
        metadata_json=b'{"n":9007199254740993, "x":[1]}',
    )
    bare = record_pb2.Record(id="bare")
    vectors = encode_vectors(random_vectors(2), FINGERPRINT, FLOAT16)
    stub.Upsert(record_pb2.UpsertRequest(collection=name, records=[whole, bare], vectors=vectors))
    assert list(get(stub, name, [whole.id, "bare"]).records) == [whole, bare]
    only_caption = record_pb2.GetRecordsRequest(
        collection=name, ids=[whole.id], include=record_pb2.Include(caption=True)
    )
    response = stub.GetRecords(only_caption)
    assert list(response.records) == [record_pb2.Record(id=whole.id, caption=whole.caption)]
    assert not response.HasField("vectors")
    [result] = search(stub, name, [whole.id], k=5, include=EVERYTHING).results
    assert list(result.records) == [bare]
    assert decode_vectors(result.vectors).tolist() == vectors_of(get(stub, name, ["bare"])).tolist()
    [result] = search(stub, name, ["bare"], k=5).results
    assert list(result.ids) == [whole.id]
    assert not result.records
    assert not result.HasField("vectors")


def test_updates_change_the_text_and_leave_the_vector(stub: IndexServiceStub, name: str) -> None:
    stub.Upsert(upsert_request(name, ["a", "b"], random_vectors(2), caption="old"))
    before = vectors_of(get(stub, name, ["a"]))
    request = record_pb2.UpdateRecordsRequest(
        collection=name,
        updates=[
            record_pb2.RecordUpdate(id="a", caption="new", metadata_json=b'{"k":1}'),
            record_pb2.RecordUpdate(id="nobody", caption="x"),
            record_pb2.RecordUpdate(id="b", caption=""),
            record_pb2.RecordUpdate(id="a", caption="again"),
        ],
    )
    codes = [status.code for status in stub.UpdateRecords(request).statuses]
    assert codes == [0, grpc.StatusCode.NOT_FOUND.value[0], 0, grpc.StatusCode.INVALID_ARGUMENT.value[0]]
    read = get(stub, name, ["a", "b"])
    assert list(read.records) == [
        record_pb2.Record(id="a", caption="new", metadata_json=b'{"k":1}'),
        record_pb2.Record(id="b"),
    ]
    assert (vectors_of(read)[:1] == before).all()


def test_deleted_records_are_gone_from_everything(stub: IndexServiceStub, name: str) -> None:
    vectors = random_vectors(20)
    ids = [f"{number:02d}" for number in range(20)]
    upsert(stub, name, ids, vectors)
    request = record_pb2.DeleteRequest(collection=name, ids=["03", "nobody", "", "03", "04"])
    response = stub.Delete(request)
    assert [status.code for status in response.statuses] == [0, 0, grpc.StatusCode.INVALID_ARGUMENT.value[0], 0, 0]
    assert response.deleted_count == 2
    assert stub.Delete(request).deleted_count == 0
    [result] = search(stub, name, vectors[3:4], k=100).results
    assert set(result.ids) == set(ids) - {"03", "04"}
    assert get(stub, name, ["03"]).statuses[0].code == grpc.StatusCode.NOT_FOUND.value[0]
    counted = stats(stub, name)
    assert counted.record_count == 18
    assert sum(shard.tombstone_count for shard in counted.shards) == 2
    assert sum(shard.vector_bytes for shard in counted.shards) == 20 * DIMENSION * 2


def test_stats_tell_where_the_records_lie(stub: IndexServiceStub, name: str) -> None:
    upsert(stub, name, [f"{number}" for number in range(50)], random_vectors(50))
    counted = stats(stub, name)
    assert counted.collection.name == name
    assert counted.record_count == sum(shard.record_count for shard in counted.shards) == 50
    assert len(counted.shards) == 3
    assert all(shard.disk_bytes > 10_000 and shard.applied_sequence == 1 for shard in counted.shards)


def test_pages_list_every_record_once_in_the_order_of_id_bytes(stub: IndexServiceStub, name: str) -> None:
    ids = [f"{prefix}{number}" for prefix in ("a", "é", "🐞", "Z") for number in range(60)]
    upsert(stub, name, ids, random_vectors(len(ids)))
    seen: list[str] = []
    token, pages = "", 0
    while True:
        request = record_pb2.ListRecordsRequest(
            collection=name, page_size=37, page_token=token, include=record_pb2.Include(vector=True)
        )
        page = stub.ListRecords(request)
        assert page.vectors.count == len(page.records)
        seen += [record.id for record in page.records]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert seen == sorted(ids, key=str.encode)
    assert pages == 7
    assert len(stub.ListRecords(record_pb2.ListRecordsRequest(collection=name)).records) == 100


def test_large_records_make_short_pages_but_no_error(stub: IndexServiceStub, name: str) -> None:
    metadata = b'{"x":"' + b"y" * 60_000 + b'"}'
    for begin in range(0, 700, 350):
        ids = [f"{number:04d}" for number in range(begin, begin + 350)]
        rows = [record_pb2.Record(id=own, caption="c" * 30_000, metadata_json=metadata) for own in ids]
        vectors = encode_vectors(random_vectors(350), FINGERPRINT)
        stub.Upsert(record_pb2.UpsertRequest(collection=name, records=rows, vectors=vectors))
    request = record_pb2.ListRecordsRequest(collection=name, page_size=1_000, include=EVERYTHING)
    page = stub.ListRecords(request)
    assert 100 < len(page.records) < 700
    request.page_token = page.next_page_token
    assert stub.ListRecords(request).records[0].id == f"{len(page.records):04d}"
    with pytest.raises(grpc.RpcError) as raised:
        get(stub, name, [f"{number % 700:04d}" for number in range(1_000)])
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "67,108,864" in str(raised.value.details())


@pytest.mark.parametrize("metric", [collection_pb2.METRIC_INNER_PRODUCT, collection_pb2.METRIC_L2])
def test_the_other_metrics_score_as_the_contract_says(stub: IndexServiceStub, metric: collection_pb2.Metric) -> None:
    name = f"metric-{metric}"
    create(stub, name, dimension=2, metric=metric)
    upsert(stub, name, ["a", "b", "c"], np.array([[1, 0], [0, 2], [3, 4]], np.float32))
    [result] = search(stub, name, np.array([[1, 1]], np.float32), k=3).results
    expected = {
        collection_pb2.METRIC_INNER_PRODUCT: (["c", "b", "a"], [7, 2, 1]),
        collection_pb2.METRIC_L2: (["a", "b", "c"], [-1, -2, -13]),
    }
    assert (list(result.ids), list(result.scores)) == expected[metric]


def test_a_search_states_its_evidence(stub: IndexServiceStub, name: str) -> None:
    upsert(stub, name, [f"{number}" for number in range(50)], random_vectors(50))
    evidence = search(stub, name, random_vectors(4, seed=9), modality=search_pb2.MODALITY_TEXT).evidence
    assert evidence.exact
    assert evidence.recipe == "exact"
    assert (evidence.shards_asked, evidence.shards_answered) == (3, 3)
    assert evidence.rows_scanned == 50
    assert evidence.estimated_recall == 1.0
    assert evidence.shard_search_seconds > 0
    assert evidence.merge_seconds > 0


def test_a_hundred_thousand_hits_come_back_whole_and_in_order(stub: IndexServiceStub) -> None:
    create(stub, "large", dimension=4, shard_count=4)
    vectors = random_vectors(100_500, 4)
    ids = [f"{number:06d}" for number in range(100_500)]
    for begin in range(0, 100_500, 10_000):
        assert not any(upsert(stub, "large", ids[begin : begin + 10_000], vectors[begin : begin + 10_000]))
    [result] = search(stub, "large", vectors[:1], k=100_000).results
    scores = np.array(result.scores)
    assert len(set(result.ids)) == len(result.ids) == len(scores) == 100_000
    assert (scores[1:] <= scores[:-1]).all()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.array([int(own) for own in result.ids])
    np.testing.assert_allclose(scores, unit[rows] @ unit[0], atol=2e-3)
    assert scores[-1] >= np.sort(unit @ unit[0])[500] - 2e-3
    # A seal in between may change the last bits of such scores, and with them who of two neighbours comes first.
    score_of = dict(zip(result.ids, result.scores, strict=True))
    for answer in search(stub, "large", np.repeat(vectors[:1], 3, axis=0), k=100_000).results:
        np.testing.assert_allclose(answer.scores, scores, atol=1e-6)
        assert len(score_of.keys() & set(answer.ids)) >= 99_990
        again = [score_of.get(own, own_score) for own, own_score in zip(answer.ids, answer.scores, strict=True)]
        np.testing.assert_allclose(answer.scores, again, atol=1e-6)
    [page] = stub.Search(search_request("large", vectors[:1], k=2, offset=99_998)).results
    np.testing.assert_allclose(page.scores, scores[-2:], atol=1e-6)
    stub.DeleteCollection(collection_pb2.DeleteCollectionRequest(name="large"))


def test_min_score_leaves_out_what_scores_less(stub: IndexServiceStub, name: str) -> None:
    vectors = random_vectors(200)
    upsert(stub, name, [f"{number}" for number in range(200)], vectors)
    [everything] = search(stub, name, vectors[:1], k=200).results
    [best] = search(stub, name, vectors[:1], k=200, min_score=0.5).results
    assert list(best.ids) == [own for own, score in zip(everything.ids, everything.scores, strict=True) if score >= 0.5]
    assert 0 < len(best.ids) < 200
