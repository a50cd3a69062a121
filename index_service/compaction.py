"""Compaction: what is sealed and merged when, and the thread that does it.

Owns the choices and the order of work. Knows shards by their ``compact`` alone.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from index_service.recipes import Recipe
from index_service.segment import SegmentView, prepare_worker

CODES_FROM_ROWS = 50_000
"""Rows from which a segment gets codes: below, a scan of its vectors is as quick."""

_MERGE_COUNT = 4
_DEAD_SHARE = 0.2
_IDLE_SHARE = 0.05
_IDLE_SECONDS = 2.0
_LOOK_SECONDS = 0.2
_LOWEST_PRIORITY = 19

_logger = logging.getLogger("eyebright.compaction")


def recipe_for(rows: int) -> Recipe:
    """How a segment of so many rows is searched."""
    return Recipe.FASTSCAN if rows >= CODES_FROM_ROWS else Recipe.EXACT


def segments_to_merge(segments: Sequence[SegmentView], *, idle: bool) -> list[SegmentView]:
    """The segments that one should take the place of; none when they are well as they are.

    While writes come, those of like size, so that a row is rewritten about once for each fourfold growth; when the
    shard is idle, all of them, so that a search has one to look into, unless what is beside the largest is little.
    """
    if not segments:
        return []
    dead = [view for view in segments if view.dead_count > _DEAD_SHARE * view.rows]
    by_size = sorted(segments, key=lambda view: view.live_count)
    if idle:
        small = sum(view.live_count for view in by_size[:-1])
        return list(segments) if dead or small > _IDLE_SHARE * by_size[-1].live_count else []
    taken = [by_size[0]]
    for view in by_size[1:]:
        if view.live_count > 2 * sum(other.live_count for other in taken):
            break
        taken.append(view)
    return taken if len(taken) >= _MERGE_COUNT else dead


class Compactable(Protocol):
    """What a Compactor works on."""

    name: str

    @property
    def applied_sequence(self) -> int:
        """A number that grows with every write."""
        ...

    def compact(self, *, idle: bool) -> bool:
        """Do one piece of work; False when there is none."""
        ...


class Compactor:
    """One thread that compacts all shards, a piece at a time, behind searches and writes in priority."""

    def __init__(self, shards: Callable[[], Sequence[Compactable]]) -> None:
        """``shards`` gives those that exist now."""
        self._shards = shards
        self._stopping = threading.Event()
        self._last_writes: dict[str, tuple[int, float]] = {}
        self._thread = threading.Thread(target=self._run, name="compaction", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the piece of work under way, which shards cut short when they are closed."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        prepare_worker()
        if sys.platform == "linux":  # where threads have priorities of their own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while not self._stopping.wait(_LOOK_SECONDS):
            while self._look() and not self._stopping.is_set():
                pass

    def _look(self) -> bool:
        """One piece of work for each shard; whether any had some."""
        worked = False
        for shard in self._shards():
            if self._stopping.is_set():
                break
            try:
                worked |= shard.compact(idle=self._is_idle(shard))
            except Exception:
                _logger.exception("compaction failed", extra={"shard": shard.name})
        return worked

    def _is_idle(self, shard: Compactable) -> bool:
        now, sequence = time.monotonic(), shard.applied_sequence
        known, since = self._last_writes.get(shard.name, (-1, now))
        if known != sequence:
            self._last_writes[shard.name] = sequence, now
        return known == sequence and now - since >= _IDLE_SECONDS
