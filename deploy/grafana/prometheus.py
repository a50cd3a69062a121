"""Asks a Prometheus over its HTTP API.

Owns the requests and what comes back. Knows no metric.
"""

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

_TIMEOUT_SECONDS = 30.0


class QueryError(Exception):
    """Prometheus refused a query; the message is its own."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its labels, and (seconds since 1970, value) in order of time."""

    labels: dict[str, str]
    points: list[tuple[float, float]]

    @property
    def finite(self) -> list[tuple[float, float]]:
        """Without what is no number: 0 / 0, and quantiles of nothing."""
        return [(at, value) for at, value in self.points if math.isfinite(value)]


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One call that stands for its bucket."""

    labels: dict[str, str]
    value: float
    at: float


class Prometheus:
    """A server at ``url``. Every method raises QueryError for what it refuses, OSError when it can't be reached."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def ready(self) -> bool:
        """Whether it has read its files and answers queries."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=_TIMEOUT_SECONDS):  # noqa: S310
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def now(self, expr: str) -> list[Series]:
        """What a query gives at this moment."""
        found = self._get("query", query=expr)["result"]
        return [Series(one["metric"], [_point(one["value"])]) for one in found]

    def between(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        """What a query gives every ``step`` seconds of a time, given in seconds since 1970."""
        found = self._get("query_range", query=expr, start=start, end=end, step=step)["result"]
        return [Series(one["metric"], [_point(pair) for pair in one["values"]]) for one in found]

    def exemplars(self, expr: str, start: float, end: float) -> list[Exemplar]:
        """Exemplars of the series that a query names. None without --enable-feature=exemplar-storage."""
        found = self._get("query_exemplars", query=expr, start=start, end=end)
        return [
            Exemplar(one["labels"], float(one["value"]), float(one["timestamp"]))
            for series in found
            for one in series["exemplars"]
        ]

    def targets(self) -> dict[str, str]:
        """The health of each job's targets: up, down or unknown."""
        return {one["scrapePool"]: one["health"] for one in self._get("targets", state="active")["activeTargets"]}

    def rules(self) -> list[Any]:
        """Every rule that it has loaded, as it tells them."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, what: str, **parameters: object) -> Any:  # noqa: ANN401 (JSON)
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise QueryError(f"{what} {parameters}: {error.read().decode('utf-8', 'replace')}") from error


def _point(pair: list[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
