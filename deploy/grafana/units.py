"""Values as people read them.

Owns what Grafana's names of units mean here.
"""

import math
from collections.abc import Callable

_SECONDS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES = ((2.0**40, " TiB"), (2.0**30, " GiB"), (2.0**20, " MiB"), (2.0**10, " KiB"), (1.0, " B"))
_COUNTS = ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, ""))
_SMALLEST_COUNT = 1e-4


def _scaled(steps: tuple[tuple[float, str], ...], value: float) -> str:
    factor, name = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    joined = f" {name}" if steps is _SECONDS else name
    return f"{_short(value / factor)}{joined}"


def _short(value: float) -> str:
    """Three digits are enough, and zeros at their end none."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _count(value: float) -> str:
    if value and abs(value) < _SMALLEST_COUNT:
        return f"{value:.2g}".replace("e-0", "e-")
    return _scaled(_COUNTS, value)


_UNITS: dict[str, Callable[[float], str]] = {
    "s": lambda value: _scaled(_SECONDS, value),
    "bytes": lambda value: _scaled(_BYTES, value),
    "percentunit": lambda value: f"{_short(100 * value)} %",
    "reqps": lambda value: f"{_count(value)}/s",
    "cps": lambda value: f"{_count(value)}/s",
    "none": _count,
    "short": _count,
}


def said(value: float, unit: str) -> str:
    """The value with its unit. Raises KeyError for a unit that no panel has had yet."""
    if not math.isfinite(value):
        return "no data"
    return "0" if value == 0 else _UNITS[unit](value)


def round_step(highest: float, unit: str) -> float:
    """Of what an axis up to there is marked in multiples, so that its marks are round as people read them."""
    steps = {"s": _SECONDS, "bytes": _BYTES}.get(unit, ())
    return next((factor for factor, _ in steps if factor >= 1 and highest >= 2 * factor), 1.0)
