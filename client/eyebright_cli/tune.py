"""``eyebright tune``: finds the fastest index that reaches a recall, and shows what was measured.

Owns the progress bar, the table and what happens on Ctrl-C. The server measures, not this command.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from eyebright_client import MeasuredPoint, Tuning, TuningProgress
from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from eyebright_cli.connection import (
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
from eyebright_cli.errors import CliError
from eyebright_cli.presentation import make_console, plain, print_json
from eyebright_cli.tuning_plot import check_plot, draw

EXAMPLES = """\b
eyebright tune images
eyebright tune images --target-recall 0.95 --memory-limit 2GB --plot front.svg
eyebright tune images --queries captions.npy --recipe hnsw --recipe fastscan
eyebright tune images --show --plot front.png
"""

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kMGT]i?B|B)?", re.IGNORECASE)
_ASKED = {"text": "captions", "image": "pictures", "record": "records"}


class RecipeChoice(StrEnum):
    """Recipes that can be asked for."""

    EXACT = "exact"
    FASTSCAN = "fastscan"
    IVF_FASTSCAN = "ivf-fastscan"
    HNSW = "hnsw"
    IVF_FLAT = "ivf-flat"
    LSH = "lsh"


def tune(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection to tune.")],
    target_recall: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the exact nearest that searches are to find.")
    ] = 0.99,
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=1_000, help="Hits of a search to measure with.")] = 10,
    memory_limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Most that the index may take beside the vectors, as 500MB or 2GiB."),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="NumPy file (.npy) with vectors of captions, (n, dimension), 200 or more, instead of recent queries.",
        ),
    ] = None,
    image_queries: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, metavar="FILE", help="The same with vectors of pictures."),
    ] = None,
    recipe: Annotated[
        list[RecipeChoice] | None, typer.Option(help="Recipe to measure beside an exact search; may be repeated.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="FILE", help="Draw what was measured: a .png, .svg or .pdf file."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Show, and draw, what was found last, and tune nothing.")
    ] = False,
    as_json: JsonOption = False,
    embedder: EmbedderOption = DEFAULT_EMBEDDER,
    index: IndexOption = DEFAULT_INDEX,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_identity: TlsIdentityOption = None,
) -> None:
    """Find the fastest index that finds as much as you ask, measured on recent queries, and search with it."""
    if plot is not None:
        check_plot(plot)
    limit = None if memory_limit is None else _size_bytes(memory_limit)
    sets = {"text": queries, "image": image_queries}
    vectors: Any = {modality: _vectors(path) for modality, path in sets.items() if path is not None}
    with open_client(embedder, index, collection, token_file, tls_ca, tls_identity) as client:
        if show:
            last = client.tuning().last
            if last is None:
                raise CliError(f"{plain(collection)} was never tuned; `eyebright tune {plain(collection)}` does it")
            found = last
        else:
            with _bar() as advance:
                found = client.optimize(
                    target_recall=target_recall,
                    k=k,
                    memory_limit_bytes=limit,
                    queries=vectors or None,
                    recipes=[choice.value for choice in recipe or ()],
                    progress=advance,
                )
    if as_json:
        print_json(dataclasses.asdict(found) | {"collection": collection, "time": found.time.isoformat()})
    else:
        make_console().print(_view(collection, found))
    if plot is not None:
        draw(collection, found, plot)


@contextmanager
def _bar() -> Iterator[Callable[[TuningProgress], None]]:
    """A progress bar on standard error. Ctrl-C says what becomes of the work and exits with 130."""
    console = make_console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    phase = "waiting"
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("tune: waiting", total=None)

        def advance(progress: TuningProgress) -> None:
            nonlocal phase
            phase = progress.phase
            what = phase if progress.recipe is None else f"{phase} {_recipe_name(progress.recipe, progress.centred)}"
            bar.update(
                task, description=f"tune: {what}", completed=progress.steps_done, total=progress.steps_total or None
            )

        try:
            yield advance
        except KeyboardInterrupt:
            bar.stop()
            stands = phase in ("rebuilding", "done")
            console.print(
                "stopped: the choice stands, and segments are rebuilt in the background"
                if stands
                else "stopped: the tuning is cancelled, and nothing has changed",
                soft_wrap=True,
            )
            raise typer.Exit(130) from None


def _view(collection: str, found: Tuning) -> RenderableType:
    lines: list[RenderableType] = []
    if found.front:
        shown = _unbeaten(found)
        lines.append(_table(collection, found, shown))
        lines.append(Text(f"{len(found.front) - len(shown)} slower or worse ones not shown; --plot draws them", "dim"))
    return Group(*lines, Text(f"{plain(collection)}: {_verdict(found)}"))


def _verdict(found: Tuning) -> str:
    """What was chosen and why, in a line."""
    chosen = _recipe_name(found.chosen.recipe, found.chosen.centred)
    match found.basis:
        case "exact":
            return "searched exactly; there is nothing to tune, and nothing was changed"
        case "few_queries":
            return (
                f"{chosen} with its default effort; too few recent queries are known to measure its recall "
                "(200 are needed): search for a while, or give some with --queries"
            )
    met = "reaches" if found.target_met else "does not reach"
    return f"{chosen} ({_effort(found.chosen)}) {met} recall@{found.k} {found.target_recall:g}"


def _unbeaten(found: Tuning) -> list[MeasuredPoint]:
    """What no faster one finds more than, whatever its recipe; and what was chosen."""
    shown: list[MeasuredPoint] = []
    most = -1.0
    for point in found.front:
        recall = point.least_recall or 0.0
        if recall > most or point == found.chosen:
            shown.append(point)
        most = max(most, recall)
    return shown


def _table(collection: str, found: Tuning, shown: Sequence[MeasuredPoint]) -> Table:
    title = Text(f"{plain(collection)}: recall@{found.k} and latency, {found.time:%Y-%m-%d %H:%M} UTC", "bold")
    table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False)
    table.add_column("")
    table.add_column("recipe", style="cyan")
    table.add_column("effort")
    modalities = [recall.modality for recall in found.chosen.recall]
    for modality in modalities:
        table.add_column(f"recall of {_ASKED[modality]}", justify="right")
    table.add_column("latency", justify="right")
    table.add_column("index", justify="right")
    for point in shown:
        chosen = point == found.chosen
        table.add_row(
            "→" if chosen else "",
            _recipe_name(point.recipe, point.centred),
            _effort(point),
            *(_recall(point, modality) for modality in modalities),
            "" if point.latency_seconds is None else f"{1e3 * point.latency_seconds:.2f} ms",
            "" if point.index_bytes is None else f"{point.index_bytes / 2**20:,.1f} MiB",
            style="bold" if chosen else None,
        )
    return table


def _recall(point: MeasuredPoint, modality: str) -> str:
    [one] = [recall for recall in point.recall if recall.modality == modality]
    return f"{one.mean:.4f} ({one.lower:.4f}-{one.upper:.4f})" if one.query_count else f"{one.mean:.4f}"


def _effort(point: MeasuredPoint) -> str:
    """The part of the effort that the recipe heeds."""
    effort = point.effort
    match point.recipe:
        case "fastscan" | "lsh":
            return f"k_factor {effort.k_factor:g}"
        case "ivf-fastscan":
            return f"k_factor {effort.k_factor:g}, {effort.probed_share:.1%} of cells"
        case "ivf-flat":
            return f"{effort.probed_share:.1%} of cells"
        case "hnsw":
            return f"ef_search {effort.ef_search}"
    return ""


def _recipe_name(recipe: str, centred: bool) -> str:
    return f"{recipe}, centred" if centred else recipe


def _size_bytes(text: str) -> int:
    """Bytes of a size such as 500MB (of 1,000,000) or 2GiB (of 2^30). Raises BadParameter."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"expected a size such as 500MB or 2GiB, not {text!r}", param_hint="--memory-limit")
    unit = (match[2] or "B").lower()
    power = " kmgt".index(unit[0]) if unit != "b" else 0
    return int(float(match[1]) * (1024 if "i" in unit else 1000) ** power)


def _vectors(path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CliError(f"{path} is no NumPy file with vectors: {error}") from error
    if not isinstance(loaded, np.ndarray) or loaded.ndim != 2 or loaded.dtype.kind != "f":
        raise CliError(f"{path}: expected an array of floats of the shape (n, dimension)")
    return loaded
