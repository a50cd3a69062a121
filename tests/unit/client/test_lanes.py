"""Streams that outlive their connections, driven step by step without any I/O."""

from dataclasses import dataclass
from typing import Any

import pytest
from eyebright_client import (
    CallError,
    Cancelled,
    InternalError,
    InvalidArgument,
    ResourceExhausted,
    Timeouts,
    Unavailable,
)
from eyebright_client._calls import Finish, OpenStream, Operation, Receive, Send, Service, Sleep
from eyebright_client._lanes import Lane, Patience
from eyebright_client._session import ClientState, Session


@dataclass(frozen=True)
class Batch:
    batch_id: int


def lane(outage: float = 60.0) -> Lane[str]:
    state = ClientState(True, "images", Timeouts(outage=outage))
    return Lane(Session(state), Service.INDEX, "UpsertStream")


def perform(operation: Operation[Any], answers: list[Any]) -> tuple[list[Any], Any]:
    """The steps of an operation, told shortly, and its result. Each Receive takes the next answer, or raises it."""
    steps: list[Any] = []
    streams = iter(range(1, 100))
    try:
        step = next(operation)
        while True:
            match step:
                case OpenStream():
                    steps.append("open")
                    step = operation.send(next(streams))
                case Send(_, request):
                    steps.append(request.batch_id)
                    step = operation.send(None)
                case Receive():
                    answer = answers.pop(0)
                    step = operation.throw(answer) if isinstance(answer, Exception) else operation.send(answer)
                case Sleep(seconds):
                    steps.append("sleep")
                    assert 0 < seconds <= 5
                    step = operation.send(None)
                case Finish():
                    steps.append("finish")
                    step = operation.send(None)
    except StopIteration as stop:
        return steps, stop.value


def test_batches_are_sent_at_once_and_answered_in_order() -> None:
    writes = lane()
    assert perform(writes.send(Batch(1), "a"), [])[0] == ["open", 1]
    assert perform(writes.send(Batch(2), "b"), [])[0] == [2]
    assert perform(writes.receive(), [Batch(1)]) == ([], (Batch(1), "a"))
    assert perform(writes.receive(), [Batch(2)]) == ([], (Batch(2), "b"))
    assert not writes.pending
    assert perform(writes.finish(), [])[0] == ["finish"]


@pytest.mark.parametrize(
    "error", [Unavailable("gone"), Cancelled("stopping"), ResourceExhausted("", retry_after_seconds=1)]
)
def test_what_was_not_answered_is_sent_again_the_oldest_alone(error: CallError) -> None:
    writes = lane()
    for number in (1, 2, 3):
        perform(writes.send(Batch(number), ""), [])
    perform(writes.receive(), [Batch(1)])
    steps, _ = perform(writes.receive(), [error, error, Batch(2)])
    assert steps == ["sleep", "open", 2, "sleep", "open", 2, 3]
    assert perform(writes.receive(), [Batch(3)])[0] == []
    assert perform(writes.send(Batch(4), ""), [])[0] == [4]


@pytest.mark.parametrize("error", [InvalidArgument("no"), InternalError("no"), ResourceExhausted("message too large")])
def test_what_would_fail_again_is_raised(error: CallError) -> None:
    writes = lane()
    perform(writes.send(Batch(1), ""), [])
    with pytest.raises(type(error)):
        perform(writes.receive(), [error])


def test_an_answer_out_of_order_is_an_internal_error() -> None:
    writes = lane()
    perform(writes.send(Batch(1), ""), [])
    with pytest.raises(InternalError, match="batch 1, not 2"):
        perform(writes.receive(), [Batch(2)])


def test_patience_ends_with_the_outage() -> None:
    patience = Patience(outage_seconds=1e-9)
    perform(patience.wait(Unavailable("first")), [])
    with pytest.raises(Unavailable, match="second"):
        perform(patience.wait(Unavailable("second")), [])
    patience.answered()
    assert perform(patience.wait(Unavailable("third")), [])[0] == ["sleep"]
