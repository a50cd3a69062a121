"""What was measured, kept as one JSON file for each index and dataset, so that a run that was stopped goes on.

Owns the files' form. Measures nothing.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from eyebright_cli.evaluate.metrics import Estimate


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long searches took, one after another."""

    median: float
    lower: float
    """The first quartile."""
    upper: float
    """The third."""
    searches: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Seconds":
        """Of single searches."""
        lower, median, upper = (float(value) for value in np.quantile(seconds, (0.25, 0.5, 0.75)))
        return cls(median, lower, upper, len(seconds))


@dataclass(frozen=True, slots=True)
class Point:
    """One effort of an index: ANN recall@10, and the median of a caption's search for ten."""

    setting: str
    captions: float
    images: float
    seconds: float
    usual: bool = False
    """Whether it is the setting of the tables."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to search one dataset."""

    name: str
    setting: str
    build_seconds: float | None = None
    recall: dict[str, Estimate] = field(default_factory=dict)
    """Keys as ``task`` names them."""
    seconds: dict[int, Seconds] = field(default_factory=dict)
    """By the number of hits asked for."""
    points: list[Point] = field(default_factory=list)
    note: str = ""


class Results:
    """A folder of them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def has(self, key: str) -> bool:
        """Whether this was measured before."""
        return self._path(key).exists()

    def keep(self, key: str, measured: Measured) -> None:
        """Write one, whole or not at all."""
        self.keep_facts(key, asdict(measured))

    def get(self, key: str) -> Measured | None:
        """Read one; None where it was not measured yet."""
        read = self.facts(key)
        if read is None:
            return None
        return Measured(
            name=read["name"],
            setting=read["setting"],
            build_seconds=read["build_seconds"],
            recall={name: Estimate(**own) for name, own in read["recall"].items()},
            seconds={int(k): Seconds(**own) for k, own in read["seconds"].items()},
            points=[Point(**own) for own in read["points"]],
            note=read["note"],
        )

    def keep_facts(self, key: str, facts: dict[str, Any]) -> None:
        """Write what is no Measured."""
        aside = self._path(key).with_suffix(".new")
        aside.write_text(json.dumps(facts, indent=1), "utf-8")
        aside.replace(self._path(key))

    def facts(self, key: str) -> dict[str, Any] | None:
        """Read it; None where it is not there yet."""
        path = self._path(key)
        read: dict[str, Any] | None = json.loads(path.read_text("utf-8")) if path.exists() else None
        return read

    def forget(self, key: str) -> None:
        """So that it is measured again."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"
