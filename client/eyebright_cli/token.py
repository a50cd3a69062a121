"""``eyebright token new``: a bearer token, and the line that a service's token file has of it.

Owns the drawing of tokens. What the line means is the services'; nothing is sent anywhere.
"""

import hashlib
import os
import re
import secrets
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from eyebright_cli.connection import JsonOption
from eyebright_cli.errors import CliError
from eyebright_cli.presentation import make_console, print_json

NEW_EXAMPLES = """\b
eyebright token new --name crawler --scope write --collection photos >> tokens
eyebright token new --name shop --scope read --collection photos --collection "drafts-*" --out shop.token >> tokens
eyebright token new --name root --scope admin --collection "*" --json
"""

_RANDOM_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COLLECTION = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9._-]{0,63}\*?")

app = typer.Typer(no_args_is_help=True, help="Make bearer tokens for the services' --token-file.")


class TokenScope(StrEnum):
    """What a token allows; each includes those before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@app.callback()
def _group() -> None:
    """Keeps ``new`` a word of its own: typer would drop it while it is the only command."""


@app.command("new", epilog=NEW_EXAMPLES)
def new(
    name: Annotated[str, typer.Option("--name", help="Whose it is: this stands in the services' logs.")],
    scope: Annotated[
        TokenScope,
        typer.Option(
            "--scope",
            help="read: search and read. write: change records too. admin: make, tune and delete collections too.",
        ),
    ],
    collections: Annotated[
        list[str],
        typer.Option(
            "--collection",
            metavar="NAME",
            help='A collection it is for; "drafts-*" is for all whose name begins so, "*" for all. Repeatable.',
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", dir_okay=False, metavar="FILE", help="A new file for the token, instead of the screen."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a token: shown once, on standard error. Its line for the token file goes to standard output.

    The line holds a hash, from which nobody gets the token back: keep the token where its owner needs it.
    """
    if not _NAME.fullmatch(name):
        raise typer.BadParameter('expected 1 to 64 letters, digits, "." "_" and "-"', param_hint="--name")
    for collection in collections:
        if not _COLLECTION.fullmatch(collection):
            raise typer.BadParameter(
                f'expected a name, "drafts-*" or "*", not {collection!r}', param_hint="--collection"
            )
    token = f"eyebright_{secrets.token_urlsafe(_RANDOM_BYTES)}"
    line = f"{name} {scope.value} {','.join(collections)} sha256:{hashlib.sha256(token.encode()).hexdigest()}"
    if out is not None:
        _write(out, token)
    if as_json:
        print_json({"name": name, "token": None if out else token, "line": line})
        return
    if out is None:
        make_console(stderr=True).print(Text(f"the token, shown this once: {token}"), soft_wrap=True)
    typer.echo(line)


def _write(path: Path, token: str) -> None:
    """A new file that only its owner reads. Raises CliError when it can't be made."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(f"{token}\n")
    except OSError as error:
        raise CliError(f"can't write {path}: {error.strerror}") from error
