"""A token for one collection learns nothing of another: not its ids, scores or size, nor whether it exists."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from eyebright.index.v1 import collection_pb2, filter_pb2, index_service_pb2, record_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from tests.integration.index_service import calls
from tests.processes import RunningService, running_service
from tests.security.bearers import authorization, bearer, write_tokens
from tests.security.raw_http2 import connected, message

METHODS = index_service_pb2.DESCRIPTOR.services_by_name["IndexService"].methods
MINE, THEIRS, ABSENT = "mine", "theirs", "absent"
SECRET_ID = "their-only-record"
GRANTS = {"root": "admin *", "tenant": "admin mine,mine-*", "guest": "read mine", "clerk": "write mine"}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """An index service with two collections of a record each."""
    folder = tmp_path_factory.mktemp("tenants")
    tokens = write_tokens(folder / "tokens", GRANTS)
    arguments = ("--data-folder", str(folder / "data"), "--snapshot-urls", str(folder / "snapshots"))
    with running_service("index_service", folder, *arguments, "--token-file", str(tokens)) as service:
        with caller(service, "root") as stub:
            for name, own in ((MINE, "my-record"), (THEIRS, SECRET_ID)):
                calls.create(stub, name)
                assert calls.upsert(stub, name, [own], calls.random_vectors(1)) == [0]
        yield service


class _WithToken(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    """Adds a token to every call."""

    def __init__(self, who: str) -> None:
        self._metadata = authorization(who)

    def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=[*(details.metadata or ()), *self._metadata]), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _intercept  # type: ignore[assignment]


@contextmanager
def caller(service: RunningService, who: str) -> Iterator[IndexServiceStub]:
    with grpc.insecure_channel(service.address) as channel:
        yield IndexServiceStub(grpc.intercept_channel(channel, _WithToken(who)))  # type: ignore[no-untyped-call]


def ask(stub: IndexServiceStub, method: MethodDescriptor, collection: str) -> tuple[grpc.StatusCode, str]:
    """(code, details) of a call that names a collection and says nothing else."""
    request: Any = GetMessageClass(method.input_type)()
    holder = request.upsert if method.name == "UpsertStream" else request
    setattr(holder, "collection" if hasattr(holder, "collection") else "name", collection)
    try:
        answer = getattr(stub, method.name)(iter([request]) if method.client_streaming else request, timeout=30)
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("who", ["tenant", "guest", "clerk"])
@pytest.mark.parametrize(
    "method", [method for method in METHODS if method.name != "ListCollections"], ids=lambda m: m.name
)
def test_what_is_not_mine_might_as_well_not_exist(index: RunningService, method: MethodDescriptor, who: str) -> None:
    with caller(index, who) as stub:
        theirs, absent = ask(stub, method, THEIRS), ask(stub, method, ABSENT)
    assert theirs[0] is grpc.StatusCode.PERMISSION_DENIED
    assert (theirs[0], theirs[1].replace(THEIRS, ABSENT)) == absent
    assert SECRET_ID not in theirs[1]


def test_the_list_has_those_of_the_token_alone(index: RunningService) -> None:
    for who, names in (("root", [MINE, THEIRS]), ("tenant", [MINE]), ("guest", [MINE])):
        with caller(index, who) as stub:
            listed = stub.ListCollections(collection_pb2.ListCollectionsRequest()).collections
        assert [collection.name for collection in listed] == names


def test_no_answer_about_mine_tells_of_theirs(index: RunningService) -> None:
    vectors = calls.random_vectors(1)
    with caller(index, "tenant") as stub:
        answers = [
            calls.search(stub, MINE, vectors, exact=True),
            calls.get(stub, MINE, [SECRET_ID, "my-record"]),
            stub.ListRecords(record_pb2.ListRecordsRequest(collection=MINE)),
            stub.GetStats(collection_pb2.GetStatsRequest(collection=MINE)),
            stub.Delete(record_pb2.DeleteRequest(collection=MINE, ids=[SECRET_ID])),
        ]
        like_theirs = calls.search(stub, MINE, [SECRET_ID])
    assert like_theirs.results[0].status.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert not like_theirs.results[0].ids
    assert list(answers[0].results[0].ids) == ["my-record"]
    assert THEIRS not in str(answers)
    assert answers[3].record_count == 1
    assert answers[4].deleted_count == 0
    with caller(index, "root") as stub:
        assert stub.GetStats(collection_pb2.GetStatsRequest(collection=THEIRS)).record_count == 1


def test_scopes_within_a_collection(index: RunningService) -> None:
    with caller(index, "guest") as stub:
        assert calls.search(stub, MINE, calls.random_vectors(1)).results
        for request in (calls.upsert_request(MINE, ["x"], calls.random_vectors(1)),):
            with pytest.raises(grpc.RpcError, match="expected a token of scope write, not 'guest' of scope read"):
                stub.Upsert(request)
    with caller(index, "clerk") as stub:
        assert calls.upsert(stub, MINE, ["from-clerk"], calls.random_vectors(1)) == [0]
        with pytest.raises(grpc.RpcError, match="expected a token of scope admin, not 'clerk' of scope write"):
            stub.DeleteCollection(collection_pb2.DeleteCollectionRequest(name=MINE))
    with caller(index, "tenant") as stub:
        created = calls.create(stub, "mine-too").name
        stub.DeleteCollection(collection_pb2.DeleteCollectionRequest(name=created))


def test_administration_is_in_the_log_by_the_name_of_the_token(index: RunningService) -> None:
    nothing = filter_pb2.Filter(exists=filter_pb2.Exists(field=filter_pb2.FilterField(caption={})))
    with caller(index, "clerk") as stub:
        stub.Delete(record_pb2.DeleteRequest(collection=MINE, ids=["nobody"]))
        stub.Delete(record_pb2.DeleteRequest(collection=MINE, filter=nothing))
    with caller(index, "tenant") as stub:
        calls.create(stub, "mine-logged")
        stub.DeleteCollection(collection_pb2.DeleteCollectionRequest(name="mine-logged"))
        with pytest.raises(grpc.RpcError):
            stub.DeleteCollection(collection_pb2.DeleteCollectionRequest(name=THEIRS))
    lines = [json.loads(line) for line in index.log.read_text("utf-8").splitlines()]
    audit = [
        (line["token"], line["method"], line["collection"], line["allowed"])
        for line in lines
        if line["logger"] == "eyebright.audit"
    ]
    assert audit[-4:] == [
        ("clerk", "Delete", MINE, True),
        ("tenant", "CreateCollection", "mine-logged", True),
        ("tenant", "DeleteCollection", "mine-logged", True),
        ("tenant", "DeleteCollection", THEIRS, False),
    ]


def test_a_token_with_a_slip_in_it_is_not_in_the_log(index: RunningService) -> None:
    """grpc would write down any header that is no UTF-8."""
    slip = bearer("root").encode() + b"\xff"
    with connected(index.address) as connection:
        extra = [(b"authorization", b"Bearer " + slip), (b"x-request-id", b"slip")]
        ended = connection.end_of(
            connection.call("/eyebright.index.v1.IndexService/ListCollections", message(b""), extra, end=True)
        )
    assert b"the token of this call is none that this server takes" in ended
    while '"request_id": "slip"' not in (written := index.log.read_text("utf-8")):
        time.sleep(0.01)  # the line comes after the answer
    assert bearer("root") not in written


def test_a_snapshot_can_not_be_restored_under_another_name_by_who_may_not_read_it(
    index: RunningService, tmp_path: Path
) -> None:
    with caller(index, "tenant") as stub:
        for name in ("CreateSnapshot", "RestoreSnapshot"):
            method = next(own for own in METHODS if own.name == name)
            assert ask(stub, method, MINE) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "expected a token for every collection, not 'tenant'",
            )
