"""``eyebright index``: pictures from a folder, a tar or a glob into a collection.

Owns the progress display, the list of failures and what happens on Ctrl-C. ``index_sources`` reads, the SDK sends.
"""

from typing import Annotated

import typer
from eyebright_client import Client, IndexReport
from eyebright_client import Progress as IndexProgress
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from eyebright_cli.connection import (
    DEFAULT_COLLECTION,
    DEFAULT_EMBEDDER,
    DEFAULT_INDEX,
    CollectionOption,
    EmbedderOption,
    IndexOption,
    JsonOption,
    TlsCaOption,
    TlsIdentityOption,
    TokenFileOption,
    open_client,
)
from eyebright_cli.errors import CliError
from eyebright_cli.index_sources import ImageSource, SourceFailure, open_source
from eyebright_cli.presentation import make_console, plain, print_json

EXAMPLES = """\b
eyebright index ~/Pictures
eyebright index photos/2024 --collection holidays
eyebright index "shards/train-*.tar"
eyebright index "photos/**/*.jpg" --json
"""

_SHOWN_FAILURES = 20


def index_pictures(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A folder, a picture, a WebDataset tar, or a quoted glob.")
    ],
    collection: CollectionOption = DEFAULT_COLLECTION,
    shards: Annotated[
        int | None, typer.Option("--shards", min=1, max=256, help="Shards of the collection, when it is made now.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Index pictures again whose id is in the collection already.")
    ] = False,
    as_json: JsonOption = False,
    embedder: EmbedderOption = DEFAULT_EMBEDDER,
    index: IndexOption = DEFAULT_INDEX,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_identity: TlsIdentityOption = None,
) -> None:
    """Index pictures, so that they can be found.

    The id of a picture is its path relative to PATH's folder, or its key in the tar.

    A .txt beside it becomes its caption, a .json its metadata. The same command, run again, goes on where it stopped.
    """
    source = open_source(path)
    with open_client(embedder, index, collection, token_file, tls_ca, tls_identity) as client:
        if shards is not None:
            client.create_collection(collection, shard_count=shards, exist_ok=True)
        report = index_with_progress(client, source, collection, resume=not again)
    failures = [*source.failures, *(SourceFailure(failure.id, failure.error.message) for failure in report.failed)]
    if not (report.indexed or report.skipped or failures):
        raise CliError(f"{path} holds no picture")
    if as_json:
        print_json(_report_object(collection, report, failures))
    else:
        _print_report(make_console(), collection, report, failures)
    if failures:
        raise typer.Exit(1)


def index_with_progress(client: Client, source: ImageSource, collection: str, *, resume: bool = True) -> IndexReport:
    """Index a source behind a progress bar on standard error. Ctrl-C says what is kept and exits with 130."""
    console = make_console(stderr=True)
    kept = 0
    with _progress_bar(console) as bar:
        task = bar.add_task("indexing", total=source.total, rate="", failed="")

        def advance(progress: IndexProgress) -> None:
            nonlocal kept
            kept = progress.done + progress.skipped
            _show(bar, task, progress, len(source.failures))

        try:
            report = client.index_images(source.items(), collection=collection, resume=resume, progress=advance)
        except KeyboardInterrupt:
            bar.stop()
            console.print(f"stopped: {kept:,} pictures are in {plain(collection)}; the same command goes on from there")
            raise typer.Exit(130) from None
        handled = report.indexed + report.skipped + len(report.failed) + len(source.failures)
        bar.update(task, completed=handled, total=handled)
    return report


def pictures_per_second(report: IndexReport) -> float:
    """How many pictures were embedded and stored in a second."""
    return report.indexed / report.seconds if report.seconds > 0 else 0.0


def _progress_bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failed]}"),
        console=console,
    )


def _show(bar: Progress, task: TaskID, progress: IndexProgress, unreadable: int) -> None:
    failed = progress.failed + unreadable
    handled = progress.done + progress.skipped + failed
    seconds = bar.tasks[task].elapsed or 0.0
    rate = f"{progress.done / seconds:,.0f} pictures/s" if seconds > 0 else ""
    bar.update(task, completed=handled, rate=rate, failed=f"{failed:,} failed" if failed else "")


def _report_object(collection: str, report: IndexReport, failures: list[SourceFailure]) -> dict[str, object]:
    return {
        "collection": collection,
        "indexed": report.indexed,
        "skipped": report.skipped,
        "failed": [{"id": failure.id, "reason": failure.reason} for failure in failures],
        "seconds": report.seconds,
        "images_per_s": pictures_per_second(report),
    }


def _print_report(console: Console, collection: str, report: IndexReport, failures: list[SourceFailure]) -> None:
    skipped = f", {report.skipped:,} were there already" if report.skipped else ""
    console.print(
        f"indexed {report.indexed:,} pictures into {plain(collection)} in {report.seconds:.1f} s "
        f"({pictures_per_second(report):,.0f} pictures/s){skipped}"
    )
    if failures:
        console.print(Text(f"{len(failures):,} failed:", "red"))
    for failure in failures[:_SHOWN_FAILURES]:
        console.print(Text(f"  {plain(failure.id)}: {plain(failure.reason)}"), soft_wrap=True)
    if len(failures) > _SHOWN_FAILURES:
        console.print(f"  and {len(failures) - _SHOWN_FAILURES:,} more; --json lists all")
