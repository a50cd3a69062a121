"""``python -m deploy.grafana.draw --prometheus URL``: the dashboards as pictures, drawn without Grafana.

Owns the page: what each panel asks Prometheus, where it stands, its title and legend. What is inside of it is drawn by
``plots``. Needs matplotlib and Pillow.
"""

import argparse
import io
import math
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from deploy.grafana import plots
from deploy.grafana.dashboard_files import DashboardFile, Panel, read_dashboards
from deploy.grafana.plots import INK, PALE, Curve
from deploy.grafana.prometheus import Prometheus, Series

_PAGE, _CARD, _BORDER = "#f3f4f6", "#ffffff", "#dde1e6"
_COLUMN, _LINE = 66, 35
"""Pixels of a column and a line of Grafana's grid."""
_GAP, _HEAD, _DPI = 5, 66, 100
_LEFT_OF_AXES, _RIGHT_OF_AXES, _BELOW_AXES = 56, 14, 20
_LEGEND_LINE, _MOST_LEGEND_LINES = 14, 3
_LEGEND_MARK, _LEGEND_GAP = 17, 22
_CHARACTER = 6.1
"""Pixels of a character of descriptions and legends, on average."""
_TABLE_CHARACTER, _TABLE_LINE = 8.6, 20
_MOST_DOTS = 150


@dataclass(frozen=True, slots=True)
class Span:
    """The time that is drawn, in seconds since 1970, and how often values are asked for."""

    start: float
    end: float
    step: float
    rate_interval_seconds: int
    """What $__rate_interval stands for: four times as long as Prometheus scrapes, or more."""

    @property
    def times(self) -> np.ndarray:
        """Those at which there may be a value."""
        return self.start + self.step * np.arange(int((self.end - self.start) / self.step) + 1)


@dataclass(frozen=True, slots=True)
class Box:
    """A place on the page: pixels from its upper left corner."""

    left: float
    top: float
    width: float
    height: float


class Page:
    """A figure measured in pixels from its upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=_PAGE)

    def write(self, text: str, left: float, top: float, size: float, colour: str = INK, weight: str = "normal") -> None:
        """Text whose upper left corner is there."""
        place = left / self._width, 1 - top / self._height
        self._figure.text(*place, text, size=size, color=colour, weight=weight, va="top", ha="left")

    def card(self, box: Box) -> None:
        """The sheet that a panel stands on."""
        card = FancyBboxPatch(
            (box.left, self._height - box.top - box.height),
            box.width,
            box.height,
            boxstyle="round,pad=0,rounding_size=4",
            linewidth=0.8,
            facecolor=_CARD,
            edgecolor=_BORDER,
            transform=None,
            zorder=-1,
        )
        self._figure.add_artist(card)

    def stroke(self, left: float, top: float, colour: str) -> None:
        """A curve's mark in a legend."""
        across = left / self._width, (left + 12) / self._width
        down = 1 - top / self._height
        self._figure.add_artist(Line2D(across, (down, down), color=colour, linewidth=2.2))

    def axes(self, box: Box) -> Axes:
        """Empty axes there."""
        bottom = 1 - (box.top + box.height) / self._height
        size = box.width / self._width, box.height / self._height
        return self._figure.add_axes((box.left / self._width, bottom, *size), facecolor=_CARD)

    def png(self) -> bytes:
        """The picture, in few colours: a quarter of the bytes, and no difference to see."""
        full, small = io.BytesIO(), io.BytesIO()
        self._figure.savefig(full, format="png", facecolor=_PAGE)
        few = Image.open(full).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        few.save(small, "PNG", optimize=True)
        return small.getvalue()


def draw(dashboard: DashboardFile, prometheus: Prometheus, span: Span) -> bytes:
    """A dashboard as PNG. Raises QueryError for a query that Prometheus refuses."""
    lines = max(panel.top + panel.height for panel in dashboard.panels)
    page = Page(24 * _COLUMN + 2 * _GAP, lines * _LINE + _HEAD + 2 * _GAP)
    page.write(dashboard.title, 14, 12, 17, weight="bold")
    page.write(f"{dashboard.description}  {_said(span)}", 14, 42, 10, PALE)
    for panel in dashboard.panels:
        left, top = panel.left * _COLUMN + 2 * _GAP, panel.top * _LINE + _HEAD + _GAP
        if panel.kind == "row":
            page.write(panel.title, left + 2, top + 6, 11.5, weight="bold")
        else:
            size = panel.width * _COLUMN - 2 * _GAP, panel.height * _LINE - 2 * _GAP
            _draw_panel(page, Box(left, top, *size), panel, prometheus, span)
    return page.png()


def _draw_panel(page: Page, card: Box, panel: Panel, prometheus: Prometheus, span: Span) -> None:
    page.card(card)
    page.write(panel.title, card.left + 10, card.top + 9, 10.5, weight="bold")
    described = textwrap.wrap(panel.description, int((card.width - 16) / _CHARACTER))
    page.write("\n".join(described), card.left + 10, card.top + 28, 8, PALE)
    head = 32 + 14 * len(described)
    inside = Box(card.left, card.top + head, card.width, card.height - head)
    curves = _curves(panel, prometheus, span)
    if not curves:
        page.write("no data", inside.left + 12, inside.top + 8, 10, PALE)
    elif panel.kind == "stat":
        _draw_numbers(page, inside, panel, curves)
    elif panel.kind == "table":
        _draw_table(page, inside, panel, curves)
    else:
        _draw_plot(page, inside, panel, curves, _dots(panel, prometheus, span))


