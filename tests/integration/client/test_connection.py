"""Deadlines, encryption, tokens, readiness, closing."""

import hashlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from eyebright_client import (
    TLS,
    CallError,
    ClientClosed,
    DeadlineExceeded,
    EmbedderNotConfigured,
    InvalidArgument,
    NotFound,
    Timeouts,
    Unauthenticated,
    Unavailable,
)

from tests.integration.client.conftest import MakeClient
from tests.processes import RunningService, running_service, start_service

TOKEN = "open-sesame"


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a socket that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_every_call_has_a_deadline(make_client: MakeClient, silent: str) -> None:
    short = Timeouts(search=0.2, embed=0.2, write=0.2, read=0.2, batch=0.2)
    client = make_client(silent, silent, timeouts=short)
    for ask in (
        lambda: client.model(),
        lambda: client.health(),
        lambda: client.search("a caption"),
        lambda: client.search(vector=np.ones(4)),
        lambda: client.search(like="a"),
        lambda: client.search(like="a", timeout=0.1),
        lambda: client.search_many(likes=["a"]),
        lambda: client.embed_texts("x"),
        lambda: client.embed_images(b"x"),
        lambda: client.create_collection(dimension=4, fingerprint="a" * 64),
        lambda: client.get_collection(),
        lambda: client.list_collections(),
        lambda: client.delete_collection(),
        lambda: client.upsert("a", np.ones(4), fingerprint="a" * 64),
        lambda: client.delete("a"),
        lambda: client.get("a"),
        lambda: client.get_many(["a"]),
        lambda: list(client.list()),
        lambda: client.count(),
        lambda: client.update("a", caption="x"),
        lambda: client.stats(),
        lambda: client.index_images({"a": b"x"}),
        lambda: client.wait_until_ready(0.2),
    ):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.[12] s"):
            ask()
        assert time.monotonic() - began < 10


def test_nothing_listens(make_client: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    client = make_client(None, address)
    with pytest.raises(Unavailable, match=address):
        client.count()


def test_readiness(make_client: MakeClient, embedder: RunningService, index: RunningService, silent: str) -> None:
    make_client(embedder.address, index.address).wait_until_ready(30)
    make_client(None, index.address).wait_until_ready(30)
    with pytest.raises(DeadlineExceeded, match="GetModel"):
        make_client(silent, index.address).wait_until_ready(0.3)
    with pytest.raises(DeadlineExceeded, match="ListCollections"):
        make_client(embedder.address, silent).wait_until_ready(0.3)


def test_health(make_client: MakeClient, embedder: RunningService, index: RunningService) -> None:
    client = make_client(embedder.address, index.address)
    assert (client.health(), client.health("index")) == ("serving", "serving")
    with pytest.raises(InvalidArgument, match="expected 'embedder' or 'index', not 'gallery'"):
        client.health("gallery")  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="EmbedderService"):
        make_client(index.address, index.address).health()
    with pytest.raises(EmbedderNotConfigured):
        make_client(None, index.address).health()


def test_readiness_waits_for_a_service_that_starts_later(make_client: MakeClient, tmp_path: Path) -> None:
    arguments = ("--data-folder", str(tmp_path / "data"))
    first = start_service("index_service", tmp_path, *arguments)
    first.kill()
    client = make_client(None, first.address)
    with pytest.raises(CallError):
        client.count()
    second = start_service("index_service", tmp_path, *arguments, "--port", first.address.rpartition(":")[2])
    try:
        client.wait_until_ready(30)
        assert client.list_collections() == ()
    finally:
        second.kill()


def test_a_closed_client_says_so(make_client: MakeClient, embedder: RunningService, index: RunningService) -> None:
    client = make_client(embedder.address, index.address)
    client.list_collections()
    client.model()
    client.close()
    client.close()
    with pytest.raises(ClientClosed):
        client.list_collections()
    with pytest.raises(ClientClosed):
        client.model()  # remembered, so that no call would be made


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for ``localhost`` and ``index.internal``; its key is ``key.pem`` beside it."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost,DNS:index.internal -keyout key.pem -out certificate.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder / "certificate.pem"


@pytest.fixture(scope="module")
def secured(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """An index service with TLS and a token."""
    folder = tmp_path_factory.mktemp("secured")
    token = folder / "token"
    token.write_text(f"tester admin * sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    arguments = ("--data-folder", str(folder / "data"), "--token-file", str(token))
    tls = ("--tls-certificate", str(certificate), "--tls-key", str(certificate.with_name("key.pem")))
    with running_service("index_service", folder, *arguments, *tls) as service:
        yield service


def test_tls_and_token(make_client: MakeClient, secured: RunningService, certificate: Path) -> None:
    local = secured.address.replace("127.0.0.1", "localhost")
    for address, tls in (
        (local, TLS(root_certificates=certificate)),
        (local, TLS(root_certificates=str(certificate))),
        (local, TLS(root_certificates=certificate.read_bytes())),
        (secured.address, TLS(root_certificates=certificate, server_name="index.internal")),
    ):
        client = make_client(None, address, tls=tls, token=TOKEN)
        client.wait_until_ready(30)
        assert client.list_collections() == ()
    trusted = TLS(root_certificates=certificate)
    for token, says in ((None, "no authorization"), ("wrong", "none that this server takes")):
        with pytest.raises(Unauthenticated, match=says):
            make_client(None, local, tls=trusted, token=token).list_collections()


@pytest.fixture(scope="module")
def mutual(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """An index service that asks clients for a certificate; its own is good for them too."""
    folder = tmp_path_factory.mktemp("mutual")
    tls = ("--tls-certificate", str(certificate), "--tls-key", str(certificate.with_name("key.pem")))
    arguments = ("--data-folder", str(folder / "data"), *tls, "--tls-client-ca", str(certificate))
    with running_service("index_service", folder, *arguments, "--host", "0.0.0.0") as service:
        yield service


def test_a_certificate_of_the_client(make_client: MakeClient, mutual: RunningService, certificate: Path) -> None:
    local, key = mutual.address.replace("127.0.0.1", "localhost"), certificate.with_name("key.pem")
    own = TLS(root_certificates=certificate, certificate_chain=certificate, private_key=key)
    assert make_client(None, local, tls=own).list_collections() == ()
    with pytest.raises(Unavailable):
        make_client(None, local, tls=TLS(root_certificates=certificate), timeouts=Timeouts(read=5.0)).list_collections()
    for half, says in (
        (TLS(certificate_chain=certificate), "certificate_chain without private_key"),
        (TLS(private_key=key.read_bytes()), "private_key without certificate_chain"),
    ):
        with pytest.raises(InvalidArgument, match=says):
            make_client(None, local, tls=half).list_collections()


def test_tls_refuses_whom_it_does_not_know(make_client: MakeClient, secured: RunningService, certificate: Path) -> None:
    trusted = TLS(root_certificates=certificate)
    timeouts = Timeouts(read=5.0)
    for client in (
        make_client(None, secured.address, tls=trusted, token=TOKEN, timeouts=timeouts),  # not the certificate's name
        make_client(None, secured.address.replace("127.0.0.1", "localhost"), tls=TLS(), token=TOKEN, timeouts=timeouts),
        make_client(None, secured.address, token=TOKEN, timeouts=timeouts),
    ):
        with pytest.raises(Unavailable):
            client.list_collections()
