"""The pictures of the page: recall against latency, latency against K, latency against the number of pictures.

Owns how they look.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from benchmarks.paper.published import FLAT, HITS, HNSW, IVF, LSH, SECONDS
from benchmarks.paper.results import Measured, Point

_PAPERS = (FLAT, IVF, HNSW, LSH)
_COLOURS = {
    FLAT: "#24292f",
    IVF: "#cf222e",
    HNSW: "#9a6700",
    LSH: "#8250df",
    "Python": "#afb8c1",
    "NumPy": "#6e7781",
    "tuned": "#bf3989",
    "ivf-fastscan": "#1a7f37",
    "fastscan": "#0969da",
    "exact": "#1b7c83",
    "hnsw": "#bc4c00",
}
"""By a part of the name, the first that is in it."""
_TICKS = (0.3, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)


def front(lines: Mapping[str, Sequence[Point]], path: Path, title: str) -> None:
    """Recall of captions against latency; the paper's own settings are marked by squares."""
    picture, axes = _axes()
    for name, points in lines.items():
        colour = _colour(name)
        places = [(1e3 * point.seconds, _missed(point.captions)) for point in _unbeaten(points)]
        form = "D" if name.endswith("gRPC") else "o-"
        axes.plot(*zip(*places, strict=True), form, color=colour, ms=5, lw=1.4, label=name)
        if name in _PAPERS:
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
    for one in measured:
        colour = _colour(one.name)
        k = sorted(one.seconds)
        label = f"{one.name}, {one.setting}" if one.name == FLAT else one.name
        form = "o--" if one.name == FLAT and one.build_seconds is None else "o-"
        axes.plot(k, [1e3 * one.seconds[each].median for each in k], form, color=colour, ms=4, label=label)
        axes.fill_between(
            k,
            [1e3 * one.seconds[each].lower for each in k],
            [1e3 * one.seconds[each].upper for each in k],
            color=colour,
            alpha=0.15,
            lw=0,
        )
    for name, seconds in SECONDS[dimension].items():
        colour = _colour(name)
        axes.plot(HITS, [1e3 * own for own in seconds], "x:", color=colour, ms=5, lw=1, label=f"the paper: {name}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("K, hits asked for")
    axes.set_ylabel("one search, ms")
    _finish(picture, axes, path, title)


def by_rows(sizes: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Latency against the number of pictures."""
    picture, axes = _axes()
    for name in sizes[0]["ways"]:
        rows = [size["rows"] for size in sizes]
        milliseconds = [1e3 * size["ways"][name]["seconds"]["median"] for size in sizes]
        recall = sizes[-1]["ways"][name]["recall"]["value"]
        label = f"{name} (recall@10 {recall:.3f} at {rows[-1]:,})"
        axes.plot(rows, milliseconds, "o-", color=_colour(name), ms=4, label=label)
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


def _colour(name: str) -> str:
    return next((colour for part, colour in _COLOURS.items() if part in name), "#afb8c1")


def _unbeaten(points: Sequence[Point]) -> list[Point]:
    """Those that no quicker one beats, and the usual one."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: point.seconds):
        if not front or point.captions > front[-1].captions or point.usual:
            front.append(point)
    return front


def _missed(recall: float) -> float:
    return max(1.0 - recall, 3e-4)
