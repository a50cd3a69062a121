"""How the cores are used, with passes that take a stated time."""

from collections.abc import Callable

import pytest

from embedder_service import parallelism
from embedder_service.parallelism import choose_workers


class Machine:
    """A clock that a pass moves on by what ``seconds`` says of its number of threads."""

    def __init__(self, *towers: dict[int, float]) -> None:
        self.now = 0.0
        self.threads = 0
        self.runs = 0
        self.passes: list[Callable[[], None]] = [lambda tower=tower: self._run(tower) for tower in towers]  # type: ignore[misc]

    def monotonic(self) -> float:
        return self.now

    def set_threads(self, threads: int) -> None:
        self.threads = threads

    def _run(self, seconds: dict[int, float]) -> None:
        self.runs += 1
        self.now += seconds[self.threads]


SMALL = {1: 0.004, 2: 0.005, 4: 0.006, 16: 0.01}
LARGE = {1: 2.0, 2: 1.0, 4: 0.5, 16: 0.2}
MEDIUM = {1: 0.04, 2: 0.021, 4: 0.02, 16: 0.01}


@pytest.mark.parametrize(
    ("towers", "cores", "workers", "threads"),
    [
        ((SMALL, SMALL), 2, 2, 1),
        ((SMALL,), 16, 4, 4),
        ((SMALL,), 1, 1, 1),
        ((LARGE,), 2, 1, 2),
        ((SMALL, MEDIUM), 2, 1, 2),
        ((SMALL, LARGE), 2, 1, 2),
    ],
    ids=["two small towers", "many cores", "one core", "a large tower", "one of two", "a large one beside a small one"],
)
def test_passes_run_side_by_side_where_no_tower_is_slower_for_it(
    monkeypatch: pytest.MonkeyPatch, towers: tuple[dict[int, float], ...], cores: int, workers: int, threads: int
) -> None:
    machine = Machine(*towers)
    monkeypatch.setattr(parallelism, "time", machine)
    assert choose_workers(machine.set_threads, machine.passes, cores) == workers
    assert machine.threads == threads


def test_a_large_tower_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(LARGE)
    monkeypatch.setattr(parallelism, "time", machine)
    choose_workers(machine.set_threads, machine.passes, 2)
    assert machine.runs == 1
