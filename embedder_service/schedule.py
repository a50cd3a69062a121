"""Which items go to the device next.

Owns the order: interactive before bulk, bulk's share of the device, towers by what they cost, and what shares a batch.
Runs no pass and no thread; whoever uses it holds a lock.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from embedder_service.backends import Tower
from embedder_service.items import Item, Priority
from embedder_service.tower_cost import TowerCost

_TOP_UP = 1.25
"""How many times as long an interactive batch may take for the bulk items that ride along."""


class BulkFloor:
    """When bulk goes before interactive, so that it gets its share of the time while both wait.

    Bulk is owed ``share`` of all time that is spent while it waits; it goes first as soon as it is owed a whole turn.
    What it had while nobody else waited is not held against it, and nothing is owed to those that do not wait.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._owed_seconds = 0.0

    def is_due(self, turn_seconds: float) -> bool:
        """Whether bulk goes first, with a turn of that length."""
        return self._share > 0 and self._owed_seconds >= (1 - self._share) * turn_seconds

    def charge(self, interactive_seconds: float, bulk_seconds: float, *, bulk_waits: bool) -> None:
        """So much was spent on either; ``bulk_waits`` says whether bulk is left."""
        owed = self._owed_seconds + self._share * interactive_seconds - (1 - self._share) * bulk_seconds
        self._owed_seconds = max(owed, 0.0) if bulk_waits else 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What the schedule hands out: a batch of one tower, and the items passed by because their deadline is over."""

    tower: Tower
    batch: list[Item]
    expired: list[Item]


class Schedule:
    """The items that wait for the device."""

    def __init__(self, costs: Mapping[Tower, TowerCost], bulk_share: float) -> None:
        self._costs = costs
        self._lanes: dict[tuple[Priority, Tower], OrderedDict[Item, None]] = {
            (priority, tower): OrderedDict() for priority in Priority for tower in Tower
        }
        self._used_seconds = dict.fromkeys(self._lanes, 0.0)
        """Device time by lane, as far as it matters who of a class goes first."""
        self._clock = dict.fromkeys(Priority, 0.0)
        """The used seconds of the lane that was served last: one that comes back starts from here, so that it has
        neither credit nor debt from before."""
        self._floor = BulkFloor(bulk_share)

    def __bool__(self) -> bool:
        return any(self._lanes.values())

    def waiting(self, tower: Tower, priority: Priority) -> int:
        """How many items wait; any thread may ask."""
        return len(self._lanes[priority, tower])

    def add(self, item: Item) -> None:
        """Let an item wait."""
        key = item.priority, item.tower
        lane = self._lanes[key]
        if not lane:
            self._used_seconds[key] = max(self._used_seconds[key], self._clock[item.priority])
        lane[item] = None

    def discard(self, item: Item) -> bool:
        """Take an item out; whether it was there."""
        lane = self._lanes[item.priority, item.tower]
        if item in lane:
            del lane[item]
            return True
        return False

    def clear(self) -> list[Item]:
        """Take out everything."""
        items = [item for lane in self._lanes.values() for item in lane]
        for lane in self._lanes.values():
            lane.clear()
        return items

    def next_turn(self, now: float, sharers: int = 1) -> Turn | None:
        """The next batch, as many items as wait up to the tower's limit, or a fair part of them where several
        ``sharers`` are free to take a batch each; None when nothing waits.
        """
        if (priority := self._next_class()) is None:
            return None
        tower = self._next_tower(priority)
        self._clock[priority] = self._used_seconds[priority, tower]
        batch: list[Item] = []
        expired: list[Item] = []
        cost = self._costs[tower]
        part = -(-self.waiting(tower, priority) // sharers)
        self._draw(priority, tower, min(part, cost.batch_limit), now, batch, expired)
        if priority is Priority.BULK:
            self._draw(Priority.INTERACTIVE, tower, cost.batch_limit, now, batch, expired)
        elif batch and len(batch) < cost.batch_limit and self._lanes[Priority.BULK, tower]:
            longest = _TOP_UP * cost.seconds(len(batch))
            self._draw(Priority.BULK, tower, cost.size_within(longest), now, batch, expired)
        return Turn(tower, batch, expired)

    def charge(self, batch: list[Item], seconds: float) -> None:
        """The batch took the device for so long."""
        tower = batch[0].tower
        bulk = sum(item.priority is Priority.BULK for item in batch)
        spent = {
            Priority.BULK: seconds * bulk / len(batch),
            Priority.INTERACTIVE: seconds * (len(batch) - bulk) / len(batch),
        }
        for priority, part in spent.items():
            self._used_seconds[priority, tower] += part
        self._floor.charge(
            spent[Priority.INTERACTIVE],
            spent[Priority.BULK],
            bulk_waits=any(self._lanes[Priority.BULK, other] for other in Tower),
        )

    def _next_class(self) -> Priority | None:
        waits = {priority: any(self._lanes[priority, tower] for tower in Tower) for priority in Priority}
        if not waits[Priority.BULK]:
            return Priority.INTERACTIVE if waits[Priority.INTERACTIVE] else None
        if not waits[Priority.INTERACTIVE]:
            return Priority.BULK
        tower = self._next_tower(Priority.BULK)
        cost = self._costs[tower]
        turn_seconds = cost.seconds(min(self.waiting(tower, Priority.BULK), cost.batch_limit))
        return Priority.BULK if self._floor.is_due(turn_seconds) else Priority.INTERACTIVE

    def _next_tower(self, priority: Priority) -> Tower:
        """Of those with items that wait, the one that had the device for the least time."""
        return min(
            (tower for tower in Tower if self._lanes[priority, tower]),
            key=lambda tower: self._used_seconds[priority, tower],
        )

    def _draw(
        self, priority: Priority, tower: Tower, size: int, now: float, batch: list[Item], expired: list[Item]
    ) -> None:
        """Move items from a lane to the batch until that holds ``size``."""
        lane = self._lanes[priority, tower]
        while lane and len(batch) < size:
            item, _ = lane.popitem(last=False)
            (batch if item.deadline > now else expired).append(item)
