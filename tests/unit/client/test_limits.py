"""Cutting long inputs into requests, and timeouts."""

from collections.abc import Iterator

import pytest
from eyebright_client import DeadlineExceeded, InvalidArgument, Timeouts
from eyebright_client._limits import batched
from eyebright_client._timeouts import Deadline


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1, 1, 1, 1], [[1, 1, 1], [1]]),
        ([4, 4, 4], [[4, 4], [4]]),
        ([20, 1], [[20], [1]]),
        ([1, 20, 1], [[1], [20], [1]]),
    ],
)
def test_batches_keep_both_limits(sizes: list[int], expected: list[list[int]]) -> None:
    assert list(batched(sizes, lambda size: size, max_items=3, max_bytes=10)) == expected


def test_batches_read_one_item_ahead() -> None:
    taken = []

    def source() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    next(batched(source(), lambda _: 1, max_items=5, max_bytes=100))
    assert taken == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("seconds", [0, -1, 1e10, float("inf"), float("nan")])
def test_timeouts_are_checked(seconds: float) -> None:
    with pytest.raises(InvalidArgument, match="search: expected a number of seconds above 0"):
        Timeouts(search=seconds)


def test_deadline_runs_out() -> None:
    deadline = Deadline(60.0)
    assert 0 < deadline.remaining() <= 60.0
    with pytest.raises(DeadlineExceeded, match="within 1e-09 s"):
        Deadline(1e-9).remaining()
