"""What is inside of a panel: lines, a number before its course, a heat map, a table.

Owns colours and axes. Knows neither Prometheus nor where on the page a panel stands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from deploy.grafana.dashboard_files import Panel
from deploy.grafana.units import round_step, said

INK, PALE, GRID = "#1f2328", "#59636e", "#e6e9ed"
COLOURS = (
    "#0969da", "#1a7f37", "#bf8700", "#8250df", "#cf222e", "#1b7c83",
    "#bc4c00", "#6e7781", "#bf3989", "#4d2d00", "#54aeff", "#4ac26b",
)  # fmt: skip
THRESHOLDS = {"green": "#1a7f37", "orange": "#d4760a", "red": "#cf222e"}

_DAY_SECONDS = 86_400.0
_TICK_SIZE = 7.5
_MOST_TICKS = 5
_NEAR = 30.0
"""Up to this ratio of the largest value to the least, a logarithmic axis is also marked between powers of ten."""
_ROOM = 0.02
"""Below the least value, where a panel does not begin at 0."""
_TIME_STEPS = tuple(60.0 * minutes for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440))


@dataclass(frozen=True, slots=True)
class Curve:
    """One series: its name in the legend, and its value at each time, in seconds since 1970; NaN where it has none."""

    name: str
    labels: dict[str, str]
    times: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float:
        """The newest value that is a number."""
        finite = self.values[np.isfinite(self.values)]
        return float(finite[-1]) if len(finite) else math.nan


def colour(place: int) -> str:
    """Of the curve at that place of the legend."""
    return COLOURS[place % len(COLOURS)]


def draw_lines(axes: Axes, panel: Panel, curves: Sequence[Curve], dots: Sequence[tuple[float, float]]) -> None:
    """Values over time, stacked where the panel says so; ``dots`` are single calls, (time, value)."""
    custom = panel.defaults.get("custom", {})
    logarithmic = custom.get("scaleDistribution", {}).get("type") == "log"
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    if stacked:
        _stack(axes, curves)
    else:
        for place, curve in enumerate(curves):
            values = np.where(curve.values > 0, curve.values, np.nan) if logarithmic else curve.values
            axes.plot(_dates(curve.times), values, color=colour(place), linewidth=1.3, solid_joinstyle="round")
            if len(curves) == 1 and not logarithmic:
                axes.fill_between(_dates(curve.times), values, 0, color=colour(place), alpha=0.1, linewidth=0)
    if dots:
        times, lengths = np.array(dots).T
        axes.scatter(_dates(times), lengths, s=9, marker="D", color=PALE, alpha=0.45, linewidth=0, zorder=1.5)
    _scale(axes, panel, curves, stacked=stacked, logarithmic=logarithmic)
    if custom.get("thresholdsStyle", {}).get("mode") == "dashed":
        for value, name in _thresholds(panel):
            if value is not None and axes.get_ylim()[0] <= value <= axes.get_ylim()[1]:
                axes.axhline(value, color=THRESHOLDS[name], linewidth=1, linestyle=(0, (4, 3)))


def draw_heat(axes: Axes, panel: Panel, curves: Sequence[Curve]) -> None:
    """How many fell into each bucket of a histogram, over time. Each curve counts a bucket and those below."""
    ordered = sorted(curves, key=lambda curve: float(curve.labels["le"].replace("+Inf", "inf")))
    times = ordered[0].times
    counts = np.diff(np.vstack([np.zeros(len(times)), *(np.nan_to_num(curve.values) for curve in ordered)]), axis=0)
    used = np.flatnonzero(counts.max(axis=1) > 0)
    first, last = (used[0], used[-1]) if len(used) else (0, len(ordered) - 1)
    first, last = max(0, first - 1), min(len(ordered) - 1, last + 1)
    shown = np.where(counts[first : last + 1] > 0, counts[first : last + 1], np.nan)
    top = max(1.0, float(np.nanmax(shown))) if len(used) else 1.0
    edges = np.append(times, 2 * times[-1] - times[-2])
    axes.pcolormesh(
        _dates(edges), np.arange(len(shown) + 1), shown, cmap="Blues", norm=LogNorm(min(0.3, top / 2), top), linewidth=0
    )
    step = math.ceil(len(shown) / 7)
    places = range(0, len(shown), step)
    names = [ordered[first + place].labels["le"] for place in places]
    axes.yaxis.set_major_locator(FixedLocator([place + 1.0 for place in places]))
    axes.set_yticklabels(["more" if name == "+Inf" else said(float(name), panel.unit) for name in names])
    axes.set_ylim(0, len(shown))
    _dress(axes, times, grid=False)


def draw_number(axes: Axes, panel: Panel, curve: Curve, *, alone: bool) -> None:
    """The newest value, large and in the colour of its threshold, before its course."""
    shade = THRESHOLDS["green"]
    for value, name in _thresholds(panel):
        if value is None or curve.last >= value:
            shade = THRESHOLDS[name]
    finite = np.isfinite(curve.values)
    axes.fill_between(_dates(curve.times), np.where(finite, curve.values, 0), 0, color=shade, alpha=0.16, linewidth=0)
    axes.plot(_dates(curve.times), curve.values, color=shade, linewidth=1.1)
    highest = float(np.nanmax(curve.values)) if finite.any() else 1.0
    axes.set_ylim(0, max(highest, 1e-9) * 2.2)
    axes.set_xlim(curve.times[0] / _DAY_SECONDS, curve.times[-1] / _DAY_SECONDS)
    axes.set_axis_off()
    inside, newest = axes.transAxes, said(curve.last, panel.unit)
    if alone:
        axes.text(0.5, 0.52, newest, size=23, weight="bold", color=shade, va="center", ha="center", transform=inside)
        axes.text(0.5, 0.95, curve.name, size=8.5, color=PALE, va="top", ha="center", transform=inside)
    else:
        axes.text(0.98, 0.72, newest, size=15, weight="bold", color=shade, va="center", ha="right", transform=inside)
        axes.text(0.02, 0.72, curve.name, size=8.5, color=PALE, va="center", ha="left", transform=inside)


def draw_rows(axes: Axes, curves: Sequence[Curve], hidden: Sequence[str], characters: float, lines: float) -> None:
    """The labels of series, a line each, on a place for so many characters and lines."""
    axes.set_axis_off()
    columns = sorted({name for curve in curves for name in curve.labels} - set(hidden))
    longest = [max(len(name), *(len(curve.labels.get(name, "")) for curve in curves)) for name in columns]
    most = max(longest)
    while sum(min(one, most) + 3 for one in longest) > characters:
        most -= 1
    left = 0.0
    for name, width in zip(columns, longest, strict=True):
        axes.text(left, 1.0, name, size=8.5, weight="bold", color=PALE, va="top", transform=axes.transAxes)
        for line, curve in enumerate(curves, 1):
            text = curve.labels.get(name, "")
            shown = text if len(text) <= most else f"{text[: most - 1]}…"
            axes.text(left, 1.0 - line / lines, shown, size=8.5, color=INK, va="top", transform=axes.transAxes)
        left += (min(width, most) + 3) / characters


def _stack(axes: Axes, curves: Sequence[Curve]) -> None:
    times = np.unique(np.concatenate([curve.times for curve in curves]))
    layers = []
    for curve in curves:
        layer = np.zeros(len(times))
        layer[np.searchsorted(times, curve.times)] = np.nan_to_num(curve.values)
        layers.append(layer)
    colours = [colour(place) for place in range(len(curves))]
    axes.stackplot(_dates(times), *layers, colors=colours, alpha=0.32, linewidth=0)
    for layer, shade in zip(np.cumsum(layers, axis=0), colours, strict=True):
        axes.plot(_dates(times), layer, color=shade, linewidth=0.9)


def _scale(axes: Axes, panel: Panel, curves: Sequence[Curve], *, stacked: bool, logarithmic: bool) -> None:
    finite = np.concatenate([curve.values[np.isfinite(curve.values)] for curve in curves])
    if logarithmic:
        _scale_logarithmic(axes, finite[finite > 0])
    else:
        _scale_linear(axes, panel, finite, axes.get_ylim()[1] if stacked and finite.any() else 1.12 * finite.max())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: said(value, panel.unit)))
    _dress(axes, curves[0].times, grid=True)


def _scale_logarithmic(axes: Axes, positive: np.ndarray) -> None:
    low, high = (positive.min(), positive.max()) if len(positive) else (0.1, 1.0)
    axes.set_yscale("log")
    axes.set_ylim(low / 1.6, high * 1.6)
    between = (1.0, 2.0, 5.0) if high / low < _NEAR else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=between, numticks=_MOST_TICKS + 3))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _scale_linear(axes: Axes, panel: Panel, finite: np.ndarray, top: float) -> None:
    """From the panel's bounds where it has some, else around the values; the first dashed line is always in sight."""
    lowest, highest = panel.defaults.get("min"), panel.defaults.get("max")
    dashed = "thresholdsStyle" in panel.defaults.get("custom", {})
    marks = [1.25 * value for value, _ in _thresholds(panel) if dashed and value is not None]
    bottom = finite.min() - _ROOM if lowest is None else lowest
    ceiling = max(top, *marks[:1], 0.0) or 1.0 if highest is None else highest
    axes.set_ylim(bottom, ceiling + 0.01 * (ceiling - bottom))
    whole = panel.unit in {"none", "short"} and bool(np.all(finite == np.round(finite)))
    step = round_step(ceiling, panel.unit)
    locator = MaxNLocator(_MOST_TICKS, integer=whole, steps=[1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10])
    ticks = step * np.asarray(locator.tick_values(bottom / step, ceiling / step))
    axes.yaxis.set_major_locator(FixedLocator(ticks[(ticks >= bottom) & (ticks <= ceiling)].tolist()))


def _dress(axes: Axes, times: np.ndarray, *, grid: bool) -> None:
    first, last = float(times[0]), float(times[-1])
    step = next((step for step in _TIME_STEPS if (last - first) / step <= _MOST_TICKS + 1), _TIME_STEPS[-1])
    marks = np.arange(math.ceil(first / step) * step, last, step)
    axes.set_xlim(first / _DAY_SECONDS, last / _DAY_SECONDS)
    axes.set_xticks(_dates(marks), [datetime.fromtimestamp(at, UTC).strftime("%H:%M") for at in marks])
    axes.tick_params(labelsize=_TICK_SIZE, colors=PALE, length=0, pad=3)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(visible=True, color=GRID, linewidth=0.7)


def _thresholds(panel: Panel) -> list[tuple[float | None, str]]:
    steps = panel.defaults.get("thresholds", {}).get("steps", ())
    return [(step["value"], step["color"]) for step in steps]


def _dates(times: np.ndarray) -> np.ndarray:
    """As matplotlib counts time."""
    days: np.ndarray = times / _DAY_SECONDS
    return days
