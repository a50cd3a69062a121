"""Room, and who is refused or waits."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from embedder_service.admission import Admission, Room
from embedder_service.backends import Tower
from embedder_service.forecast import Expectation
from embedder_service.items import Priority
from embedder_service.metrics import EmbedderMetrics
from service_runtime.errors import ResourceExhausted

FOREVER = float("inf")
AT_ONCE = Expectation(0.0, 0.0)


class Gate:
    """An admission for 20 items and 2,000 bytes, so 10 and 1,000 in either half."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.admission = Admission(Tower.TEXT, 20, 2000, EmbedderMetrics(self.registry))

    def admit(
        self,
        items: int,
        held_bytes: int = 1,
        priority: Priority = Priority.INTERACTIVE,
        remaining: float = FOREVER,
        expected: Expectation = AT_ONCE,
    ) -> Room:
        return self.admission.admit(priority, items, held_bytes, remaining, expected)

    def inside(self) -> tuple[float | None, float | None]:
        names = ("admitted_items", "admitted_bytes")
        items, held = (
            self.registry.get_sample_value(f"eyebright_embedder_{name}", {"tower": "text"}) for name in names
        )
        return items, held

    def rejected(self, reason: str) -> float | None:
        labels = {"tower": "text", "reason": reason}
        return self.registry.get_sample_value("eyebright_embedder_rejected_items_total", labels)


def test_past_the_limit_of_items_a_call_is_refused_with_both_values() -> None:
    gate = Gate()
    with gate.admit(6):
        with pytest.raises(
            ResourceExhausted,
            match="6 items of unary interactive calls are inside the text tower; 5 more would pass its limit of 10",
        ):
            gate.admit(5)
        gate.admit(4).release()
    gate.admit(10).release()
    assert gate.rejected("items") == 5
    assert gate.inside() == (0, 0)


def test_past_the_limit_of_bytes_a_call_is_refused_with_both_values() -> None:
    gate = Gate()
    with gate.admit(1, 600):
        with pytest.raises(ResourceExhausted, match=r"600 bytes of .* 401 more would pass its limit of 1000"):
            gate.admit(2, 401)
        with gate.admit(1, 400):
            assert gate.inside() == (2, 1000)
    assert gate.rejected("bytes") == 2


def test_a_call_that_is_alone_is_let_in_whatever_its_size() -> None:
    gate = Gate()
    with gate.admit(1, 5000), pytest.raises(ResourceExhausted):
        gate.admit(1, 1)


def test_bulk_and_interactive_calls_have_a_half_each() -> None:
    gate = Gate()
    with gate.admit(10, priority=Priority.BULK), gate.admit(10):
        for priority in Priority:
            with pytest.raises(ResourceExhausted):
                gate.admit(1, priority=priority)


def test_giving_back_twice_is_harmless() -> None:
    gate = Gate()
    room = gate.admit(3)
    with room:
        room.release()
    assert gate.inside() == (0, 0)


def test_what_would_come_too_late_is_refused_with_a_time_to_come_again() -> None:
    gate = Gate()
    with pytest.raises(ResourceExhausted, match="expected in 6 s; the caller waits for 5 s") as caught:
        gate.admit(1, remaining=5.0, expected=Expectation(4.0, 2.0, margin=1.2))
    assert caught.value.retry_after_seconds == pytest.approx(6 * 1.2 - 5)
    assert gate.rejected("deadline") == 1
    gate.admit(1, remaining=7.5, expected=Expectation(4.0, 2.0, margin=1.2)).release()


def test_with_nothing_ahead_a_call_is_let_in_whatever_is_expected() -> None:
    Gate().admit(1, remaining=1.0, expected=Expectation(0.0, 1000.0)).release()


async def test_streams_wait_for_room_first_come_first_served() -> None:
    gate = Gate()
    first = await gate.admission.wait(8, 1)
    large, small = (asyncio.create_task(gate.admission.wait(count, 1)) for count in (9, 1))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted):  # 1 would fit, but others were first
        gate.admit(1, priority=Priority.BULK)
    gate.admit(10).release()
    assert not large.done()
    assert not small.done()
    first.release()
    for room in await asyncio.wait_for(asyncio.gather(large, small), 5):
        room.release()
    assert gate.inside() == (0, 0)


async def test_a_stream_that_ends_while_it_waits_lets_the_next_one_in() -> None:
    gate = Gate()
    inside = await gate.admission.wait(8, 1)
    large, small = (asyncio.create_task(gate.admission.wait(count, 1)) for count in (9, 1))
    await asyncio.sleep(0)
    large.cancel()
    room = await asyncio.wait_for(small, 5)
    inside.release()
    room.release()
    assert gate.inside() == (0, 0)


async def test_a_stream_that_ends_as_it_gets_room_gives_it_back() -> None:
    gate = Gate()
    inside = await gate.admission.wait(8, 1)
    waiting = asyncio.create_task(gate.admission.wait(5, 1))
    await asyncio.sleep(0)
    inside.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert gate.inside() == (0, 0)
