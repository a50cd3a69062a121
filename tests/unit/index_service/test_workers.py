"""Searches share the cores: no more work at a time than there are places, and who waits longest is next."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from index_service.workers import Workers

SECONDS = 20.0


@pytest.fixture
def workers() -> Iterator[Workers]:
    with closing(Workers(2)) as opened:
        yield opened


def test_results_come_in_the_order_of_the_items(workers: Workers) -> None:
    assert workers.search(lambda item: item * item, range(50)) == [item * item for item in range(50)]
    assert workers.search(str, []) == []


def test_a_free_place_is_used_and_no_more(workers: Workers) -> None:
    both = threading.Barrier(2, timeout=SECONDS)
    assert len(set(workers.search(lambda _: (both.wait(), threading.get_ident())[1], range(2)))) == 2
    at_work, most, changing = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal at_work, most
        with changing:
            at_work += 1
            most = max(most, at_work)
        threading.Event().wait(0.001)
        with changing:
            at_work -= 1

    with ThreadPoolExecutor(8) as callers:
        list(callers.map(lambda _: workers.search(work, range(5)), range(16)))
    assert most == 2


def test_the_first_error_ends_the_work_and_gives_the_places_back(workers: Workers) -> None:
    begun = []

    def fail(item: int) -> None:
        begun.append(item)
        raise ValueError(f"item {item}")

    for _ in range(5):
        begun.clear()
        with pytest.raises(ValueError, match="item"):
            workers.search(fail, range(100))
        assert len(begun) <= 2
    both = threading.Barrier(2, timeout=SECONDS)
    workers.search(lambda _: both.wait(), range(2))


def test_who_waits_longest_is_next_though_others_come_again_and_again() -> None:
    with closing(Workers(1)) as workers, ThreadPoolExecutor(1) as other:
        waits = threading.Event()
        taken: list[str] = []
        small = None
        for turn in range(3):

            def work(_: int, turn: int = turn) -> None:
                nonlocal small
                taken.append(f"large {turn}")
                if turn == 0:
                    small = other.submit(workers.search, lambda _: taken.append("small"), [0])
                    while not workers._places._waiting:
                        waits.wait(0.001)

            workers.search(work, [0])
        assert small is not None
        small.result(SECONDS)
        assert taken[:2] == ["large 0", "small"]
