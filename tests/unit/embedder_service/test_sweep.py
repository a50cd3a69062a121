"""The warm-up sweep, on a backend whose passes take what a test says, on a clock that only they advance."""

from collections.abc import Callable
from itertools import chain, repeat

import numpy as np
import pytest

from embedder_service.backends import OutOfMemory, Precision, Tower
from embedder_service.sweep import sweep
from embedder_service.tower_cost import TowerCost

SIZES = (1, 2, 4, 8, 16, 32)


class Simulated:
    """A pass of n rows takes ``seconds(n)``, the first of each size ``preparation`` more."""

    device = "test"
    towers = tuple(Tower)
    precision = Precision.FP32
    serial = False

    def __init__(self, seconds: Callable[[int], float], preparation: float = 0.0, memory: int = 1000) -> None:
        self.now = 0.0
        self.passes: list[int] = []
        self._seconds = seconds
        self._preparation = preparation
        self._memory = memory

    def forward(self, tower: Tower, batch: np.ndarray) -> np.ndarray:
        assert tower is Tower.IMAGE
        assert (batch == 7).all()
        assert batch.shape[1:] == (2, 3)
        size = len(batch)
        if size > self._memory:
            raise OutOfMemory(f"no room for {size}")
        self.now += self._seconds(size) + (0.0 if size in self.passes else self._preparation)
        self.passes.append(size)
        return np.zeros((size, 4), np.float32)

    def sweep(self, budget_seconds: float = 1000.0, sizes: tuple[int, ...] = SIZES) -> TowerCost:
        row = np.full((2, 3), 7, np.uint8)
        return sweep(self, Tower.IMAGE, row, sizes, budget_seconds, lambda: self.now)


def test_the_smallest_batch_that_loses_next_to_nothing_is_chosen() -> None:
    cost = Simulated(lambda size: 0.10 + 0.01 * size).sweep()
    assert cost.batch_limit == 32
    # A pass of 8 gives 8 / 0.84 = 9.5 a second, the best 9.9.
    cost = Simulated(lambda size: 0.04 + 0.1 * size).sweep()
    assert cost.batch_limit == 16
    assert Simulated(lambda size: 0.5 * size).sweep().batch_limit == 1
    assert Simulated(lambda size: 1.0 if size <= 4 else size).sweep().batch_limit == 4


def test_of_passes_that_nobody_notices_the_largest_is_chosen() -> None:
    """A throughput that no longer rises, with passes of 10, 20 and 40 ms."""
    level = {1: 0.004, 2: 0.006, 4: 0.010, 8: 0.020, 16: 0.040, 32: 0.080}
    assert Simulated(level.__getitem__).sweep().batch_limit == 8
    assert Simulated(lambda size: 10 * level[size]).sweep().batch_limit == 4
    slower = level | {8: 0.0207, 16: 0.042}  # 8 gives less than 97 % of what 4 does
    assert Simulated(slower.__getitem__).sweep().batch_limit == 4


def test_what_passes_take_is_predicted_without_the_preparation() -> None:
    cost = Simulated(lambda size: 0.1 + 0.01 * size, preparation=5.0).sweep()
    assert [cost.seconds(size) for size in SIZES] == pytest.approx([0.1 + 0.01 * size for size in SIZES])
    assert cost.seconds(6) == pytest.approx(0.16)


def test_sizes_stop_when_they_gain_nothing_more() -> None:
    backend = Simulated(lambda size: 0.1 * size)
    assert backend.sweep().batch_limit == 1
    assert max(backend.passes) == 4


def test_one_doubling_without_a_gain_does_not_stop_them() -> None:
    backend = Simulated({1: 1.0, 2: 2.0, 4: 1.5, 8: 2.0, 16: 2.5, 32: 3.0}.__getitem__)
    assert backend.sweep().batch_limit == 32


def test_the_budget_is_kept() -> None:
    backend = Simulated(lambda size: 1.0 + 0.1 * size)
    cost = backend.sweep(budget_seconds=12.0)
    assert backend.now <= 12.0
    assert set(backend.passes) == {1, 2, 4}
    assert cost.batch_limit == 4


def test_the_smallest_size_is_measured_whatever_the_budget() -> None:
    backend = Simulated(lambda size: 100.0 * size)
    assert backend.sweep(budget_seconds=0.0).seconds(2) == pytest.approx(200)
    assert set(backend.passes) == {1}


@pytest.mark.parametrize(("later", "passes"), [(0.003, 11), (0.06, 7)])
def test_short_passes_are_repeated_and_the_shortest_counts(later: float, passes: int) -> None:
    durations = chain([9.0, 0.004, 0.002], repeat(later))
    backend = Simulated(lambda _: next(durations))
    assert backend.sweep(sizes=(1,)).seconds(1) == pytest.approx(0.002)
    assert backend.passes == [1] * passes


def test_sizes_past_the_memory_are_left_out() -> None:
    assert Simulated(lambda _: 1.0, memory=8).sweep().batch_limit == 8
    with pytest.raises(OutOfMemory):
        Simulated(lambda _: 1.0, memory=0).sweep()
