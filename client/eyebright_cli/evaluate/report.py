"""An evaluation for people and for programs: a table, Markdown, JSON, and a picture.

Owns their form. matplotlib, which the extra ``plot`` installs, is imported only to draw.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eyebright_cli.evaluate.measurement import ANN_HITS, TASK_HITS, Evaluation
from eyebright_cli.evaluate.metrics import Estimate
from eyebright_cli.presentation import plain

LEGEND = (
    "task recall@k: the share of captions whose own picture is among the k best, which the model and the index decide; "
    "ANN recall@k: the share of the exact k best that the index returned; in brackets: 95 % bootstrap intervals"
)


def view(evaluation: Evaluation) -> RenderableType:
    """For a terminal."""
    table = Table(title=Text(_title(evaluation), "bold"), title_justify="left", box=None, header_style="dim")
    table.add_column("")
    for found in evaluation.ways:
        table.add_column(found.name, justify="right")
    for what, cells in _lines(evaluation):
        table.add_row(what, *cells)
    lines: list[RenderableType] = [table]
    if evaluation.image_to_text is not None:
        lines.append(Text(_image_to_text(evaluation.image_to_text)))
    return Group(*lines, Text(LEGEND, "dim"), *(Text(line, "yellow") for line in judgements(evaluation)))


def markdown(evaluation: Evaluation) -> str:
    """The same as a Markdown page."""
    names = ["", *(found.name for found in evaluation.ways)]
    lines = [f"# {_title(evaluation)}", "", _row(names), "|" + "---|" * len(names)]
    lines += [_row([what, *cells]) for what, cells in _lines(evaluation)]
    if evaluation.image_to_text is not None:
        lines += ["", _image_to_text(evaluation.image_to_text)]
    return "\n".join([*lines, "", f"{LEGEND}.", *(f"\n{line}." for line in judgements(evaluation)), ""])


def as_object(evaluation: Evaluation) -> dict[str, Any]:
    """The same as JSON; a rank past the last one is null."""
    made: dict[str, Any] = _without_infinity(asdict(evaluation))
    return made


def judgements(evaluation: Evaluation) -> list[str]:
    """What a reader should notice."""
    exact, *others = evaluation.ways
    said = []
    if exact.task[10].upper < 10 * 10 / evaluation.records and evaluation.records > 1_000:
        said.append(
            f"exact search finds {exact.task[10].value:.1%} of the own pictures in the top 10, hardly more than chance "
            f"({10 / evaluation.records:.2%}): the vectors are at fault, not the index. `eyebright doctor` and "
            "`python -m embedder_service check --recall` look for the usual mistakes"
        )
    said += [
        f"{found.name} loses captions: ANN recall@10 is {found.ann[10].value:.3f}, of pictures "
        f"{found.ann_images.value:.3f}. `eyebright tune` measures on captions"
        for found in others
        if found.ann_images is not None and found.ann[10].upper < min(0.95, found.ann_images.lower)
    ]
    return said


def draw(evaluation: Evaluation, path: Path) -> None:
    """Task recall of every way on the left, ANN recall against latency on the right."""
    from matplotlib.figure import Figure  # it takes a second to import, and not everybody has it

    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for found in evaluation.ways:
        values = [found.task[k].value for k in TASK_HITS]
        below = [found.task[k].value - found.task[k].lower for k in TASK_HITS]
        above = [found.task[k].upper - found.task[k].value for k in TASK_HITS]
        left.errorbar(TASK_HITS, values, yerr=(below, above), marker="o", ms=4, capsize=2, lw=1.2, label=found.name)
        right.plot([found.milliseconds.value], [found.ann[10].value], "o", ms=7, label=found.name)
    left.set_xscale("log")
    left.set_xticks(TASK_HITS, [str(k) for k in TASK_HITS])
    left.minorticks_off()
    left.set_xlabel("k")
    left.set_ylabel("task recall@k")
    right.set_xscale("log")
    right.set_xlabel("one search by a vector, ms")
    right.set_ylabel("ANN recall@10 of captions")
    for axes in (left, right):
        axes.grid(color="#d0d7de", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    figure.suptitle(_title(evaluation), x=0.01, ha="left", fontsize=10)
    figure.savefig(path, dpi=150)


def _title(evaluation: Evaluation) -> str:
    return (
        f"{plain(evaluation.collection)}: {evaluation.captions:,} captions of {evaluation.pictures:,} pictures among "
        f"{evaluation.records:,}"
    )


def _lines(evaluation: Evaluation) -> list[tuple[str, list[str]]]:
    """What is measured, and the figure of each way."""
    ways = evaluation.ways
    lines = [("recipe", [found.recipe for found in ways])]
    lines += [(f"task recall@{k}", [_share(found.task[k]) for found in ways]) for k in TASK_HITS]
    lines.append(("MRR", [f"{found.mrr.value:.3f}" for found in ways]))
    lines.append(("median rank", [_rank(found.median_rank, evaluation.depth) for found in ways]))
    lines += [(f"ANN recall@{k}", [_share(found.ann[k]) for found in ways]) for k in ANN_HITS]
    if evaluation.images:
        lines.append(("ANN recall@10 of pictures", [_share(own) for found in ways if (own := found.ann_images)]))
    lines.append(("one search, median", [f"{found.milliseconds.value:.2f} ms" for found in ways]))
    return lines


def _image_to_text(recalls: dict[int, Estimate]) -> str:
    figures = ", ".join(f"@{k} {_share(own)}" for k, own in recalls.items())
    return f"pictures asking for captions (stored vectors, every caption compared): recall {figures}"


def _share(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} % ({100 * estimate.lower:.1f}–{100 * estimate.upper:.1f})"


def _rank(estimate: Estimate, depth: int) -> str:
    return f"{estimate.value:,.0f}" if math.isfinite(estimate.value) else f"past {depth:,}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _without_infinity(value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
    if isinstance(value, dict):
        return {key: _without_infinity(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_without_infinity(own) for own in value]
    return None if isinstance(value, float) and math.isinf(value) else value
