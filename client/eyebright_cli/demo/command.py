"""The ``demo`` command: start, index, search, measure, show, stop.

Owns the order of these steps and the last line. Each step has a module of its own.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from eyebright_client import Client, SearchResult
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from eyebright_cli.demo.contact_sheet import Finding, contact_sheet
from eyebright_cli.demo.evaluation import LATENCY_QUERIES, LabelRecall, label_recall, search_p50_seconds
from eyebright_cli.demo.gallery import Picture, gallery_tar, read_gallery
from eyebright_cli.errors import ServiceDiedError
from eyebright_cli.index import index_with_progress, pictures_per_second
from eyebright_cli.index_sources import open_source
from eyebright_cli.local_services import LocalServices
from eyebright_cli.presentation import evidence_line, make_console, plain

EXAMPLES = """\b
eyebright demo
eyebright demo --output /tmp/eyebright-demo --keep
"""

_COLLECTION = "demo"
_SHOWN_HITS = 8
_PRINTED_HITS = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """What the last line states."""

    images: int
    recall: LabelRecall
    search_p50_seconds: float
    indexed_images_per_s: float

    def last_line(self) -> str:
        """The line that programs read."""
        return (
            f"demo: images={self.images} recall@1={self.recall.at_1:.3f} recall@10={self.recall.at_10:.3f} "
            f"search_p50_ms={self.search_p50_seconds * 1000:.1f} indexed_images_per_s={self.indexed_images_per_s:.0f}"
        )

    def facts(self) -> dict[str, str]:
        """The same for the page."""
        return {
            "pictures": f"{self.images:,}",
            "label in the top 1": f"{self.recall.at_1:.1%}",
            "label in the top 10": f"{self.recall.at_10:.1%}",
            "median search": f"{self.search_p50_seconds * 1000:.1f} ms",
            "indexing": f"{self.indexed_images_per_s:,.0f} pictures/s",
        }


def demo(
    output: Annotated[
        Path, typer.Option("--output", file_okay=False, metavar="FOLDER", help="Where the page is written; created.")
    ] = Path("eyebright-demo"),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the services running until Ctrl-C, and their data after.")
    ] = False,
) -> None:
    """Show what Eyebright does: index the bundled gallery, search it, measure it, and write a page with what was found.

    Needs no network and no other command; takes less than a minute.
    """
    console = make_console()
    output.mkdir(parents=True, exist_ok=True)
    with _data_folder(output, keep) as data, _running(data) as services:
        with Client(services.embedder.address, services.index.address, collection=_COLLECTION) as client:
            measured = _run(client, console, output / "contact-sheet.html")
        if keep:
            console.print(
                f"embedder {services.embedder.address}, index {services.index.address}, collection {_COLLECTION}"
            )
            console.print(f"data {services.data_folder}; Ctrl-C stops the services", soft_wrap=True)
        typer.echo(measured.last_line())
        if keep:
            _watch(services)


def _run(client: Client, console: Console, page: Path) -> Measured:
    """Index, search, measure, and write the page."""
    # Imported late: it needs Pillow, which comes with the embedder's libraries, and those were checked by now.
    from eyebright_cli.demo.queries import demo_queries

    with gallery_tar() as tar:
        gallery = read_gallery(tar)
        report = index_with_progress(client, open_source(str(tar)), _COLLECTION)
    for failure in report.failed:
        console.print(Text(f"{plain(failure.id)}: {plain(failure.error.message)}", "red"))
    findings = [Finding(query, _search(client, query.words, query.picture)) for query in demo_queries(gallery)]
    console.print(_findings_table(findings))
    console.print(Text(f"the first: {evidence_line(findings[0].result.evidence)}", "dim"))
    recall, p50_seconds = _measure(client, list(gallery.values()))
    measured = Measured(report.indexed + report.skipped, recall, p50_seconds, pictures_per_second(report))
    page.write_text(
        contact_sheet(findings, {key: picture.png for key, picture in gallery.items()}, measured.facts()), "utf-8"
    )
    console.print(f"the pictures found: {page.absolute().as_uri()}", soft_wrap=True)
    return measured


def _search(client: Client, words: str, picture: bytes | None) -> SearchResult:
    return client.search(words, k=_SHOWN_HITS) if picture is None else client.search(image=picture, k=_SHOWN_HITS)


def _measure(client: Client, pictures: Sequence[Picture]) -> tuple[LabelRecall, float]:
    with Progress(console=make_console(stderr=True), transient=True) as bar:
        # Latency first: its texts must be new to the services.
        timing = bar.add_task("timing single searches", total=LATENCY_QUERIES)
        p50_seconds = search_p50_seconds(client, pictures, _advance(bar, timing))
        searching = bar.add_task("searching every label", total=len(pictures))
        return label_recall(client, pictures, _advance(bar, searching)), p50_seconds


def _advance(bar: Progress, task: TaskID) -> Callable[[int], None]:
    return lambda steps: bar.advance(task, steps)


def _findings_table(findings: Sequence[Finding]) -> Table:
    table = Table(
        title=Text("what was found", "bold"), title_justify="left", box=None, header_style="dim", pad_edge=False
    )
    table.add_column("query")
    for rank in range(1, _PRINTED_HITS + 1):
        table.add_column(f"{rank}. hit, score")
    for header in ("right at", "embed ms", "index ms", "total ms"):
        table.add_column(header, justify="right")
    for finding in findings:
        table.add_row(*_finding_cells(finding))
    return table


def _finding_cells(finding: Finding) -> list[Text]:
    query, result = finding.query, finding.result
    cells = [Text(query.words if query.picture is None else f"picture: {query.words}", "cyan")]
    for hit in result[:_PRINTED_HITS]:
        style = "green" if hit.id in query.right else ""
        cells.append(Text(f"{plain(hit.caption or hit.id)} {hit.score:.3f}", style))
    rank = next((str(rank) for rank, key in enumerate(result.ids, 1) if key in query.right), "–")
    stages = result.stages
    embedding = stages.decode_seconds + stages.queue_seconds + stages.forward_seconds
    searching = stages.shard_search_seconds + stages.merge_seconds
    cells += [Text(rank), *(Text(f"{seconds * 1000:.1f}") for seconds in (embedding, searching, stages.total_seconds))]
    return cells


@contextmanager
def _running(data: Path) -> Iterator[LocalServices]:
    """Both services on free ports."""
    status = make_console(stderr=True).status("starting both services")
    with status, LocalServices(data) as services:
        status.stop()
        yield services


@contextmanager
def _data_folder(output: Path, keep: bool) -> Iterator[Path]:
    """A new folder for the services; removed at the end, unless it is to be kept or its logs are needed."""
    folder = Path(tempfile.mkdtemp(prefix="data-", dir=output))
    try:
        yield folder
    except ServiceDiedError:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _watch(services: LocalServices) -> None:
    """Until Ctrl-C."""
    try:
        services.watch()
    except KeyboardInterrupt:
        return
