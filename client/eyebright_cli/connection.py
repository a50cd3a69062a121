"""The options of every command that talks to services, and the client they make.

Owns their names, environment variables and defaults. The environment is read here and nowhere else, by typer.
"""

from pathlib import Path
from typing import Annotated

import typer
from eyebright_client import TLS, Client

from eyebright_cli.errors import CliError

DEFAULT_EMBEDDER = "localhost:7001"
DEFAULT_INDEX = "localhost:7002"
DEFAULT_COLLECTION = "images"

_PANEL = "Connection"

CollectionOption = Annotated[
    str, typer.Option("--collection", "-c", metavar="NAME", help="Collection to use.", rich_help_panel=_PANEL)
]
EmbedderOption = Annotated[
    str,
    typer.Option(
        "--embedder",
        envvar="EYEBRIGHT_EMBEDDER",
        metavar="HOST:PORT",
        help="Where the embedder service listens.",
        rich_help_panel=_PANEL,
    ),
]
IndexOption = Annotated[
    str,
    typer.Option(
        "--index",
        envvar="EYEBRIGHT_INDEX",
        metavar="HOST:PORT",
        help="Where the index service listens.",
        rich_help_panel=_PANEL,
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="EYEBRIGHT_TOKEN_FILE",
        exists=True,
        dir_okay=False,
        readable=True,
        metavar="FILE",
        help="File that holds the bearer token.",
        rich_help_panel=_PANEL,
    ),
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        exists=True,
        dir_okay=False,
        readable=True,
        metavar="FILE",
        help="PEM file with the certificates to trust; switches TLS on.",
        rich_help_panel=_PANEL,
    ),
]
TlsIdentityOption = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--tls-identity",
        exists=True,
        dir_okay=False,
        readable=True,
        metavar="CERTIFICATE KEY",
        help="PEM files with a certificate of your own and its key, for services that ask for one. Needs --tls-ca.",
        rich_help_panel=_PANEL,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]


def open_client(
    embedder: str,
    index: str,
    collection: str,
    token_file: Path | None,
    tls_ca: Path | None,
    tls_identity: tuple[Path, Path] | None,
) -> Client:
    """A client for the services; nothing is sent yet. Raises CliError when a file holds no token or no certificate."""
    token = None
    if token_file is not None:
        token = token_file.read_bytes().decode("utf-8", "replace").strip()
        if not token:
            raise CliError(f"{token_file} holds no token")
    return Client(embedder, index, collection=collection, tls=_tls(tls_ca, tls_identity), token=token)


def _tls(ca: Path | None, identity: tuple[Path, Path] | None) -> TLS | None:
    if ca is None:
        if identity is not None:
            raise typer.BadParameter("needs --tls-ca", param_hint="--tls-identity")
        return None
    certificate, key = (None, None) if identity is None else identity
    return TLS(
        root_certificates=_pem(ca, b"CERTIFICATE-----", "certificate"),
        certificate_chain=None if certificate is None else _pem(certificate, b"CERTIFICATE-----", "certificate"),
        private_key=None if key is None else _pem(key, b"PRIVATE KEY-----", "private key"),
    )


def _pem(path: Path, mark: bytes, what: str) -> bytes:
    content = path.read_bytes()
    if mark not in content:
        raise CliError(f"{path} holds no {what} in PEM form")
    return content
