"""``eyebright snapshot create`` and ``eyebright snapshot restore``: copies of collections, and collections from copies.

Owns the progress bar and what happens on Ctrl-C. The server reads and writes the files, not this command.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from eyebright_client import Snapshot, SnapshotProgress
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

from eyebright_cli.connection import (
    DEFAULT_COLLECTION,
    DEFAULT_EMBEDDER,
    DEFAULT_INDEX,
    EmbedderOption,
    IndexOption,
    JsonOption,
    TlsCaOption,
    TlsIdentityOption,
    TokenFileOption,
    open_client,
)
from eyebright_cli.presentation import make_console, plain, print_json

CREATE_EXAMPLES = """\b
eyebright snapshot create images s3://backups/images-monday
eyebright snapshot create images /srv/eyebright-data/snapshots/monday --json
"""
RESTORE_EXAMPLES = """\b
eyebright snapshot restore s3://backups/images-monday
eyebright snapshot restore /srv/eyebright-data/snapshots/monday --as images-again
"""

app = typer.Typer(no_args_is_help=True, help="Copy a collection to a folder or an object store, or make one of a copy.")

UrlArgument = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="An absolute path or a URL such as s3://bucket/folder, as the index service sees it; its setting "
        "snapshot_urls says which it may use.",
    ),
]


@app.command("create", epilog=CREATE_EXAMPLES)
def create(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection to copy.")],
    url: UrlArgument,
    as_json: JsonOption = False,
    embedder: EmbedderOption = DEFAULT_EMBEDDER,
    index: IndexOption = DEFAULT_INDEX,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_identity: TlsIdentityOption = None,
) -> None:
    """Copy a collection, as it is now, while it goes on being read and written."""
    with (
        open_client(embedder, index, collection, token_file, tls_ca, tls_identity) as client,
        _bar("snapshot") as advance,
    ):
        made = client.create_snapshot(url, progress=advance)
    if as_json:
        print_json(_snapshot_object(made))
    else:
        make_console().print(
            f"{plain(made.collection)}: {made.record_count:,} pictures, {made.bytes / 2**20:,.1f} MiB, are in "
            f"{plain(made.url)}",
            soft_wrap=True,
        )


@app.command("restore", epilog=RESTORE_EXAMPLES)
def restore(
    url: UrlArgument,
    name: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="The collection to make; the copied one's name if unsaid."),
    ] = None,
    as_json: JsonOption = False,
    embedder: EmbedderOption = DEFAULT_EMBEDDER,
    index: IndexOption = DEFAULT_INDEX,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_identity: TlsIdentityOption = None,
) -> None:
    """Make a collection from a copy. One that exists is never replaced."""
    with (
        open_client(embedder, index, DEFAULT_COLLECTION, token_file, tls_ca, tls_identity) as client,
        _bar("restore") as advance,
    ):
        made = client.restore_snapshot(url, collection=name, progress=advance)
        count = client.count(collection=made.name)
    if as_json:
        print_json(dataclasses.asdict(made) | {"create_time": made.create_time.isoformat(), "record_count": count})
    else:
        make_console().print(f"{plain(made.name)}: {count:,} pictures can be found", soft_wrap=True)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[SnapshotProgress], None]]:
    """A progress bar on standard error. Ctrl-C says what becomes of the work and exits with 130."""
    console = make_console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(f"{what}: waiting", total=None)

        def advance(progress: SnapshotProgress) -> None:
            total = progress.bytes_total or None
            bar.update(task, description=f"{what}: {progress.phase}", completed=progress.bytes_done, total=total)

        try:
            yield advance
        except KeyboardInterrupt:
            bar.stop()
            console.print(f"stopped: the {what} is cancelled, and the server removes what it has written")
            raise typer.Exit(130) from None


def _snapshot_object(snapshot: Snapshot) -> dict[str, object]:
    return dataclasses.asdict(snapshot) | {"create_time": snapshot.create_time.isoformat()}
