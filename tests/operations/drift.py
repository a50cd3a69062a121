"""How memory and open files of a process drift: looked at now and then, and the slope of what was seen.

Both go up and down: segments are written and merged, buffers fill and empty. So the slope is that of the most that was
seen in each of a dozen equal spans of time.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from service_runtime.memory import resident_bytes
from tests.processes import RunningService

_WARM_UP_SHARE = 1 / 3
"""Of the time, at the beginning, that says nothing: caches and pools fill."""

_SPANS = 12


@dataclass(slots=True)
class Drift:
    """What was seen of one process."""

    service: RunningService
    seconds: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    """RssAnon: what only the process itself, or its end, frees."""
    files: list[int] = field(default_factory=list)

    def look(self) -> None:
        """Note how things are now."""
        process = self.service.process.pid
        self.seconds.append(time.monotonic())
        self.memory_bytes.append(resident_bytes(process=process)["anonymous"])
        self.files.append(len(list(Path(f"/proc/{process}/fd").iterdir())))

    @property
    def megabytes_an_hour(self) -> float:
        """Slope of the memory."""
        return self._slope_an_hour(self.memory_bytes) / 1e6

    @property
    def files_an_hour(self) -> float:
        """Slope of the number of open files."""
        return self._slope_an_hour(self.files)

    def _slope_an_hour(self, values: list[int]) -> float:
        middles = [self.seconds[span[len(span) // 2]] for span in self._spans()]
        slope, _ = np.polyfit(middles, self._most(values), 1)
        return float(slope) * 3600

    def _most(self, values: list[int]) -> list[int]:
        """In each span."""
        return [max(values[place] for place in span) for span in self._spans()]

    def _spans(self) -> list[np.ndarray]:
        """Places of what was seen after the warm-up, in equal parts."""
        seen = np.arange(round(len(self.seconds) * _WARM_UP_SHARE), len(self.seconds))
        return np.array_split(seen, min(_SPANS, len(seen)))

    def __str__(self) -> str:
        memory = [round(most / 1e6) for most in self._most(self.memory_bytes)]
        return (
            f"RssAnon {self.megabytes_an_hour:+.1f} MB an hour, most in each span {memory} MB; "
            f"files {self.files_an_hour:+.1f} an hour, {self._most(self.files)}"
        )


@contextmanager
def watched(services: dict[str, RunningService], every_seconds: float) -> Iterator[dict[str, Drift]]:
    """Look at services while the block runs."""
    drifts = {name: Drift(service) for name, service in services.items()}
    stopping = threading.Event()

    def watch() -> None:
        while not stopping.wait(every_seconds):
            for drift in drifts.values():
                drift.look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield drifts
    finally:
        stopping.set()
        watcher.join()
