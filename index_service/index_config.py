"""How a collection is indexed: what its owner chose, what the tuner found, and the effort of a search that follows.

Owns those choices and their file. Knows no segment, no FAISS and no request.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from index_service import checked_json
from index_service.fault_points import reach
from index_service.recipes import FASTSCAN, Build, Effort, Recipe
from index_service.segment_folder import sync_folder

CONFIG_FILE = "index.json"
"""Name of the file in a collection's folder."""

INDEX_FROM_ROWS = 50_000
"""Rows from which a segment gets an index that proposes: below, a scan of its vectors is as quick."""

_FORMAT = 1
_INTERVAL_ERRORS = 1.96
"""Standard errors from a mean to the end of its interval."""

_logger = logging.getLogger("eyebright.index_config")


class Modality(Enum):
    """What queries were made of."""

    TEXT = "TEXT"
    IMAGE = "IMAGE"
    RECORD = "RECORD"


@dataclass(frozen=True, slots=True)
class Recall:
    """ANN recall@k of one modality, on queries that nothing was chosen by."""

    mean: float
    lower: float
    """With ``upper``, the interval that holds the true mean with 95 % confidence, 0 to 1."""
    upper: float
    query_count: int
    """Queries that it rests on; 0 for an exact search, which needs none."""

    def reaches(self, target: float) -> bool:
        """Whether it can be promised: the mean passes the target by a standard error, or by half of what the target
        leaves to 1 where that is less, so that few queries don't put it out of reach.
        """
        margin = min((self.mean - self.lower) / _INTERVAL_ERRORS, (1.0 - target) / 2)
        return self.mean >= target + margin


@dataclass(frozen=True, slots=True)
class Measured:
    """One point of a recall/latency front."""

    build: Build
    effort: Effort
    recall: Mapping[str, Recall]
    """By name of the modality; empty when there were too few queries."""
    latency_seconds: float | None
    """Of one query over all shards; None when it was not measured."""
    index_bytes: int | None
    """Bytes of the index beside the vectors, estimated for the whole collection; None when not known."""

    def meets(self, target: float, modality: Modality) -> bool:
        """Whether queries of this modality, or all that were measured where it was not, reach the target."""
        known = self.recall.get(modality.value)
        return self.reaches(target) if known is None else known.reaches(target)

    def reaches(self, target: float) -> bool:
        """Whether queries of every modality that was measured reach the target."""
        return bool(self.recall) and all(recall.reaches(target) for recall in self.recall.values())

    @property
    def least_recall(self) -> float:
        """The lowest mean of all modalities; 0 when none was measured."""
        return min((recall.mean for recall in self.recall.values()), default=0.0)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a tuning is asked for."""

    target_recall: float = 0.99
    k: int = 10
    memory_limit_bytes: int | None = None
    """Most bytes of the index beside the vectors; None for any number."""


class Basis(Enum):
    """What a choice rests on."""

    MEASURED = "measured"
    FEW_QUERIES = "few queries"
    EXACT = "exact"
    """Every vector is compared anyway."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a tuning found."""

    goal: Goal
    basis: Basis
    chosen: Measured
    front: tuple[Measured, ...]
    """All that was found worth its time, fastest first."""
    target_met: bool
    time_ns: int
    """When it was found, nanoseconds since 1970-01-01 UTC."""


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """The choices for one collection."""

    build: Build | None = None
    """The owner's choice; None leaves it to the tuner, and until that has spoken to fastscan."""
    effort: Effort | None = None
    """The owner's choice; None leaves it to the tuner, then to the defaults."""
    tuning: Tuning | None = None
    """What the tuner found last."""

    @property
    def build_in_force(self) -> Build:
        """How segments large enough for an index are built."""
        if self.build is not None:
            return self.build
        return FASTSCAN if self.tuning is None else self.tuning.chosen.build

    @property
    def recall_target(self) -> float | None:
        """What the last tuning was asked for; None before the first."""
        return None if self.tuning is None else self.tuning.goal.target_recall

    @property
    def effort_in_force(self) -> Effort:
        """How segments are searched unless a request says otherwise."""
        if self.effort is not None:
            return self.effort
        if self.tuning is not None and self.tuning.chosen.build == self.build_in_force:
            return self.tuning.chosen.effort
        return Effort()

    def effort_for(self, target: float, modality: Modality) -> Effort | None:
        """The least effort known to reach a recall with the index in force; None when only an exact answer is sure to.

        A collection that was never tuned has its default effort trusted up to 0.99: see docs/accuracy.md. What was
        measured with one k is believed of every other.
        """
        if target >= 1.0:
            return None
        known = self._measured_in_force()
        if not known:
            return Effort() if target <= _TRUSTED_RECALL else None
        return next((point.effort for point in known if point.meets(target, modality)), None)

    def recall_of(self, effort: Effort, modality: Modality) -> float | None:
        """What the tuner measured of the index in force at this effort; None when it did not."""
        same = (point.recall.get(modality.value) for point in self._measured_in_force() if point.effort == effort)
        found = next(same, None)
        return None if found is None else found.mean

    def chosen(self, build: Build | None, effort: Effort | None) -> "IndexConfig":
        """These choices of the owner, beside what the tuner found."""
        return replace(self, build=build, effort=effort)

    def tuned(self, tuning: Tuning, since: "IndexConfig") -> "IndexConfig":
        """With what was found by a tuning, which began when the choices were those of ``since``. It takes the place of
        an effort that the owner had chosen before.
        """
        return replace(self, tuning=tuning, effort=None if self.effort == since.effort else self.effort)

    def _measured_in_force(self) -> list[Measured]:
        """What was measured of the index in force, fastest first."""
        front = () if self.tuning is None else self.tuning.front
        return [point for point in front if point.build == self.build_in_force]


