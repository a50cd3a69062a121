"""How results look: tables for people, JSON for programs.

Owns both forms of a search result. Everything that came from a service passes through ``plain``, so that a caption
can't steer the terminal.
"""

import json
import unicodedata
from pathlib import PurePath
from typing import Any

import typer
from eyebright_client import Evidence, Hit, SearchResult, Stages
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

_PIPE_COLUMNS = 200
_MAX_CAPTION_CHARACTERS = 200


def make_console(*, stderr: bool = False) -> Console:
    """A console that does not squeeze tables when it writes into a pipe or a file."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_COLUMNS)
    return console


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def plain(text: str) -> str:
    """The text on one line, without control characters."""
    return "".join(
        " " if c in "\n\t" else "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in {"Cc", "Cs"} else c
        for c in text
    )


def hit_object(hit: Hit) -> dict[str, Any]:
    """A hit as JSON."""
    return {
        "id": hit.id,
        "score": hit.score,
        "probability": hit.probability,
        "caption": hit.caption,
        "source_uri": hit.source_uri,
        "metadata": hit.metadata,
    }


def result_object(query: dict[str, Any], result: SearchResult) -> dict[str, Any]:
    """A whole answer as JSON: the query, the hits, the evidence and the stages in seconds."""
    return {
        "query": query,
        "hits": [hit_object(hit) for hit in result],
        "evidence": None if result.evidence is None else _fields(result.evidence),
        "stages": _fields(result.stages),
        "truncated": result.truncated,
    }


def result_view(title: str, result: SearchResult) -> RenderableType:
    """A whole answer as a table with its footer."""
    lines: list[RenderableType] = [_hit_table(title, result), _dim(evidence_line(result.evidence))]
    lines.append(_dim(stages_line(result.stages)))
    if result.truncated:
        lines.append(Text("the words were cut at the model's text length", "yellow"))
    return Group(*lines)


def evidence_line(evidence: Evidence | None) -> str:
    """How the answer was found, in a line."""
    if evidence is None:
        return ""
    recall = "unknown" if evidence.estimated_recall is None else f"{evidence.estimated_recall:.3f}"
    return (
        f"{'exact' if evidence.exact else 'approximate'} answer · recipe {evidence.recipe} · "
        f"{evidence.rows_scanned:,} vectors scanned · {evidence.shards_answered} of {evidence.shards_asked} shards · "
        f"ANN recall {recall}"
    )


def stages_line(stages: Stages) -> str:
    """Where the time went, in a line, in milliseconds."""
    spent = [
        f"{name.removesuffix('_seconds').replace('_', ' ')} {seconds * 1000:.1f}"
        for name, seconds in _fields(stages).items()
        if seconds
    ]
    return f"{' · '.join(spent)} ms"


def _hit_table(title: str, result: SearchResult) -> Table:
    hits = list(result)
    table = Table(title=Text(plain(title), "bold"), title_justify="left", box=None, header_style="dim", pad_edge=False)
    table.add_column("#", justify="right", style="dim")
    table.add_column("score", justify="right")
    if result.probabilities is not None:
        table.add_column("probability", justify="right")
    table.add_column("id", style="cyan", overflow="fold")
    table.add_column("caption", overflow="fold")
    for rank, hit in enumerate(hits, 1):
        cells = [Text(str(rank)), Text(f"{hit.score:.4f}")]
        if result.probabilities is not None:
            cells.append(Text("" if hit.probability is None else f"{hit.probability:.4f}"))
        cells += [_linked(hit), Text(plain((hit.caption or "")[:_MAX_CAPTION_CHARACTERS]))]
        table.add_row(*cells)
    if not hits:
        table.caption = Text("no hits", "yellow")
    return table


def _linked(hit: Hit) -> Text:
    """The id; where the terminal can, a link to the picture's file."""
    text = Text(plain(hit.id))
    uri = hit.source_uri or ""
    if uri.startswith("/") and "#" not in uri:
        text.stylize(f"link {PurePath(uri).as_uri()}")
    return text


def _dim(line: str) -> Text:
    return Text(line, "dim")


def _fields(value: Evidence | Stages) -> dict[str, Any]:
    """The fields of a frozen dataclass with slots, in their order."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
