"""The picture of a tuning: recall against latency, a line for each recipe.

Owns how it looks. Needs matplotlib, which the extra ``plot`` installs, and imports it only to draw.
"""

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from eyebright_client import MeasuredPoint, Tuning

from eyebright_cli.errors import CliError, MissingExtraError
from eyebright_cli.presentation import plain

_SUFFIXES = (".png", ".svg", ".pdf")
_TICKS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
_NEAREST_TO_ONE = 3e-4
"""Recalls as close to 1 as this are drawn where 1 is: the scale is that of the share that is missed."""

_INK = "#24292f"
_COLOURS = {
    "fastscan": "#0969da",
    "ivf-fastscan": "#1a7f37",
    "hnsw": "#9a6700",
    "ivf-flat": "#8250df",
    "lsh": "#cf222e",
    "exact": _INK,
    "auto": _INK,
}


def check_plot(path: Path) -> None:
    """Raise CliError when nothing could be drawn into the file, before anything is measured for it."""
    if path.suffix.lower() not in _SUFFIXES:
        raise CliError(f"{path}: expected a name that ends in {', '.join(_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise CliError(f"{path}: there is no folder {path.absolute().parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError('a plot needs matplotlib: pip install "eyebright[plot]"')


def draw(collection: str, found: Tuning, path: Path) -> None:
    """Draw what was measured into a file. Raises CliError when nothing was, OSError when it can't be written."""
    if not found.front:
        raise CliError("nothing was measured, so there is nothing to draw")
    from matplotlib.figure import Figure  # it takes a second to import, and not everybody has it

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    lines = {(point.recipe, point.centred) for point in found.front}
    for recipe, centred in sorted(lines, key=lambda line: (list(_COLOURS).index(line[0]), line[1])):
        points = [point for point in found.front if (point.recipe, point.centred) == (recipe, centred)]
        axes.plot(
            *_places(points),
            color=_COLOURS[recipe],
            linestyle="--" if centred else "-",
            marker="o",
            markersize=4,
            linewidth=1.5,
            label=f"{recipe}, centred" if centred else recipe,
        )
    [[x], [y]] = _places([found.chosen])
    axes.plot([x], [y], marker="*", markersize=16, color="#bf3989", linestyle="none", label="chosen", zorder=3)
    axes.axvline(_place(found.target_recall), color=_INK, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda milliseconds, _: f"{milliseconds:g}")
    axes.yaxis.set_minor_formatter(
        lambda milliseconds, _: f"{milliseconds:g}" if f"{milliseconds:e}"[0] in "25" else ""
    )
    lowest = min(point.least_recall or 0.0 for point in found.front)
    ticks = [tick for tick in _TICKS if tick >= lowest]
    axes.set_xticks([_place(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.grid(which="major", color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"recall@{found.k}{_whose(found.chosen)}; dotted: the target, {found.target_recall:g}")
    axes.set_ylabel("latency of one query on the server, ms")
    axes.set_title(f"{plain(collection)}, {found.time:%Y-%m-%d %H:%M} UTC", loc="left", color=_INK)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=150)


def _places(points: Sequence[MeasuredPoint]) -> tuple[np.ndarray, np.ndarray]:
    """Where points are drawn: recall, and latency in milliseconds."""
    recalls = [_place(point.least_recall or 0.0) for point in points]
    return np.array(recalls), np.array([1e3 * (point.latency_seconds or 0.0) for point in points])


def _place(recall: float) -> float:
    """Where a recall stands: equal steps for each tenfold less that is missed."""
    return -math.log10(max(1.0 - recall, _NEAREST_TO_ONE))


def _whose(point: MeasuredPoint) -> str:
    if len(point.recall) > 1:
        return ", of captions or pictures, whichever is lower"
    return {"text": " of captions", "image": " of pictures"}.get(point.recall[0].modality, "") if point.recall else ""
