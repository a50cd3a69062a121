"""Searches that would come too late are refused before they cost anything."""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from index_service import admission
from index_service.admission import SearchAdmission
from service_runtime.errors import ResourceExhausted


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> SearchAdmission:
    """Two threads, and searches that took a tenth of a second each."""
    now = [0.0]
    monkeypatch.setattr(admission, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    made = SearchAdmission(2)

    def search(seconds: float) -> None:
        now[0] += seconds

    for _ in range(200):
        made.timed(search, 0.1)
    return made


def test_a_search_that_would_come_too_late_is_refused_and_told_when_to_come_again(busy: SearchAdmission) -> None:
    with ExitStack() as inside:
        for _ in range(9):
            inside.enter_context(busy.enter(None))
        with busy.enter(1.01):  # (9 + 1) searches of 0.1 s on two threads: 0.5 s
            pass
        with pytest.raises(
            ResourceExhausted, match=r"with 9 searching already an answer is expected in 0\.5 s"
        ) as told:
            inside.enter_context(busy.enter(0.99))
        assert told.value.retry_after_seconds == pytest.approx(0.25, rel=0.01)
    with busy.enter(0.12):
        pass


def test_who_finds_a_thread_free_is_let_in_whatever_is_expected(busy: SearchAdmission) -> None:
    with busy.enter(0.01), busy.enter(0.01), pytest.raises(ResourceExhausted), busy.enter(0.01):
        pass


def test_who_waits_for_ever_is_let_in(busy: SearchAdmission) -> None:
    with ExitStack() as inside:
        for _ in range(1_000):
            inside.enter_context(busy.enter(None))


def test_a_search_that_fails_leaves_its_place_and_its_lesson(busy: SearchAdmission) -> None:
    def fail(_: None) -> None:
        raise ValueError("broken")

    for _ in range(200):
        with pytest.raises(ValueError, match="broken"), busy.enter(0.01):
            busy.timed(fail, None)
    with ExitStack() as inside:
        for _ in range(9):
            inside.enter_context(busy.enter(0.05))  # failures take no time, so nothing is expected to wait
