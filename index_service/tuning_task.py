"""A tuning under way, as seen from outside: what was asked, how far it is, and the wish that it end.

Owns the request and the file in which it outlives a restart. Knows nothing of how an index is tuned.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from threading import Event

import numpy as np

from index_service.fault_points import reach
from index_service.index_config import Goal, Modality, Tuning, read_goal
from index_service.recipes import Build, Recipe
from index_service.segment_folder import sync_folder

REQUEST_FILE = "tuning.npz"
"""Name of the file in a collection's folder: arrays of numbers and text alone, no pickle."""

_FORMAT = 1


class Stopped(Exception):
    """The work was told to stop, because nobody waits for it any more, or because the service stops."""


class Phase(Enum):
    """What a tuning is doing."""

    WAITING = "waiting"
    SETTLING = "settling"
    ANSWERING = "answering"
    MEASURING = "measuring"
    REBUILDING = "rebuilding"
    DONE = "done"


@dataclass(frozen=True, eq=False)
class TuningRequest:
    """What a tuning is asked for."""

    goal: Goal
    recipes: tuple[Recipe, ...] = ()
    """Those to measure; none means the usual ones."""
    queries: Mapping[Modality, np.ndarray] | None = None
    """Vectors (n, dimension) float32 of each modality, prepared for the space; None for the recent queries."""

    @cached_property
    def digest(self) -> str:
        """The same for the same request, and for no other."""
        hashed = hashlib.sha256(self._described().encode())
        for _, vectors in sorted((self.queries or {}).items(), key=lambda item: item[0].value):
            hashed.update(np.ascontiguousarray(vectors).tobytes())
        return hashed.hexdigest()

    def write(self, folder: Path) -> None:
        """Keep it in a collection's folder, durably. Raises OSError."""
        arrays = {modality.value: vectors for modality, vectors in (self.queries or {}).items()}
        aside = folder / f"{REQUEST_FILE}.writing"
        reach("tuning.before_writing")
        with aside.open("wb") as file:
            np.savez(file, allow_pickle=False, request=np.array(self._described()), **arrays)
            file.flush()
            os.fsync(file.fileno())
        reach("tuning.before_rename")
        aside.replace(folder / REQUEST_FILE)
        reach("tuning.after_rename")
        sync_folder(folder)

    @classmethod
    def read(cls, folder: Path) -> "TuningRequest | None":
        """The request that a collection's folder keeps; None without one. Raises ValueError for a damaged one."""
        try:
            with (folder / REQUEST_FILE).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                described = json.loads(str(arrays["request"]))
                if described["format"] != _FORMAT:
                    raise ValueError(f"expected format {_FORMAT}, not {described['format']}")
                queries = {Modality(name): arrays[name] for name in described["queries"] or ()}
        except FileNotFoundError:
            return None
        except Exception as error:  # numpy and zipfile raise all sorts of errors for what they can't read
            raise ValueError(f"{folder / REQUEST_FILE}: {error!r}") from error
        recipes = tuple(Recipe(name) for name in described["recipes"])
        return cls(read_goal(described["goal"]), recipes, None if described["queries"] is None else queries)

    def _described(self) -> str:
        return json.dumps(
            {
                "format": _FORMAT,
                "goal": asdict(self.goal),
                "recipes": [recipe.value for recipe in self.recipes],
                "queries": None if self.queries is None else sorted(modality.value for modality in self.queries),
            }
        )


class TuningTask:
    """A tuning under way. Any thread may look, and stop it."""

    def __init__(self, request: TuningRequest) -> None:
        self.request = request
        self.result: Future[Tuning] = Future()
        self.callers = 0
        """Calls that wait for it."""
        self.phase = Phase.WAITING
        self.steps_done = 0
        self.steps_total = 0
        self.build: Build | None = None
        """What is measured now."""
        self._stopping = Event()

    def enter(self, phase: Phase, steps_total: int = 0) -> None:
        """Say what begins."""
        self.phase, self.steps_done, self.steps_total, self.build = phase, 0, steps_total, None

    def stop(self) -> None:
        """Have the work end soon, and remove what it has made."""
        self._stopping.set()

    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def wait(self, seconds: float) -> None:
        """Do nothing for a while, or until it was told to stop."""
        self._stopping.wait(seconds)

    def check(self) -> None:
        """Raise Stopped once it was told to stop."""
        if self.stopped():
            raise Stopped
