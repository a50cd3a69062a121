"""What a call is expected to take, from what waits."""

from dataclasses import dataclass, field, replace

import pytest

from embedder_service.backends import Tower
from embedder_service.forecast import Expectation, Forecast
from embedder_service.items import Priority
from embedder_service.tower_cost import TowerCost

TEXT, IMAGE = Tower.TEXT, Tower.IMAGE
INTERACTIVE, BULK = Priority.INTERACTIVE, Priority.BULK


@dataclass
class Device:
    """A queue in which so many items wait."""

    queued: dict[tuple[Tower, Priority], int] = field(default_factory=dict)
    remaining: float = 0.0

    def waiting(self, tower: Tower, priority: Priority) -> int:
        return self.queued.get((tower, priority), 0)

    def remaining_seconds(self) -> float:
        return self.remaining


@dataclass
class Decoders:
    """Images that wait to be decoded, half a second each."""

    queued: dict[Priority, int] = field(default_factory=dict)

    def waiting(self, priority: Priority) -> int:
        return self.queued.get(priority, 0)

    def clearing_seconds(self, count: int) -> float:
        return 0.5 * count


def forecast(
    device: Device | None = None, decoders: Decoders | None = None, share: float = 0.2, workers: int = 1
) -> Forecast:
    """A caption takes 1 s, an image 10 s, whatever the batch."""
    costs = {TEXT: TowerCost(4, {1: 1.0}), IMAGE: TowerCost(4, {1: 10.0})}
    return Forecast(costs, share, device or Device(), decoders or Decoders(), workers)


def expect(
    tower: Tower,
    priority: Priority,
    count: int,
    device: Device | None = None,
    decoders: Decoders | None = None,
    share: float = 0.2,
    workers: int = 1,
) -> Expectation:
    """Without the margin."""
    expected = forecast(device, decoders, share, workers).expect(tower, priority, count)
    return replace(expected, margin=1.0)


def test_a_call_that_is_alone_takes_its_own_time() -> None:
    assert expect(TEXT, INTERACTIVE, 3) == Expectation(0, 3)


def test_the_pass_under_way_and_the_own_queue_are_ahead() -> None:
    device = Device({(TEXT, INTERACTIVE): 5}, remaining=2.5)
    assert expect(TEXT, INTERACTIVE, 1, device) == Expectation(7.5, 1)


def test_the_other_tower_takes_no_more_than_this_one() -> None:
    device = Device({(IMAGE, INTERACTIVE): 100})
    assert expect(TEXT, INTERACTIVE, 2, device) == Expectation(2, 2)
    device = Device({(TEXT, INTERACTIVE): 3})
    assert expect(IMAGE, INTERACTIVE, 2, device) == Expectation(3, 20)


def test_bulk_ahead_of_an_interactive_call_is_its_share_at_most() -> None:
    device = Device({(TEXT, INTERACTIVE): 7, (TEXT, BULK): 1000})
    assert expect(TEXT, INTERACTIVE, 1, device).ahead_seconds == pytest.approx(7 + 8 / 4)
    device = Device({(TEXT, INTERACTIVE): 7, (TEXT, BULK): 1})
    assert expect(TEXT, INTERACTIVE, 1, device).ahead_seconds == 8
    assert expect(TEXT, INTERACTIVE, 1, device, share=0.0).ahead_seconds == 7


def test_interactive_items_are_ahead_of_bulk_as_far_as_its_share_allows() -> None:
    device = Device({(TEXT, INTERACTIVE): 1000, (TEXT, BULK): 4})
    assert expect(TEXT, BULK, 1, device).ahead_seconds == pytest.approx(4 + 5 * 4)
    assert expect(TEXT, BULK, 1, device, share=0.0).ahead_seconds == 1004


def test_images_that_wait_to_be_decoded_are_ahead_too() -> None:
    assert expect(IMAGE, INTERACTIVE, 1, decoders=Decoders({INTERACTIVE: 3})) == Expectation(30, 10)
    assert expect(IMAGE, INTERACTIVE, 1, decoders=Decoders({BULK: 3})).ahead_seconds == pytest.approx(2.5)


def test_where_decoding_is_slower_than_the_device_it_decides() -> None:
    costs = {IMAGE: TowerCost(4, {1: 0.1})}
    slow = Forecast(costs, 0.2, Device(), Decoders({INTERACTIVE: 10})).expect(IMAGE, INTERACTIVE, 4)
    assert (slow.ahead_seconds, slow.own_seconds) == (5, 2)


def test_passes_side_by_side_clear_a_queue_sooner_but_no_single_item() -> None:
    device = Device({(TEXT, INTERACTIVE): 6})
    assert expect(TEXT, INTERACTIVE, 4, device, workers=2) == Expectation(3, 2)
    assert expect(TEXT, INTERACTIVE, 1, device, workers=2) == Expectation(3, 1)


@pytest.mark.parametrize(
    ("ahead", "own", "remaining", "late"),
    [(1, 1, 2, True), (1, 1, 2.5, False), (0, 100, 1, False), (0.1, 100, 1, True), (5, 1, float("inf"), False)],
)
def test_late_is_what_would_not_come_in_time_with_a_margin(
    ahead: float, own: float, remaining: float, late: bool
) -> None:
    assert Expectation(ahead, own, margin=1.2).is_late(remaining) is late


@pytest.mark.parametrize(
    ("ahead", "own", "remaining", "seconds"),
    [(10, 0, 11, 5), (10, 0, 3, 9), (10, 100, 3, 10), (0.001, 1, 0.5, 0.05), (10, 0, float("inf"), 5)],
)
def test_when_to_come_again(ahead: float, own: float, remaining: float, seconds: float) -> None:
    assert Expectation(ahead, own, margin=1.2).retry_seconds(remaining) == pytest.approx(seconds)


def margin_after(*took: float, answered: bool = True) -> float:
    """The margin once calls that were expected to take 10 s took so long."""
    learning = forecast(Device({(TEXT, INTERACTIVE): 9}))
    for seconds in took:
        learning.observe(Expectation(9.0, 1.0), seconds, answered=answered)
    return learning.expect(TEXT, INTERACTIVE, 1).margin


def test_the_margin_covers_what_calls_took_of_late() -> None:
    assert 1.1 < margin_after() < 1.7
    assert margin_after(*[10.0] * 200) == pytest.approx(1.0, abs=0.01)
    assert margin_after(*[20.0] * 200) == pytest.approx(2.0, abs=0.02)
    assert margin_after(*[10.0, 20.0] * 100) > 2.0
    assert margin_after(1e9) < 2.5  # one that was held up changes little


def test_a_caller_that_left_early_teaches_nothing() -> None:
    assert margin_after(*[0.1] * 100, answered=False) == margin_after()
    assert margin_after(*[30.0] * 100, answered=False) > 2.5


def test_short_waits_say_nothing_of_long_ones() -> None:
    learning = forecast()
    before = learning.expect(TEXT, INTERACTIVE, 1).margin
    learning.observe(Expectation(0.01, 1.0), 100.0, answered=True)
    assert learning.expect(TEXT, INTERACTIVE, 1).margin == before
