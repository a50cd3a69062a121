"""The ``evaluate`` command: captions in, tables out.

Owns the options, the order of the work and the progress bar. ``measurement`` measures, ``report`` shows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from eyebright_client import Client
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

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
from eyebright_cli.evaluate.measurement import EXACT, SERVED, Evaluation, Evaluator, Way, embed, image_to_text, missing
from eyebright_cli.evaluate.queries import CaptionQuery, read_queries
from eyebright_cli.evaluate.report import as_object, draw, markdown, view
from eyebright_cli.presentation import make_console, plain, print_json
from eyebright_cli.tuning_plot import check_plot

EXAMPLES = """\b
eyebright evaluate --collection images --queries captions.parquet
eyebright evaluate -c flickr30k --queries results.csv --sample 0 --image-to-text
eyebright evaluate -c images --queries captions.jsonl --target-recall 0.9 --target-recall 0.99
eyebright evaluate -c images --queries captions.csv --markdown recall.md --plot recall.png --json > recall.json
"""

_SEED = 1
_MOST_DEPTH = 1_000


def evaluate(
    queries: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="Captions with the ids of their records: .parquet, .csv, .tsv or .jsonl; columns id and caption.",
        ),
    ],
    collection: CollectionOption = DEFAULT_COLLECTION,
    sample: Annotated[
        int, typer.Option(min=0, metavar="N", help="Captions to ask, drawn at random but always the same; 0 asks all.")
    ] = 1_000,
    images: Annotated[
        int, typer.Option(min=0, metavar="N", help="Records, out of those, that stand as pictures to search with.")
    ] = 200,
    target_recall: Annotated[
        list[float] | None,
        typer.Option(min=0.0, max=1.0, help="Also search with this target, of a tuned collection; may be repeated."),
    ] = None,
    to_text: Annotated[
        bool, typer.Option("--image-to-text", help="Also rank all captions of the sample for each of its pictures.")
    ] = False,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out captions whose id the collection does not have.")
    ] = False,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", dir_okay=False, metavar="FILE", help="Write the table as Markdown.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Draw it: a .png, .svg or .pdf file.")
    ] = None,
    as_json: JsonOption = False,
    embedder: EmbedderOption = DEFAULT_EMBEDDER,
    index: IndexOption = DEFAULT_INDEX,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_identity: TlsIdentityOption = None,
) -> None:
    """Measure what a collection finds: do captions find their own picture, and what does the index lose?

    Every caption is embedded and searched, first by comparing every record, then as the collection is served. Task
    recall says how many captions find their own picture, which the model decides and an index can only lower. ANN
    recall says how much of the exact answer the index returned. If exact task recall is near 0, the vectors are wrong
    (`eyebright doctor`); if only ANN recall is low, the index is (`eyebright tune`).

    Several rows with one id are several captions of one picture, as in Flickr30k and COCO; with --sample 0 and
    --image-to-text that is the protocol of Karpathy and Fei-Fei. Nothing is written to the collection.
    """
    if plot is not None:
        check_plot(plot)
    asked = _sample(read_queries(queries), sample)
    ways = [EXACT, SERVED, *(Way(f"target_recall {each:g}", {"target_recall": each}) for each in target_recall or ())]
    with open_client(embedder, index, collection, token_file, tls_ca, tls_identity) as client:
        asked = _present(client, collection, asked, skip_missing)
        found = _measure(client, collection, asked, images, ways, to_text)
    if markdown_file is not None:
        markdown_file.write_text(markdown(found), "utf-8")
    if plot is not None:
        draw(found, plot)
    if as_json:
        print_json(as_object(found))
    else:
        make_console().print(view(found))


def _sample(queries: list[CaptionQuery], count: int) -> list[CaptionQuery]:
    if count == 0 or count >= len(queries):
        return queries
    drawn = np.random.default_rng(_SEED).permutation(len(queries))[:count]
    return [queries[place] for place in sorted(drawn.tolist())]


def _present(client: Client, collection: str, queries: list[CaptionQuery], skip_missing: bool) -> list[CaptionQuery]:
    """Those whose record exists. Raises CliError when one does not, unless they are to be skipped."""
    absent = missing(client, queries)
    if not absent:
        return queries
    said = f"{len(absent):,} ids of the captions are not in {plain(collection)}, such as {plain(absent[0])}"
    if not skip_missing:
        raise CliError(f"{said}; they would count as never found. --skip-missing leaves them out")
    gone = set(absent)
    present = [query for query in queries if query.id not in gone]
    if not present:
        raise CliError(f"{said}, and no other is left")
    make_console(stderr=True).print(f"left out: {said}", soft_wrap=True)
    return present


def _measure(
    client: Client, collection: str, queries: Sequence[CaptionQuery], images: int, ways: Sequence[Way], to_text: bool
) -> Evaluation:
    pictures = list(dict.fromkeys(query.id for query in queries))
    records = client.count()
    depth = min(_MOST_DEPTH, records)
    with _bar() as bar:
        embedding = bar.add_task("embedding captions", total=len(queries))
        captions = embed(client, queries, lambda steps: bar.advance(embedding, steps))
        evaluator = Evaluator(client, queries, captions, pictures[:images], depth)
        found = []
        for way in ways:
            task = bar.add_task(f"searching, {way.name}", total=evaluator.steps())
            found.append(evaluator.measure(way, lambda steps, task=task: bar.advance(task, steps)))  # type: ignore[misc]
        backwards = image_to_text(client, queries, captions) if to_text else None
    asking = min(images, len(pictures))
    return Evaluation(collection, records, len(queries), len(pictures), asking, depth, found, backwards)


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar on standard error."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=make_console(stderr=True)) as bar:
        yield bar
