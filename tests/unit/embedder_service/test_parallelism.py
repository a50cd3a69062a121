"""How the cores are used, with passes that take a stated time."""

from collections.abc import Callable
from contextlib import ExitStack
from threading import Thread

import pytest

from embedder_service import parallelism
from embedder_service.parallelism import Threads, choose_workers


class Machine:
    """A clock that each pass moves on by what it takes."""

    def __init__(self, *seconds: float) -> None:
        self.now = 0.0
        self.runs = 0
        self.passes: list[Callable[[], None]] = [lambda taken=taken: self._run(taken) for taken in seconds]  # type: ignore[misc]

    def monotonic(self) -> float:
        return self.now

    def _run(self, seconds: float) -> None:
        self.runs += 1
        self.now += seconds


@pytest.mark.parametrize(
    ("seconds", "cores", "workers"),
    [((0.001, 0.002), 2, 2), ((0.001,), 16, 4), ((0.001,), 1, 1), ((0.016, 0.045), 2, 1), ((0.001, 0.02), 2, 1)],
    ids=["two small towers", "many cores", "one core", "large towers", "a large one beside a small one"],
)
def test_passes_of_small_towers_run_side_by_side(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, ...], cores: int, workers: int
) -> None:
    machine = Machine(*seconds)
    monkeypatch.setattr(parallelism, "time", machine)
    assert choose_workers(machine.passes, cores) == workers


def test_a_large_tower_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(2.0)
    monkeypatch.setattr(parallelism, "time", machine)
    choose_workers(machine.passes, 2)
    assert machine.runs == 1


def in_another_thread(threads: Threads) -> int:
    """What a pass gets there."""
    got: list[int] = []

    def run() -> None:
        with threads.taken() as count:
            got.append(count)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    return got[0]


def test_a_lone_pass_takes_all_threads_and_those_beside_it_their_part() -> None:
    threads = Threads(8)
    threads.share(4, lone_takes_all=True)
    with ExitStack() as stack:
        assert [stack.enter_context(threads.taken()) for _ in range(3)] == [8, 2, 2]
    with threads.taken() as alone:
        assert alone == 8


def test_all_threads_are_always_those_of_the_same_thread() -> None:
    threads = Threads(8)
    threads.share(4, lone_takes_all=True)
    with threads.taken() as first:
        assert first == 8
    assert in_another_thread(threads) == 2
    threads.share(4, lone_takes_all=True)
    assert in_another_thread(threads) == 8


def test_a_lone_pass_gets_its_part_where_nothing_else_was_asked_for() -> None:
    threads = Threads(3)
    threads.share(2, lone_takes_all=False)
    with threads.taken() as part:
        assert part == 1
    threads.share(5, lone_takes_all=False)
    with threads.taken() as least:
        assert least == 1
