"""Calls that an overloaded service refuses, driven step by step without any I/O."""

from types import SimpleNamespace
from typing import Any

import pytest
from eyebright_client import ResourceExhausted, Timeouts, Unavailable, _session
from eyebright_client._calls import Call, Operation, Sleep
from eyebright_client._session import ClientState, Session


def session() -> Session:
    return Session(ClientState(True, "images", Timeouts()))


def perform(operation: Operation[Any], answers: list[Any]) -> tuple[list[float], list[float], Any]:
    """The timeouts of the calls, the pauses between them, and the result; an exception among the answers is raised."""
    timeouts: list[float] = []
    pauses: list[float] = []
    try:
        step = next(operation)
        while True:
            match step:
                case Call(timeout_seconds=seconds):
                    timeouts.append(seconds)
                    answer = answers.pop(0)
                    step = operation.throw(answer) if isinstance(answer, Exception) else operation.send(answer)
                case Sleep(seconds):
                    pauses.append(seconds)
                    step = operation.send(None)
    except StopIteration as stop:
        return timeouts, pauses, stop.value


def busy(seconds: float | None) -> ResourceExhausted:
    return ResourceExhausted("full", retry_after_seconds=seconds)


@pytest.mark.parametrize("method", ["embedder", "index"])
def test_a_refusal_that_says_when_to_come_again_is_repeated_then(method: str) -> None:
    call = getattr(session(), method)("Any", None, 100.0)
    timeouts, pauses, answer = perform(call, [busy(1.0), busy(2.0), busy(0.0), "answer"])
    assert answer == "answer"
    assert 1.0 <= pauses[0] <= 1.5
    assert 2 * 2.0 <= pauses[1] <= 2 * 3.0  # twice as long for each refusal before
    assert 4 * 0.02 <= pauses[2] <= 4 * 0.03
    assert timeouts[0] == 100
    assert timeouts[1] == pytest.approx(100 - pauses[0], abs=1)


@pytest.mark.parametrize("method", ["embedder", "index"])
def test_a_service_that_has_answered_before_is_waited_for(method: str) -> None:
    """One that never has fails at once: its address may be wrong."""
    own = session()
    waits: list[bool] = []
    for through_outages in (True, True, False):
        call = getattr(own, method)("Any", None, 100.0, through_outages=through_outages)
        waits.append(next(call).wait_for_ready)
        with pytest.raises(StopIteration):
            call.send("answer")
    assert waits == [False, True, False]
    other = "index" if method == "embedder" else "embedder"
    assert not next(getattr(own, other)("Any", None, 100.0)).wait_for_ready


def test_clients_do_not_come_in_step() -> None:
    pauses = [perform(session().embedder("Any", None, 100.0), [busy(1.0), 1])[1][0] for _ in range(20)]
    assert len(set(pauses)) > 10


@pytest.mark.parametrize(
    ("error", "timeout"),
    [(busy(None), 100.0), (busy(60.0), 50.0), (Unavailable("gone", retry_after_seconds=1.0), 100.0)],
    ids=["it says nothing", "it would be too late", "another error"],
)
def test_any_other_refusal_is_raised_at_once(error: Exception, timeout: float) -> None:
    with pytest.raises(type(error)):
        perform(session().embedder("Any", None, timeout), [error])


def test_it_is_repeated_only_while_the_timeout_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(_session, "time", SimpleNamespace(monotonic=lambda: now[0]))
    operation, timeouts = session().embedder("Any", None, 40.0), []
    step: Any = next(operation)
    with pytest.raises(ResourceExhausted):
        while True:
            timeouts.append(step.timeout_seconds)
            pause: Any = operation.throw(busy(10.0))
            now[0] += pause.seconds
            step = operation.send(None)
    assert 2 <= len(timeouts) <= 3
    assert now[0] < 40
    assert timeouts[-1] == pytest.approx(40 - now[0])
