"""TLS of a hosted service: certificates renewed while it runs, and client certificates where they are asked for."""

import asyncio
import logging
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from prometheus_client import CollectorRegistry

from service_runtime import reloading
from service_runtime.server import Server
from service_runtime.settings import ServiceSettings
from tests.integration.service_runtime_host import EchoHost
from tests.security.authority import Authority, Identity


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "_LOOK_SECONDS", 0.02)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def served(tmp_path: Path) -> Identity:
    """Where the server's certificate lies."""
    (tmp_path / "served").mkdir()
    return Identity(tmp_path / "served/tls.crt", tmp_path / "served/tls.key")


def install(identity: Identity, place: Identity) -> None:
    """Put a certificate in the place of another, key last."""
    for new, old in ((identity.certificate, place.certificate), (identity.key, place.key)):
        shutil.copy(new, old.with_suffix(".new"))
        old.with_suffix(".new").replace(old)


@asynccontextmanager
async def serving(place: Identity, registry: CollectorRegistry | None = None, **settings: Any) -> AsyncIterator[int]:
    """An echo server with the certificate that lies there; its port."""
    chosen = ServiceSettings(tls_certificate=place.certificate, tls_key=place.key, drain_seconds=0, **settings)
    async with Server(EchoHost(), chosen, registry or CollectorRegistry()) as server:
        yield server.ports.grpc


async def shown(port: int) -> bytes:
    """The certificate that a new connection is shown, DER."""

    def connect() -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""

    return await asyncio.to_thread(connect)


async def until_shown(port: int, identity: Identity) -> None:
    expected = ssl.PEM_cert_to_DER_cert(identity.certificate.read_text())
    while await shown(port) != expected:
        await asyncio.sleep(0.05)


def channel(port: int, trusted: Path, client: Identity | None = None) -> aio.Channel:
    """A channel with a connection of its own."""
    own = (None, None) if client is None else (client.key.read_bytes(), client.certificate.read_bytes())
    credentials = grpc.ssl_channel_credentials(trusted.read_bytes(), *own)
    return aio.secure_channel(f"localhost:{port}", credentials, [("grpc.use_local_subchannel_pool", 1)])


async def echoed(opened: aio.Channel) -> bool:
    method: Any = opened.unary_unary("/test.Echo/Echo")
    answer: bytes = await method(b"x", timeout=10)
    return answer == b"x"


async def test_new_connections_get_the_new_certificate_and_old_ones_go_on(
    authority: Authority, served: Identity, tmp_path: Path
) -> None:
    first, second = authority.issue("server"), Authority(tmp_path, "other").issue("server")
    install(first, served)
    async with serving(served) as port, channel(port, authority.certificate) as old:
        method: Any = old.stream_stream("/test.Echo/EchoStream")
        stream = method()
        await stream.write(b"before")
        assert await stream.read() == b"before"
        await until_shown(port, first)
        install(second, served)
        await until_shown(port, second)
        await stream.write(b"after")
        assert await stream.read() == b"after"
        assert await echoed(old)
        async with channel(port, authority.certificate) as late:
            with pytest.raises(aio.AioRpcError) as caught:
                await echoed(late)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        async with channel(port, tmp_path / "other/ca.pem") as late:
            assert await echoed(late)


async def test_a_secret_replaced_as_kubernetes_does_it_is_noticed(authority: Authority, tmp_path: Path) -> None:
    names = ("tls.crt", "tls.key")
    for version in ("..1", "..2"):
        (tmp_path / version).mkdir()
        identity = authority.issue("server")
        for name, path in zip(names, (identity.certificate, identity.key), strict=True):
            shutil.copy(path, tmp_path / version / name)
    (tmp_path / "..data").symlink_to("..1")
    for name in names:
        (tmp_path / name).symlink_to(f"..data/{name}")
    async with serving(Identity(tmp_path / "tls.crt", tmp_path / "tls.key")) as port:
        await until_shown(port, Identity(tmp_path / "..1/tls.crt", tmp_path / "..1/tls.key"))
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").replace(tmp_path / "..data")
        await until_shown(port, Identity(tmp_path / "..2/tls.crt", tmp_path / "..2/tls.key"))


async def test_what_can_not_be_used_is_told_and_the_old_certificate_stays(
    authority: Authority, served: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = authority.issue("server"), authority.issue("server")
    install(first, served)
    registry = CollectorRegistry()

    def failures() -> float | None:
        return registry.get_sample_value("eyebright_reload_failures_total", {"what": "certificate"})

    with caplog.at_level(logging.INFO, "eyebright.reloading"):
        async with serving(served, registry) as port:
            assert failures() == 0
            shutil.copy(second.key, served.key)  # the key of another certificate
            while not failures():
                await until_shown(port, first)
            assert failures() == 1
            install(second, served)
            await until_shown(port, second)
            served.key.unlink()
            while failures() == 1:
                await until_shown(port, second)
    lines = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [line.what for line in lines] == ["certificate"] * 2  # type: ignore[attr-defined]
    assert "a chain and its key" in lines[0].reason  # type: ignore[attr-defined]
    assert "PRIVATE KEY" not in caplog.text


async def test_clients_must_show_a_certificate_where_an_authority_is_named(
    authority: Authority, served: Identity, tmp_path: Path
) -> None:
    install(authority.issue("server"), served)
    clients, strangers = Authority(tmp_path, "clients"), Authority(tmp_path, "strangers")
    trusted = tmp_path / "clients.pem"
    shutil.copy(clients.certificate, trusted)

    async def answered(port: int, client: Identity | None) -> bool:
        async with channel(port, authority.certificate, client) as opened:
            try:
                return await echoed(opened)
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return False

    known, unknown = clients.issue("client"), strangers.issue("client")
    async with serving(served, tls_client_ca=trusted) as port, channel(port, authority.certificate, known) as old:
        assert await echoed(old)
        assert not await answered(port, None)
        assert not await answered(port, unknown)
        shutil.copy(strangers.certificate, trusted)
        while not await answered(port, unknown):
            await asyncio.sleep(0.05)
        assert not await answered(port, known)
        assert await echoed(old)


async def test_plain_text_is_not_answered(authority: Authority, served: Identity) -> None:
    install(authority.issue("server"), served)
    async with serving(served) as port, aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        with pytest.raises(aio.AioRpcError) as caught:
            await echoed(opened)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