def _draw_numbers(page: Page, inside: Box, panel: Panel, curves: Sequence[Curve]) -> None:
    height = (inside.height - 8) / len(curves)
    for place, curve in enumerate(curves):
        box = Box(inside.left + 8, inside.top + place * height, inside.width - 16, height - 4)
        plots.draw_number(page.axes(box), panel, curve, alone=len(curves) == 1)


def _draw_table(page: Page, inside: Box, panel: Panel, curves: Sequence[Curve]) -> None:
    hidden = [name for one in panel.json["transformations"] for name in one["options"]["excludeByName"]]
    box = Box(inside.left + 12, inside.top + 6, inside.width - 24, inside.height - 16)
    plots.draw_rows(page.axes(box), curves, hidden, box.width / _TABLE_CHARACTER, box.height / _TABLE_LINE)


def _draw_plot(
    page: Page, inside: Box, panel: Panel, curves: Sequence[Curve], dots: Sequence[tuple[float, float]]
) -> None:
    heat = panel.kind == "heatmap"
    legend = [] if heat else _legend_lines([curve.name for curve in curves], inside.width - 24)
    below = _BELOW_AXES + _LEGEND_LINE * len(legend) + 4
    size = inside.width - _LEFT_OF_AXES - _RIGHT_OF_AXES, inside.height - below - 6
    axes = page.axes(Box(inside.left + _LEFT_OF_AXES, inside.top + 4, *size))
    if heat:
        plots.draw_heat(axes, panel, curves)
    else:
        plots.draw_lines(axes, panel, curves, dots)
    top = inside.top + inside.height - _LEGEND_LINE * len(legend) - 5
    for number, line in enumerate(legend):
        left = inside.left + 14
        for place, text in line:
            if place is not None:
                page.stroke(left, top + number * _LEGEND_LINE + 5, plots.colour(place))
                left += _LEGEND_MARK
            page.write(text, left, top + number * _LEGEND_LINE, 8, PALE)
            left += len(text) * _CHARACTER + _LEGEND_GAP


def _legend_lines(names: Sequence[str], width: float) -> list[list[tuple[int | None, str]]]:
    """(place of the curve, name) in lines of a width in pixels; what does not fit is counted."""
    lines: list[list[tuple[int | None, str]]] = []
    left = math.inf
    for place, name in enumerate(names):
        needed = _LEGEND_MARK + len(name) * _CHARACTER + _LEGEND_GAP
        if left + needed > width:
            if len(lines) == _MOST_LEGEND_LINES:
                lines[-1][-1] = (None, f"and {len(names) - place + 1} more")
                break
            lines.append([])
            left = 0.0
        lines[-1].append((place, name))
        left += needed
    return lines


def _curves(panel: Panel, prometheus: Prometheus, span: Span) -> list[Curve]:
    return [
        _curve(target.called(series.labels), series, span)
        for target in panel.targets
        for series in prometheus.between(target.filled(span.rate_interval_seconds), span.start, span.end, span.step)
        if series.finite
    ]


def _curve(name: str, series: Series, span: Span) -> Curve:
    times = span.times
    values = np.full(len(times), np.nan)
    for at, value in series.finite:
        values[round((at - span.start) / span.step)] = value
    return Curve(name, series.labels, times, values)


def _dots(panel: Panel, prometheus: Prometheus, span: Span) -> list[tuple[float, float]]:
    """Exemplars: the last calls of some buckets."""
    found = {
        (exemplar.at, exemplar.value)
        for target in panel.targets
        if target.exemplars
        for exemplar in prometheus.exemplars(target.filled(span.rate_interval_seconds), span.start, span.end)
    }
    return sorted(found)[:: max(1, len(found) // _MOST_DOTS)]


def _said(span: Span) -> str:
    start, end = (datetime.fromtimestamp(at, UTC) for at in (span.start, span.end))
    return f"{start:%Y-%m-%d}, {start:%H:%M} to {end:%H:%M} UTC."


def write_pictures(prometheus: Prometheus, span: Span, folder: Path) -> None:
    """Draw every dashboard into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for dashboard in read_dashboards():
        path = folder / f"{dashboard.name}.png"
        path.write_bytes(draw(dashboard, prometheus, span))
        sys.stdout.write(f"{path}: {path.stat().st_size // 1024} KiB\n")


def main() -> int:
    """Draw what a running Prometheus knows of the last minutes."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.draw", description=main.__doc__)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="where it is (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="how far back (default: %(default)g)")
    parser.add_argument("--scrape-seconds", type=int, default=15, help="how often it scrapes (default: %(default)d)")
    parser.add_argument("--output", type=Path, default=Path("dashboards"), help="folder (default: %(default)s)")
    chosen = parser.parse_args()
    seconds = 60 * chosen.minutes
    span = Span(time.time() - seconds, time.time(), max(1.0, seconds // 400), 4 * chosen.scrape_seconds)
    write_pictures(Prometheus(chosen.prometheus), span, chosen.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
