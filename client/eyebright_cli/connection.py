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
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]


def open_client(embedder: str, index: str, collection: str, token_file: Path | None, tls_ca: Path | None) -> Client:
    """A client for the services; nothing is sent yet. Raises CliError when a file holds no token or no certificate."""
    token = None
    if token_file is not None:
        token = token_file.read_bytes().decode("utf-8", "replace").strip()
        if not token:
            raise CliError(f"{token_file} holds no token")
    certificates = None if tls_ca is None else tls_ca.read_bytes()
    if certificates is not None and b"CERTIFICATE-----" not in certificates:
        raise CliError(f"{tls_ca} holds no certificate in PEM form")
    tls = None if certificates is None else TLS(root_certificates=certificates)
    return Client(embedder, index, collection=collection, tls=tls, token=token)
