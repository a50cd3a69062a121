"""The shipped rules with time running faster, so that a test need not wait for days.

One transformation, of every rule alike: each window, each ``for`` and each offset is divided by FASTER, and none falls
below the least. Expressions, thresholds, labels and annotations stay as they are shipped; counts that a rule asks of a
window stay as rates.
"""

import re
from pathlib import Path

import yaml

from tests.operations.watching import RULES

FASTER = 60
LEAST_WINDOW_SECONDS = 5
"""At a scrape a second a rate needs a few."""
LEAST_FOR_SECONDS = 1

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_WINDOW = re.compile(r"(?<=\[)\d+[smhd](?=\])|(?<=offset )\d+[smhd]")


def quicken(folder: Path) -> Path:
    """Write every rule file into a folder, transformed; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in RULES.glob("*.yaml"):
        file = yaml.safe_load(path.read_text("utf-8"))
        for group in file["groups"]:
            for rule in group["rules"]:
                rule["expr"] = quicker(rule["expr"])
                if "for" in rule:
                    rule["for"] = _divided(rule["for"], LEAST_FOR_SECONDS)
        (folder / path.name).write_text(yaml.safe_dump(file), "utf-8")
    return folder


def quicker(expr: str) -> str:
    """One expression."""
    return _WINDOW.sub(lambda found: _divided(found[0], LEAST_WINDOW_SECONDS), expr)


def _divided(duration: str, least: int) -> str:
    return f"{max(least, int(duration[:-1]) * _SECONDS[duration[-1]] // FASTER)}s"