UNCONFIGURED = IndexConfig()
_TRUSTED_RECALL = 0.99


def read_config(folder: Path) -> IndexConfig:
    """The choices kept in a collection's folder; the defaults where there are none, or none that can be read."""
    path = folder / CONFIG_FILE
    try:
        described = checked_json.parse(path.read_text("utf-8"))
        if described["format"] != _FORMAT:
            raise ValueError(f"expected format {_FORMAT}, not {described['format']}")
        return IndexConfig(
            _optional(_read_build, described["build"]),
            _optional(_read_effort, described["effort"]),
            _optional(_read_tuning, described["tuning"]),
        )
    except FileNotFoundError:
        return IndexConfig()
    except (OSError, ValueError, KeyError, TypeError) as error:
        _logger.warning("index configuration not used", extra={"path": str(path), "reason": repr(error)})
        return IndexConfig()


def write_config(folder: Path, config: IndexConfig) -> None:
    """Keep the choices, durably. Raises OSError, and then the old ones stand unless the disk fails at the very end."""
    described = {
        "format": _FORMAT,
        "build": _optional(_describe_build, config.build),
        "effort": _optional(asdict, config.effort),
        "tuning": _optional(_describe_tuning, config.tuning),
    }
    aside = folder / f"{CONFIG_FILE}.writing"
    reach("config.before_writing")
    with aside.open("w", encoding="utf-8") as file:
        file.write(checked_json.render(described))
        file.flush()
        os.fsync(file.fileno())
    reach("config.before_rename")
    aside.replace(folder / CONFIG_FILE)
    reach("config.after_rename")
    sync_folder(folder)


def _optional(function: Callable[[Any], Any], value: Any) -> Any:  # noqa: ANN401 - JSON
    return None if value is None else function(value)


def _describe_build(build: Build) -> dict[str, Any]:
    return {"recipe": build.recipe.value, "centred": build.centred}


def _read_build(described: dict[str, Any]) -> Build:
    return Build(Recipe(described["recipe"]), bool(described["centred"]))


def _read_effort(described: dict[str, Any]) -> Effort:
    return Effort(float(described["k_factor"]), float(described["probed_share"]), int(described["ef_search"]))


def _describe_tuning(tuning: Tuning) -> dict[str, Any]:
    return {
        "goal": asdict(tuning.goal),
        "basis": tuning.basis.value,
        "chosen": _describe_measured(tuning.chosen),
        "front": [_describe_measured(point) for point in tuning.front],
        "target_met": tuning.target_met,
        "time_ns": tuning.time_ns,
    }


def _read_tuning(described: dict[str, Any]) -> Tuning:
    return Tuning(
        read_goal(described["goal"]),
        Basis(described["basis"]),
        _read_measured(described["chosen"]),
        tuple(_read_measured(point) for point in described["front"]),
        bool(described["target_met"]),
        int(described["time_ns"]),
    )


def read_goal(described: dict[str, Any]) -> Goal:
    """The goal that ``asdict`` described. Raises KeyError, TypeError or ValueError."""
    limit = _optional(int, described["memory_limit_bytes"])
    return Goal(float(described["target_recall"]), int(described["k"]), limit)


def _describe_measured(point: Measured) -> dict[str, Any]:
    return {
        "build": _describe_build(point.build),
        "effort": asdict(point.effort),
        "recall": {name: asdict(recall) for name, recall in point.recall.items()},
        "latency_seconds": point.latency_seconds,
        "index_bytes": point.index_bytes,
    }


def _read_measured(described: dict[str, Any]) -> Measured:
    return Measured(
        _read_build(described["build"]),
        _read_effort(described["effort"]),
        {Modality(name).value: _read_recall(recall) for name, recall in described["recall"].items()},
        _optional(float, described["latency_seconds"]),
        _optional(int, described["index_bytes"]),
    )


def _read_recall(described: dict[str, Any]) -> Recall:
    mean, lower, upper = (float(described[name]) for name in ("mean", "lower", "upper"))
    return Recall(mean, lower, upper, int(described["query_count"]))
