"""Who goes next, with passes of stated lengths and a clock of its own."""

from collections import Counter

import numpy as np
import pytest

from embedder_service.backends import Tower
from embedder_service.items import Item, Priority
from embedder_service.schedule import Schedule
from embedder_service.tower_cost import TowerCost

TEXT, IMAGE = Tower.TEXT, Tower.IMAGE
INTERACTIVE, BULK = Priority.INTERACTIVE, Priority.BULK
FOREVER = float("inf")


def item(tower: Tower = TEXT, priority: Priority = INTERACTIVE, deadline: float = FOREVER, name: str = "") -> Item:
    return Item(tower, priority, deadline, name, np.zeros(1))


def schedule(*items: Item, limit: int = 4, share: float = 0.2, **seconds: dict[int, float]) -> Schedule:
    """Holds the items; a pass of n takes n seconds unless ``text`` or ``image`` says otherwise."""
    made = Schedule({tower: TowerCost(limit, seconds.get(tower, {1: 1.0})) for tower in Tower}, share)
    for one in items:
        made.add(one)
    return made


def names(waiting: Schedule, now: float = 0.0) -> list[str]:
    turn = waiting.next_turn(now)
    return [] if turn is None else [str(one.source) for one in turn.batch]


def test_a_batch_is_what_waits_up_to_the_limit_in_the_order_of_arrival() -> None:
    waiting = schedule(*(item(name=name) for name in "abcdef"))
    assert waiting
    assert names(waiting) == list("abcd")
    assert names(waiting) == list("ef")
    assert not waiting
    assert waiting.next_turn(0.0) is None


def test_expired_items_are_passed_by() -> None:
    waiting = schedule(item(name="late", deadline=1.0), item(name="kept", deadline=3.0))
    turn = waiting.next_turn(2.0)
    assert turn is not None
    assert ([one.source for one in turn.batch], [one.source for one in turn.expired]) == (["kept"], ["late"])


def test_what_is_discarded_is_not_there() -> None:
    first, second = item(name="a"), item(name="b")
    waiting = schedule(first, second)
    assert waiting.discard(first)
    assert not waiting.discard(first)
    assert waiting.waiting(TEXT, INTERACTIVE) == 1
    assert names(waiting) == ["b"]


def test_clearing_takes_everything() -> None:
    waiting = schedule(item(), item(IMAGE, BULK))
    assert len(waiting.clear()) == 2
    assert not waiting


def run(waiting: Schedule, passes: int, seconds: dict[Tower, float], **refill: tuple[Tower, Priority]) -> Counter[str]:
    """Device seconds by name, where every lane in ``refill`` is full again before each pass."""
    spent: Counter[str] = Counter()
    for _ in range(passes):
        for name, (tower, priority) in refill.items():
            while waiting.waiting(tower, priority) < 4:
                waiting.add(item(tower, priority, name=name))
        turn = waiting.next_turn(0.0)
        assert turn is not None
        took = seconds[turn.tower] * len(turn.batch)
        waiting.charge(turn.batch, took)
        for one in turn.batch:
            spent[str(one.source)] += took / len(turn.batch)  # type: ignore[assignment]
    return spent


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.5])
def test_bulk_gets_its_share_and_no_more_while_interactive_items_wait(share: float) -> None:
    spent = run(schedule(share=share), 1000, {TEXT: 1.0}, interactive=(TEXT, INTERACTIVE), bulk=(TEXT, BULK))
    assert spent["bulk"] / spent.total() == pytest.approx(share, abs=0.015)


def test_bulk_gets_its_share_by_cost_across_towers() -> None:
    spent = run(
        schedule(image={1: 10.0}), 3000, {TEXT: 1.0, IMAGE: 10.0}, interactive=(TEXT, INTERACTIVE), bulk=(IMAGE, BULK)
    )
    assert spent["bulk"] / spent.total() == pytest.approx(0.2, abs=0.01)


def test_towers_share_the_device_by_cost_not_by_count() -> None:
    spent = run(
        schedule(image={1: 50.0}), 2000, {TEXT: 1.0, IMAGE: 50.0}, text=(TEXT, INTERACTIVE), image=(IMAGE, INTERACTIVE)
    )
    assert spent["text"] / spent.total() == pytest.approx(0.5, abs=0.05)


def test_a_tower_that_comes_back_has_neither_credit_nor_debt() -> None:
    waiting = schedule()
    run(waiting, 500, {IMAGE: 1.0}, image=(IMAGE, INTERACTIVE))
    spent = run(waiting, 100, {TEXT: 1.0, IMAGE: 1.0}, text=(TEXT, INTERACTIVE), image=(IMAGE, INTERACTIVE))
    assert spent["text"] / spent.total() == pytest.approx(0.5, abs=0.05)


def test_an_interactive_item_waits_for_one_pass_at_most_where_bulk_had_the_device_alone() -> None:
    waiting = schedule()
    run(waiting, 100, {TEXT: 1.0}, bulk=(TEXT, BULK))
    for _ in range(10):
        waiting.add(item(TEXT, BULK, name="bulk"))
        waiting.add(item(name="now"))
        assert names(waiting) == ["now"]


def test_bulk_rides_along_where_that_costs_an_interactive_batch_next_to_nothing() -> None:
    flat = {1: 1.0, 2: 1.1, 3: 1.2, 4: 2.0}
    waiting = schedule(item(name="now"), *(item(priority=BULK, name=f"bulk{n}") for n in range(4)), text=flat)
    assert names(waiting) == ["now", "bulk0", "bulk1"]


def test_bulk_does_not_ride_along_where_it_would_lengthen_the_batch() -> None:
    waiting = schedule(item(name="now"), *(item(priority=BULK, name=f"bulk{n}") for n in range(4)))
    assert names(waiting) == ["now"]


def test_interactive_items_fill_up_a_batch_of_bulk() -> None:
    waiting = schedule(item(name="now"), item(priority=BULK, name="bulk"))
    waiting.charge([item()], 100.0)  # bulk waited for that long
    assert names(waiting) == ["bulk", "now"]
