"""How a collection is indexed: what its owner chose, what the tuner found, and the effort of a search that follows.

Owns those choices and their file. Knows no segment, no FAISS and no request.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from index_service.fault_points import reach
from index_service.recipes import FASTSCAN, Build, Effort, Recipe
from index_service.segment_folder import sync_folder

CONFIG_FILE = "index.json"
"""Name of the file in a collection's folder."""

INDEX_FROM_ROWS = 50_000
"""Rows from which a segment gets an index that proposes: below, a scan of its vectors is as quick."""

_FORMAT = 1

_logger = logging.getLogger("eyebright.index_config")


class Modality(Enum):
    """What queries were made of."""

    TEXT = "TEXT"
    IMAGE = "IMAGE"
    RECORD = "RECORD"


@dataclass(frozen=True, slots=True)
class Measured:
    """One point of a recall/latency front."""

    build: Build
    effort: Effort
    recall: Mapping[str, float]
    """ANN recall@k by name of the modality, on queries that were not tuned on."""
    latency_seconds: float
    """Median of one query on one thread per shard, over all shards."""
    index_bytes: int
    """Bytes of the index beside the vectors, estimated for the whole collection."""

    def meets(self, target: float, modality: Modality) -> bool:
        """Whether queries of this modality, or all that were measured where it was not, reach the target."""
        known = self.recall.get(modality.value)
        return min(self.recall.values(), default=0.0) >= target if known is None else known >= target


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """The choices for one collection."""

    build: Build | None = None
    """The owner's choice; None leaves it to the tuner, and until that has spoken to fastscan."""
    effort: Effort | None = None
    """The owner's choice; None leaves it to the tuner, then to the defaults."""
    tuned: Measured | None = None
    """What the tuner took last."""
    front: tuple[Measured, ...] = ()
    """What the tuner measured last, fastest first."""

    @property
    def build_in_force(self) -> Build:
        """How segments large enough for an index are built."""
        if self.build is not None:
            return self.build
        return FASTSCAN if self.tuned is None else self.tuned.build

    @property
    def effort_in_force(self) -> Effort:
        """How segments are searched unless a request says otherwise."""
        if self.effort is not None:
            return self.effort
        if self.tuned is not None and self.tuned.build == self.build_in_force:
            return self.tuned.effort
        return Effort()

    def effort_for(self, target: float, modality: Modality) -> Effort | None:
        """The least effort known to reach a recall with the index in force; None when only an exact answer is sure to.

        A collection that was never tuned has its default effort trusted up to 0.99: see docs/accuracy.md.
        """
        if target >= 1.0:
            return None
        known = [point for point in self.front if point.build == self.build_in_force]
        if not known:
            return Effort() if target <= _TRUSTED_RECALL else None
        return next((point.effort for point in known if point.meets(target, modality)), None)

    def recall_of(self, effort: Effort, modality: Modality) -> float | None:
        """What the tuner measured of the index in force at this effort; None when it did not."""
        same = (p for p in self.front if p.build == self.build_in_force and p.effort == effort)
        return next((point.recall.get(modality.value) for point in same), None)

    def chosen(self, build: Build | None, effort: Effort | None) -> "IndexConfig":
        """These choices of the owner, beside what the tuner found."""
        return replace(self, build=build, effort=effort)


UNCONFIGURED = IndexConfig()
_TRUSTED_RECALL = 0.99


def read_config(folder: Path) -> IndexConfig:
    """The choices kept in a collection's folder; the defaults where there are none, or none that can be read."""
    path = folder / CONFIG_FILE
    try:
        described = json.loads(path.read_text("utf-8"))
        if described["format"] != _FORMAT:
            raise ValueError(f"expected format {_FORMAT}, not {described['format']}")
        return IndexConfig(
            _optional(_read_build, described["build"]),
            _optional(_read_effort, described["effort"]),
            _optional(_read_measured, described["tuned"]),
            tuple(_read_measured(point) for point in described["front"]),
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
        "tuned": _optional(_describe_measured, config.tuned),
        "front": [_describe_measured(point) for point in config.front],
    }
    aside = folder / f"{CONFIG_FILE}.writing"
    reach("config.before_writing")
    with aside.open("w", encoding="utf-8") as file:
        json.dump(described, file, indent=1)
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


def _describe_measured(point: Measured) -> dict[str, Any]:
    return {
        "build": _describe_build(point.build),
        "effort": asdict(point.effort),
        "recall": dict(point.recall),
        "latency_seconds": point.latency_seconds,
        "index_bytes": point.index_bytes,
    }


def _read_measured(described: dict[str, Any]) -> Measured:
    return Measured(
        _read_build(described["build"]),
        _read_effort(described["effort"]),
        {Modality(name).value: float(recall) for name, recall in described["recall"].items()},
        float(described["latency_seconds"]),
        int(described["index_bytes"]),
    )
