"""The dashboards as they lie in ``dashboards/``, read back for those who check or draw them.

Owns what of Grafana's JSON is used here, and what its variables stand for outside of Grafana.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"

_EVERYTHING = {"$instance": ".*", "$collection": ".*"}


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel."""

    expr: str
    legend: str
    exemplars: bool

    def filled(self, rate_interval_seconds: int) -> str:
        """The query with every variable at "all". Raises ValueError when it has another."""
        text = self.expr.replace("$__rate_interval", f"{rate_interval_seconds}s")
        for name, value in _EVERYTHING.items():
            text = text.replace(name, value)
        if "$" in text:
            raise ValueError(f"expected no variable but {sorted(_EVERYTHING)} and $__rate_interval: {self.expr}")
        return text

    def called(self, labels: dict[str, str]) -> str:
        """What the legend calls a series with these labels."""
        return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), self.legend).strip()


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel, or the headline of a row."""

    kind: str
    """timeseries, stat, heatmap, table or row."""
    title: str
    description: str
    left: int
    top: int
    width: int
    height: int
    """Place and size; a dashboard is 24 wide."""
    targets: tuple[Target, ...]
    json: dict[str, Any]

    @property
    def defaults(self) -> dict[str, Any]:
        """Unit, bounds and thresholds."""
        found: dict[str, Any] = self.json.get("fieldConfig", {}).get("defaults", {})
        return found

    @property
    def unit(self) -> str:
        """As Grafana calls it."""
        of_axis = self.json.get("options", {}).get("yAxis", {}).get("unit")
        return str(of_axis or self.defaults.get("unit", "none"))


@dataclass(frozen=True, slots=True)
class DashboardFile:
    """One dashboard."""

    name: str
    """Of its file, without suffix."""
    title: str
    description: str
    panels: tuple[Panel, ...]


def read_dashboards() -> list[DashboardFile]:
    """All of them, by name."""
    return [_read(path) for path in sorted(FOLDER.glob("*.json"))]


def _read(path: Path) -> DashboardFile:
    found = json.loads(path.read_text("utf-8"))
    panels = tuple(_panel(one) for one in found["panels"])
    return DashboardFile(path.stem, found["title"], found["description"], panels)


def _panel(found: dict[str, Any]) -> Panel:
    place = found["gridPos"]
    targets = tuple(
        Target(one["expr"], one.get("legendFormat", ""), one.get("exemplar", False)) for one in found.get("targets", ())
    )
    size = place["x"], place["y"], place["w"], place["h"]
    return Panel(found["type"], found.get("title", ""), found.get("description", ""), *size, targets, found)
