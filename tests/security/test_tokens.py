"""Tokens of a hosted service: scopes, collections, revocation, and what is logged of them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from service_runtime import reloading
from service_runtime.server import Server
from service_runtime.settings import ServiceSettings
from tests.integration.service_runtime_host import EchoHost
from tests.security.authority import Authority
from tests.security.bearers import authorization, bearer, write_tokens

DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
GRANTS = {
    "reader": "read *",
    "writer": "write photos,drafts-*",
    "owner": "admin photos",
    "root": "admin *",
}


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "_LOOK_SECONDS", 0.02)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "tokens", GRANTS)


@asynccontextmanager
async def connected(**settings: Any) -> AsyncIterator[aio.Channel]:
    async with (
        Server(EchoHost(), ServiceSettings(drain_seconds=0, **settings), CollectorRegistry()) as server,
        aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel,
    ):
        yield channel


@pytest.fixture
async def channel(file: Path) -> AsyncIterator[aio.Channel]:
    async with connected(token_file=file) as opened:
        yield opened


async def outcome(channel: aio.Channel, method: str, request: bytes, who: str | None) -> tuple[grpc.StatusCode, str]:
    """(code, details) of a call."""
    call: Any = channel.unary_unary(f"/test.Echo/{method}")
    try:
        await call(request, metadata=() if who is None else authorization(who), timeout=10)
    except aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def code(channel: aio.Channel, method: str, request: bytes, who: str | None) -> grpc.StatusCode:
    return (await outcome(channel, method, request, who))[0]


@pytest.mark.parametrize(
    ("method", "request_", "allowed"),
    [
        ("Echo", b"photos", {"reader", "writer", "owner", "root"}),
        ("Echo", b"drafts-1", {"reader", "writer", "root"}),
        ("Echo", b"others", {"reader", "root"}),
        ("Echo", b"", {"reader", "root"}),
        ("Break", b"", {"owner", "root"}),
        ("Everything", b"photos", {"root"}),
        ("Undeclared", b"", set()),
    ],
)
async def test_scope_and_collections(channel: aio.Channel, method: str, request_: bytes, allowed: set[str]) -> None:
    let_in = {who for who in GRANTS if await code(channel, method, request_, who) is not DENIED}
    assert let_in == allowed
    for nobody in (None, "stranger"):
        assert await code(channel, method, request_, nobody) is UNKNOWN


async def test_refusals_name_the_token_and_what_it_lacks(channel: aio.Channel) -> None:
    for method, request, who, says in (
        ("Break", b"", "reader", "expected a token of scope admin, not 'reader' of scope read"),
        ("Echo", b"others", "writer", "the token 'writer' does not reach a collection 'others'"),
        ("Everything", b"photos", "owner", "expected a token for every collection, not 'owner'"),
        ("Undeclared", b"", "root", "no token allows this method"),
    ):
        assert await outcome(channel, method, request, who) == (DENIED, says)


async def test_each_message_of_a_stream_is_checked(channel: aio.Channel) -> None:
    method: Any = channel.stream_stream("/test.Echo/EchoStream")
    call = method(iter([b"photos", b"drafts-1", b"others", b"photos"]), metadata=authorization("writer"))
    answers = []
    with pytest.raises(aio.AioRpcError, match="does not reach a collection 'others'") as caught:
        async for answer in call:
            answers.append(answer)  # noqa: PERF401
    assert answers == [b"photos", b"drafts-1"]
    assert caught.value.code() is DENIED
    assert "x-request-id" in dict(await call.trailing_metadata())


async def test_health_needs_no_token_and_reflection_does(channel: aio.Channel) -> None:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def services(metadata: Any) -> set[str]:
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        return {
            service.name
            async for answer in reflection.ServerReflectionInfo(asked, metadata=metadata)
            for service in answer.list_services_response.service
        }

    assert "test.Echo" in await services(authorization("owner"))
    with pytest.raises(aio.AioRpcError) as caught:
        await services(())
    assert caught.value.code() is UNKNOWN


async def test_a_token_counts_no_more_once_it_is_out_of_the_file(channel: aio.Channel, file: Path) -> None:
    method: Any = channel.stream_stream("/test.Echo/EchoStream")
    stream = method(metadata=authorization("writer"))
    await stream.write(b"photos")
    assert await stream.read() == b"photos"
    write_tokens(file, {"newcomer": "read *", "root": "admin *"})
    while await code(channel, "Echo", b"photos", "newcomer") is UNKNOWN:
        await asyncio.sleep(0.01)
    assert await code(channel, "Echo", b"photos", "writer") is UNKNOWN
    with pytest.raises(aio.AioRpcError) as caught:  # nor for a stream that was let in before
        await stream.write(b"photos")
        await stream.read()
        await stream.read()
    assert caught.value.code() is UNKNOWN


async def test_a_file_that_can_not_be_used_changes_nothing(
    channel: aio.Channel, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "eyebright.reloading"):
        file.write_text("half a line")
        while "changed files can't be used; what was read before goes on" not in caplog.messages:
            assert await code(channel, "Echo", b"photos", "reader") is grpc.StatusCode.OK
    assert await code(channel, "Echo", b"photos", None) is UNKNOWN


async def test_a_file_that_can_not_be_used_at_the_start_is_an_error(file: Path) -> None:
    file.write_text("s3cret\n")
    with pytest.raises(OSError, match="line 1: expected NAME SCOPE COLLECTIONS HASH"):
        async with connected(token_file=file):
            pass


async def test_without_tokens_everything_is_allowed() -> None:
    async with connected() as channel:
        for method in ("Echo", "Everything", "Undeclared"):
            assert await code(channel, method, b"x", None) is grpc.StatusCode.OK


async def test_what_administrators_do_is_logged_with_the_name_of_their_token(
    channel: aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await outcome(channel, "Everything", b"photos", "root")
        await outcome(channel, "Everything", b"photos", "owner")
        await outcome(channel, "Break", b"", "reader")
        await outcome(channel, "Echo", b"photos", "reader")
    audit = [vars(record) for record in caplog.records if record.name == "eyebright.audit"]
    told = [{key: line.get(key) for key in ("method", "token", "collection", "allowed")} for line in audit]
    assert told == [
        {"method": "Everything", "token": "root", "collection": "photos", "allowed": True},
        {"method": "Everything", "token": "owner", "collection": "photos", "allowed": False},
    ]
    calls = [vars(record) for record in caplog.records if record.message == "call"]
    assert [(line["token"], line["code"]) for line in calls] == [
        ("root", "OK"),
        ("owner", "PERMISSION_DENIED"),
        ("reader", "PERMISSION_DENIED"),
        ("reader", "OK"),
    ]
    assert [line["request_id"] for line in audit] == [line["request_id"] for line in calls[:2]]
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in audit)


async def test_the_log_names_the_certificate_of_an_administrator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    own, theirs = authority.issue("server"), authority.issue("alice")
    settings = ServiceSettings(
        tls_certificate=own.certificate, tls_key=own.key, tls_client_ca=authority.certificate, drain_seconds=0
    )
    credentials = grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(), theirs.key.read_bytes(), theirs.certificate.read_bytes()
    )
    with caplog.at_level(logging.INFO, "eyebright.audit"):
        async with (
            Server(EchoHost(), settings, CollectorRegistry()) as server,
            aio.secure_channel(f"localhost:{server.ports.grpc}", credentials) as channel,
        ):
            assert await code(channel, "Everything", b"photos", None) is grpc.StatusCode.OK
    [line] = [vars(record) for record in caplog.records if record.name == "eyebright.audit"]
    assert (line["certificate"], line["token"]) == ("alice", "")


async def test_no_log_line_holds_a_token_or_a_hash(
    channel: aio.Channel, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        for who in (*GRANTS, "stranger"):
            for method in ("Echo", "Everything", "Break", "Undeclared"):
                await outcome(channel, method, b"photos", who)
        file.write_text(file.read_text() + bearer("stranger"))
        while "changed files can't be used; what was read before goes on" not in caplog.messages:
            await outcome(channel, "Echo", b"photos", "reader")
    hashes = [word for line in file.read_text().splitlines() for word in line.split() if word.startswith("sha256:")]
    said = "\n".join(str(vars(record)) for record in caplog.records)
    assert len(hashes) == len(GRANTS)
    for secret in (*hashes, *map(bearer, (*GRANTS, "stranger"))):
        assert secret not in said
