"""The order of compaction: which shard is worked on when, and how long one that fails is left alone."""

import logging
import threading

import pytest

from index_service.compaction import Compactable, Rounds


class Failing:
    """A shard that fails while it is told to."""

    name = "shard 0 of collection 'pets'"
    applied_sequence = 1

    def __init__(self) -> None:
        self.failing = True
        self.tries = 0
        self.idle: list[bool] = []

    def merge(self, *, idle: bool) -> bool:
        raise AssertionError("only seals are asked for here")

    def seal(self, *, idle: bool) -> bool:
        self.tries += 1
        self.idle.append(idle)
        if self.failing:
            raise OSError(28, "No space left on device")
        return False


def seal(shard: Compactable, idle: bool) -> bool:
    return shard.seal(idle=idle)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_shard_that_fails_is_left_alone_for_longer_and_longer(caplog: pytest.LogCaptureFixture) -> None:
    clock, shard, stopping = Clock(), Failing(), threading.Event()
    failures: list[float] = []
    rounds = Rounds(lambda: [shard], seal, clock, lambda: failures.append(clock.now))
    begun: list[float] = []
    with caplog.at_level(logging.ERROR):
        while clock.now < 300:
            before = shard.tries
            assert not rounds.look(stopping)
            if shard.tries > before:
                begun.append(clock.now)
            clock.now += 0.25
    assert begun == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert len(caplog.records) == len(begun), "one line each"
    assert failures == begun
    assert [record.__dict__["next_try_seconds"] for record in caplog.records[:7]] == [1, 2, 4, 8, 16, 32, 60]
    shard.failing = False
    clock.now = 303
    rounds.look(stopping)
    rounds.look(stopping)
    assert shard.tries == len(begun) + 2, "success ends the pause"
    shard.failing = True
    rounds.look(stopping)
    clock.now += 1
    rounds.look(stopping)
    assert shard.tries == len(begun) + 4, "and the next one is short again"


def test_others_are_worked_on_while_one_fails() -> None:
    one, other, stopping = Failing(), Failing(), threading.Event()
    other.name, other.failing = "shard 1 of collection 'pets'", False
    rounds = Rounds(lambda: [one, other], seal, Clock(), lambda: None)
    for _ in range(5):
        rounds.look(stopping)
    assert (one.tries, other.tries) == (1, 5)


def test_a_shard_is_idle_when_nothing_was_written_for_a_while() -> None:
    clock, shard, stopping = Clock(), Failing(), threading.Event()
    shard.failing = False
    rounds = Rounds(lambda: [shard], seal, clock, lambda: None)
    for now in (0.0, 1.9, 2.0):
        clock.now = now
        rounds.look(stopping)
    shard.applied_sequence = 2
    rounds.look(stopping)
    assert shard.idle == [False, False, True, False]
