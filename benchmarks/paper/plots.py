"""The pictures of the page: recall against latency, latency against K, latency against the number of pictures.

Owns how they look.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from benchmarks.paper.published import FLAT, HITS, HNSW, IVF, LSH, SECONDS
from benchmarks.paper.results import Measured, Point

_COLOURS = {FLAT: "#24292f", IVF: "#cf222e", HNSW: "#9a6700", LSH: "#8250df"}
_OURS = ("#0969da", "#1a7f37", "#bf3989", "#1b7c83", "#bc4c00", "#6639ba")
_TICKS = (0.3, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)


def front(lines: Mapping[str, Sequence[Point]], path: Path, title: str) -> None:
    """Recall of captions against latency; the paper's own settings are marked by squares."""
    picture, axes = _axes()
    own = cycle(_OURS)
    for name, points in lines.items():
        colour = _COLOURS.get(name) or next(own)
        shown = sorted(points, key=lambda point: point.seconds)
        places = [(1e3 * point.seconds, _missed(point.captions)) for point in shown]
        axes.plot(*zip(*places, strict=True), "o-", color=colour, ms=4, lw=1.4, label=name)
        if name in _COLOURS:
            usual = next(point for point in points if point.usual)
            axes.plot(1e3 * usual.seconds, _missed(usual.captions), "s", color=colour, ms=10, mfc="none", mew=1.8)
    axes.plot([], [], "s", color="#57606a", ms=9, mfc="none", mew=1.8, label="the paper's four, at its settings")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_yaxis()
    axes.set_yticks([_missed(tick) for tick in _TICKS], [f"{tick:g}" for tick in _TICKS])
    axes.minorticks_off()
    axes.set_xlabel("one caption, ms")
    axes.set_ylabel("ANN recall@10 of captions")
    _finish(picture, axes, path, title)


def by_hits(measured: Sequence[Measured], dimension: int, path: Path, title: str) -> None:
    """Latency against K; what the paper printed is dotted."""
    picture, axes = _axes()
    own = cycle(_OURS)
    for one in measured:
        colour = _COLOURS.get(one.name) or next(own)
        k = sorted(one.seconds)
        label = one.name if one.name != FLAT else f"{one.name}, {one.setting}"
        axes.plot(k, [1e3 * one.seconds[each].median for each in k], "o-", color=colour, ms=4, label=label)
        axes.fill_between(
            k,
            [1e3 * one.seconds[each].lower for each in k],
            [1e3 * one.seconds[each].upper for each in k],
            color=colour,
            alpha=0.15,
            lw=0,
        )
    for name, seconds in SECONDS[dimension].items():
        colour = _COLOURS.get(name, "#57606a")
        axes.plot(HITS, [1e3 * own for own in seconds], "x:", color=colour, ms=5, lw=1, label=f"the paper: {name}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("K, hits asked for")
    axes.set_ylabel("one search, ms")
    _finish(picture, axes, path, title)


def by_rows(sizes: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Latency against the number of pictures."""
    picture, axes = _axes()
    own = cycle(_OURS)
    for name in sizes[0]["ways"]:
        rows = [size["rows"] for size in sizes]
        milliseconds = [1e3 * size["ways"][name]["seconds"]["median"] for size in sizes]
        recall = sizes[-1]["ways"][name]["recall"]["value"]
        label = f"{name} (recall@10 {recall:.3f} at {rows[-1]:,})"
        axes.plot(rows, milliseconds, "o-", color=_COLOURS.get(name) or next(own), ms=4, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("pictures")
    axes.set_ylabel("one caption, ten hits, ms")
    _finish(picture, axes, path, title)


def _axes() -> tuple[Picture, Axes]:
    matplotlib.rcParams["svg.hashsalt"] = "eyebright"
    picture = Picture(figsize=(9.0, 5.4), layout="constrained")
    return picture, picture.add_subplot()


def _finish(picture: Picture, axes: Axes, path: Path, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=120)


def _missed(recall: float) -> float:
    return max(1.0 - recall, 3e-4)
