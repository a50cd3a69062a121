"""Compaction: what is sealed and merged when, and the threads that do it.

Owns the choices and the order of work. Knows shards by their ``seal`` and ``merge`` alone.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from index_service.index_config import INDEX_FROM_ROWS
from index_service.metrics import CompactionWork, IndexMetrics
from index_service.recipes import CODE_RECIPES, EXACT, FASTSCAN, Build
from index_service.segment import SegmentView
from index_service.workers import LOWEST_PRIORITY, step_behind
from service_runtime.memory import give_memory_back

SEAL_ROWS = 16_384
"""Rows of a shard that are kept in memory before they are put into a segment, unless said otherwise."""

IDLE_SEAL_ROWS = 512
"""The same for a shard that nobody writes to for a while: its searches then read one segment and no memory."""

CODES_FROM_ROWS = 4_096
"""Rows from which codes are worth their training: a scan of them takes a tenth of one of the vectors."""

_SEAL_PRIORITY = 5
_MERGE_COUNT = 4
_DEAD_SHARE = 0.2
_IDLE_SHARE = 0.05
_IDLE_SECONDS = 2.0
_LOOK_SECONDS = 0.2
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0

_logger = logging.getLogger("eyebright.compaction")


@dataclass(frozen=True, slots=True)
class Policy:
    """When memory is put into segments, and how those are built."""

    build: Build = FASTSCAN
    """For segments large enough for an index."""
    index_from_rows: int = INDEX_FROM_ROWS
    codes_from_rows: int = CODES_FROM_ROWS
    """Rows from which a smaller segment gets codes without cells, where the index has codes of the same kind."""
    seal_rows: int = SEAL_ROWS
    """Rows of a shard that are kept in memory before they are put into a segment."""

    def for_rows(self, rows: int) -> Build:
        """How a segment of so many rows is built."""
        if rows >= self.index_from_rows:
            return self.build
        return FASTSCAN if rows >= self.codes_from_rows and self.build.recipe in CODE_RECIPES else EXACT


DEFAULT_POLICY = Policy()


def segments_to_merge(segments: Sequence[SegmentView], policy: Policy, *, idle: bool) -> list[SegmentView]:
    """The segments that one should take the place of; none when they are well as they are.

    Those of like size, so that a row is rewritten about once for each fourfold growth; when the shard is idle, all of
    them, so that a search has one to look into, unless what is beside the largest is little.
    One that is built otherwise than the policy says is rebuilt by itself.
    """
    if not segments:
        return []
    dead = [view for view in segments if view.dead_count > _DEAD_SHARE * view.rows]
    by_size = sorted(segments, key=lambda view: view.live_count)
    if idle and (dead or sum(view.live_count for view in by_size[:-1]) > _IDLE_SHARE * by_size[-1].live_count):
        return list(segments)
    taken = _of_like_size(by_size)
    if len(taken) >= _MERGE_COUNT:
        return taken
    return dead or [view for view in segments if view.segment.build != policy.for_rows(view.rows)][:1]


def _of_like_size(by_size: Sequence[SegmentView]) -> list[SegmentView]:
    """The smallest, and those after it that are at most twice as large as all before them."""
    taken = [by_size[0]]
    for view in by_size[1:]:
        if view.live_count > 2 * sum(other.live_count for other in taken):
            break
        taken.append(view)
    return taken


class Compactable(Protocol):
    """What a Compactor works on."""

    name: str

    @property
    def applied_sequence(self) -> int:
        """A number that grows with every write."""
        ...

    def seal(self, *, idle: bool) -> bool:
        """Put what is in memory into a segment; False when there is too little."""
        ...

    def merge(self, *, idle: bool) -> bool:
        """Merge or rebuild segments; False when there is nothing to."""
        ...


Work = Callable[[Compactable, bool], bool]
"""One piece of work on a shard, which may be idle; False when there is none."""


class Rounds:
    """Looks at one shard after another, and leaves one that failed alone for a while: longer each time it fails again.

    A full disk is full for hours, and each try writes a segment before it finds out.
    """

    def __init__(
        self,
        shards: Callable[[], Sequence[Compactable]],
        work: Work,
        clock: Callable[[], float],
        failed: Callable[[], None],
    ) -> None:
        """``shards`` gives those that exist now, ``clock`` seconds; ``failed`` is called for each piece that failed."""
        self._shards = shards
        self._work = work
        self._clock = clock
        self._failed = failed
        self._last_writes: dict[str, tuple[int, float]] = {}
        self._pauses: dict[str, _Pause] = {}

    def look(self, stopping: threading.Event) -> bool:
        """One piece of work for each shard; whether any had some."""
        worked = False
        shards = self._shards()
        names = {shard.name for shard in shards}
        self._last_writes = {name: last for name, last in self._last_writes.items() if name in names}
        self._pauses = {name: pause for name, pause in self._pauses.items() if name in names}
        for shard in shards:
            if stopping.is_set():
                break
            idle, pause = self._is_idle(shard), self._pauses.get(shard.name)
            if pause is None or self._clock() >= pause.until:
                worked |= self._work_on(shard, idle=idle)
        return worked

    def _work_on(self, shard: Compactable, *, idle: bool) -> bool:
        try:
            worked = self._work(shard, idle)
        except Exception:
            last = self._pauses.get(shard.name)
            seconds = _FIRST_PAUSE_SECONDS if last is None else min(2 * last.seconds, _LONGEST_PAUSE_SECONDS)
            self._pauses[shard.name] = _Pause(seconds, self._clock() + seconds)
            self._failed()
            _logger.exception("compaction failed", extra={"shard": shard.name, "next_try_seconds": seconds})
            return False
        self._pauses.pop(shard.name, None)
        return worked

    def _is_idle(self, shard: Compactable) -> bool:
        now, sequence = self._clock(), shard.applied_sequence
        known, since = self._last_writes.get(shard.name, (-1, now))
        if known != sequence:
            self._last_writes[shard.name] = sequence, now
        return known == sequence and now - since >= _IDLE_SECONDS


@dataclass(frozen=True, slots=True)
class _Pause:
    """How long a shard is left alone after a failure."""

    seconds: float
    until: float


class Compactor:
    """Two threads over all shards, a piece of work at a time: one seals, and steps a little behind searches and writes,
    for memory grows until it has; one merges, and steps far behind.
    """

    def __init__(self, shards: Callable[[], Sequence[Compactable]], metrics: IndexMetrics) -> None:
        """``shards`` gives those that exist now."""
        self._stopping = threading.Event()
        works: dict[CompactionWork, tuple[Work, int]] = {
            "seal": (lambda shard, idle: shard.seal(idle=idle), _SEAL_PRIORITY),
            "merge": (lambda shard, idle: shard.merge(idle=idle), LOWEST_PRIORITY),
        }
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(Rounds(shards, work, time.monotonic, partial(metrics.compaction_failed, name)), priority),
                name=name,
                daemon=True,
            )
            for name, (work, priority) in works.items()
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop after the pieces of work under way, which shards cut short when they are closed."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, rounds: Rounds, priority: int) -> None:
        step_behind(priority)
        while not self._stopping.wait(_LOOK_SECONDS):
            worked = False
            while rounds.look(self._stopping) and not self._stopping.is_set():
                worked = True
            if worked:
                give_memory_back()
